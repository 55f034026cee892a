"""What each corruption does to sound: from (B, C, T) in [-1, 1] to the same, before it is cut at full scale.

No recording is used: weather and people are synthesised, and are approximations of our own.
"""

import math

import torch
from torch import Tensor

from avrobust_corruptions.scene import BEATS, Scene
from avrobust_corruptions.signals import bursts, filtered, mixed, tones, white

SNR = (20.0, 15.0, 10.0, 5.0, 0.0)
"""Decibels of the clip over what is added, by severity: our own choice."""


def gaussian(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """White noise."""
    return mixed(x, white(scene.draws("noise"), x.shape[2]), scene.pick(SNR), own)


def impulse(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Single samples at full scale."""
    del own
    draws = scene.draws("noise")
    hit = draws.uniform(1, x.shape[2]) < scene.pick((0.002, 0.005, 0.01, 0.03, 0.08))
    return torch.where(hit, torch.where(draws.uniform(1, x.shape[2]) < 0.5, -1.0, 1.0), x)


def shot(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Noise whose variance grows with the amplitude, as that of counted quanta does (normal, for a Poisson's)."""
    del own
    spread = (x.abs() / scene.pick((3000.0, 1000.0, 300.0, 100.0, 30.0))).sqrt()
    return x + spread * white(scene.draws("noise"), x.shape[2])


def speckle(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Noise in proportion to the amplitude."""
    del own
    return x * (1 + scene.pick((0.15, 0.2, 0.35, 0.45, 0.6)) * white(scene.draws("noise"), x.shape[2]))


def compression(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """A narrow band and few levels (mu-law, ITU-T G.711 with fewer bits), as of a poor line."""
    del own
    narrow = filtered(x, scene.rate, high=scene.rate / 2 * scene.pick((0.8, 0.6, 0.4, 0.25, 0.15)))
    half, mu = 2 ** (scene.pick((8, 7, 6, 5, 4)) - 1) - 1, 255.0
    code = torch.sign(narrow) * torch.log1p(mu * narrow.abs().clamp(max=1)) / math.log1p(mu)
    level = (code * half).round() / half
    return torch.sign(level) * torch.expm1(level.abs() * math.log1p(mu)) / mu


def snow(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Dulled as by a cover of snow, under steps that crunch."""
    steps = x.shape[2]
    dull = filtered(x, scene.rate, high=scene.pick((6000, 4500, 3000, 2000, 1200)), order=1)
    crunch = filtered(bursts(scene.draws("steps"), steps, scene.rate, 2.0, 0.08, scene.at(steps)), scene.rate, 400)
    hush = 0.05 * white(scene.draws("hush"), steps)
    return mixed(dull, crunch + hush, scene.pick(SNR) + 3, own)


def frost(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Ice that cracks: rare, short and bright, over a thin wind."""
    steps = x.shape[2]
    cracks = bursts(scene.draws("cracks"), steps, scene.rate, 6.0, 0.006, scene.at(steps))
    thin = 0.03 * white(scene.draws("wind"), steps)
    return mixed(x, filtered(cracks + thin, scene.rate, scene.rate / 8), scene.pick(SNR), own)


def spatter(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Splashes on the microphone, more as the picture fills with them."""
    steps = x.shape[2]
    splashes = bursts(scene.draws("splashes"), steps, scene.rate, 5.0, 0.04, scene.at(steps))
    drip = 0.02 * white(scene.draws("drip"), steps)
    return mixed(x, filtered(splashes + drip, scene.rate, 80, 2500), scene.pick(SNR), own)


def wind(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Rumble that swells with the gusts."""
    steps = x.shape[2]
    rumble = filtered(white(scene.draws("rumble"), steps), scene.rate, high=250, order=1)
    return mixed(x, rumble * scene.at(steps).square().unsqueeze(1), scene.pick(SNR), own)


def rain(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """A hiss, and drops that fall close by."""
    steps = x.shape[2]
    drops = bursts(scene.draws("drops"), steps, scene.rate, 60.0, 0.004, scene.at(steps))
    hiss = 0.3 * white(scene.draws("hiss"), steps) * (0.5 + 0.5 * scene.at(steps)).unsqueeze(1)
    return mixed(x, filtered(drops + hiss, scene.rate, 500), scene.pick(SNR), own)


def underwater(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Only what is low comes through, among bubbles."""
    steps = x.shape[2]
    low = filtered(x, scene.rate, high=scene.pick((3000, 2000, 1200, 800, 500)))
    bubbles = filtered(bursts(scene.draws("bubbles"), steps, scene.rate, 12.0, 0.03, scene.at(steps)), scene.rate, 300)
    return mixed(low, filtered(bubbles, scene.rate, high=900), scene.pick(SNR) + 5, own)


def concert(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """A chord and a drum, on the beat of the lights."""
    steps, draws = x.shape[2], scene.draws("music")
    root = 110 * 2 ** (draws.uniform(1) * 12).floor().div(12)
    pitches = root * root.new_tensor([1.0, 1.5, 2.0, 2.52, 3.0, 4.0])
    chord = tones(steps, scene.rate, pitches, draws.uniform(6)) * (0.5 + scene.at(steps)).unsqueeze(1)
    beat = scene.beat(steps, BEATS).unsqueeze(1)
    drum = filtered(white(scene.draws("drum"), steps), scene.rate, high=200, order=1) * beat.square()
    return mixed(x, chord / 3 + 4 * drum, scene.pick(SNR) - 3, own)


def smoke(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Fire that crackles, and an alarm that beeps (3.1 kHz, or as high as the rate lets it be)."""
    steps = x.shape[2]
    fire = bursts(scene.draws("fire"), steps, scene.rate, 20.0, 0.003, scene.at(steps))
    roar = 0.3 * filtered(white(scene.draws("roar"), steps), scene.rate, high=300, order=1)
    hertz = torch.full((len(x), 1), min(3100.0, 0.4 * scene.rate), device=x.device)
    alarm = 0.2 * tones(steps, scene.rate, hertz, torch.zeros_like(hertz)) * (scene.beat(steps, 6) > 0.25).unsqueeze(1)
    return mixed(x, fire + roar + alarm, scene.pick(SNR), own)


def crowd(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """Babble: eight voices, each noise in the band of speech, at the pace of syllables."""
    steps = x.shape[2]
    syllables = max(2, round(4 * steps / scene.rate))
    babble = torch.zeros(len(x), 1, steps, device=x.device)
    for voice in range(8):
        draws = scene.draws(f"voice-{voice}")
        pace = torch.nn.functional.interpolate(draws.uniform(1, syllables), size=steps, mode="linear")
        babble += (
            filtered(white(draws, steps), scene.rate, 150 + 40 * voice, 900 + 300 * voice, order=2) * pace.square()
        )
    return mixed(x, babble * (0.3 + scene.at(steps)).unsqueeze(1), scene.pick(SNR), own)


def interference(x: Tensor, scene: Scene, own: Tensor | None) -> Tensor:
    """The hum of the mains and the buzz of a telephone, with gaps where they are strongest."""
    steps, course = x.shape[2], scene.at(x.shape[2]).unsqueeze(1)
    hertz = torch.tensor([50.0, 100.0, 150.0, 217.0, 434.0, 868.0], device=x.device).expand(len(x), -1)
    hum = tones(steps, scene.rate, hertz, scene.draws("hum").uniform(6))
    gap = course > 1 - scene.pick((0.1, 0.15, 0.2, 0.25, 0.3))
    heard = torch.where(gap, 0, x)
    return heard + (mixed(x, torch.sign(hum) * hum.abs().sqrt() * course, scene.pick(SNR), own) - x)
