"""What each corruption does to pictures: from (B, C, T, H, W) in [0, 1] to the same, before it is cut at the bounds.

The strengths of noise are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", 2019 (arXiv 1903.12261); all else is drawn, no photograph is used, and is an
approximation of our own.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from avrobust_corruptions.canvas import blocks_quantised, blurred, clouds, colour, falling, field, framed, over, smeared
from avrobust_corruptions.scene import BEATS, Scene


def gaussian(x: Tensor, scene: Scene) -> Tensor:
    """Normal noise of each sample."""
    return x + scene.pick((0.08, 0.12, 0.18, 0.26, 0.38)) * scene.draws("noise").noise(x.shape[1:], "gaussian")


def impulse(x: Tensor, scene: Scene) -> Tensor:
    """Salt and pepper: samples at either bound."""
    draws = scene.draws("noise")
    hit = draws.uniform(*x.shape[1:]) < scene.pick((0.03, 0.06, 0.09, 0.17, 0.27))
    return torch.where(hit, (draws.uniform(*x.shape[1:]) < 0.5).to(x.dtype), x)


def shot(x: Tensor, scene: Scene) -> Tensor:
    """Noise of counted light, its variance in proportion to the light (normal, for a Poisson's)."""
    spread = (x.clamp(min=0) / scene.pick((60.0, 25.0, 12.0, 5.0, 3.0))).sqrt()
    return x + spread * scene.draws("noise").noise(x.shape[1:], "gaussian")


def speckle(x: Tensor, scene: Scene) -> Tensor:
    """Noise in proportion to the light."""
    share = scene.pick((0.15, 0.2, 0.35, 0.45, 0.6))
    return x * (1 + share * scene.draws("noise").noise(x.shape[1:], "gaussian"))


def compression(x: Tensor, scene: Scene) -> Tensor:
    """Blocks, as of a picture that was kept small."""
    return blocks_quantised(x, scene.pick((8, 16, 28, 44, 64)))


def snow(x: Tensor, scene: Scene) -> Tensor:
    """Flakes that drift down over a picture that pales."""
    size = max(1, min(x.shape[3], x.shape[4]) // 24)
    shape = [-(-side // size) for side in x.shape[3:]]
    flakes = (scene.draws("flakes").uniform(1, *shape) < scene.pick((0.03, 0.06, 0.1, 0.15, 0.22))).to(x.dtype)
    plane = F.interpolate(flakes, size=x.shape[3:], mode="bilinear", align_corners=False)
    white = scene.pick((0.1, 0.15, 0.25, 0.35, 0.45))
    return over(over(x, colour(x, (0.9, 0.92, 0.95)), x.new_tensor(white)), x.new_ones(()), falling(plane, *_way(x)))


def frost(x: Tensor, scene: Scene) -> Tensor:
    """Ice that grows over the lens from its rim, and stays where it is."""
    draws = scene.draws("ice")
    ridges = 1 - (2 * clouds(draws, x[:, :, :1], 1) - 1).abs() * 3
    rim = _distance(x)
    ice = (ridges.clamp(0, 1) * (0.4 + rim)).clamp(0, 1) * scene.pick((0.35, 0.5, 0.65, 0.8, 0.95))
    return over(x, colour(x, (0.8, 0.88, 0.95)), ice)


def spatter(x: Tensor, scene: Scene) -> Tensor:
    """Drops on the lens, more and more of them, which blur and darken what is behind."""
    drops = field(scene.draws("drops"), x[:, :, :1], 12, 1)
    so_far = scene.at(x.shape[2]).cumsum(dim=1)
    share = scene.pick((0.25, 0.32, 0.4, 0.5, 0.62)) * (0.5 + 0.5 * so_far / so_far[:, -1:].clamp(min=1e-6))
    wet = ((framed(share) - (1 - drops) * 0.9) * 8).clamp(0, 1)
    return over(x, 0.6 * blurred(x, 0.1) + colour(x, (0.1, 0.08, 0.05)), wet)


def wind(x: Tensor, scene: Scene) -> Tensor:
    """A camera that shakes with the gusts: frames blurred along the width."""
    gust = framed(scene.at(x.shape[2]).sqrt())
    length = round(scene.pick((0.08, 0.14, 0.2, 0.28, 0.4)) * x.shape[4]) + 1
    return over(x, smeared(smeared(x, length, 4), length // 3, 3), gust)


def rain(x: Tensor, scene: Scene) -> Tensor:
    """Streaks, in a darker light."""
    drops = (scene.draws("drops").uniform(1, *x.shape[3:]) < scene.pick((0.01, 0.02, 0.03, 0.05, 0.08))).to(x.dtype)
    length = max(3, x.shape[3] // 8)
    streaks = smeared(drops.unsqueeze(2), length, 3).squeeze(2) * length / 2
    dark = scene.pick((0.9, 0.82, 0.74, 0.66, 0.58))
    frames, _, across = _way(x)
    strength = 0.5 + 0.5 * framed(scene.at(frames))
    return over(dark * x, colour(x, (0.75, 0.78, 0.85)), 0.8 * falling(streaks, frames, 0.31, across) * strength)


def underwater(x: Tensor, scene: Scene) -> Tensor:
    """Blue and green, dim, soft, and in waves."""
    _, _, frames, height, width = x.shape
    reach = scene.pick((0.01, 0.02, 0.03, 0.045, 0.06)) * 2
    wave = reach * torch.sin(
        2 * math.pi * (torch.arange(height, device=x.device) / height * 3 + scene.at(frames)[:, :, None] * 2)
    )
    rows, columns = (
        torch.linspace(-1, 1, side, device=x.device) if side > 1 else x.new_zeros(1) for side in (height, width)
    )
    across = columns + wave.flatten(0, 1)[:, :, None]
    grid = torch.stack((across, rows[:, None].expand_as(across)), dim=3)
    still = x.transpose(1, 2).flatten(0, 1)
    moved = F.grid_sample(still, grid, padding_mode="border", align_corners=True)
    moved = moved.view(len(x), frames, -1, height, width).transpose(1, 2)
    deep = scene.pick((0.2, 0.35, 0.5, 0.65, 0.8))
    water = colour(x, (0.05, 0.35, 0.45))
    return over(blurred(moved, 0.02 + 0.04 * deep), water, x.new_tensor(deep))


def concert(x: Tensor, scene: Scene) -> Tensor:
    """A dark hall, and coloured lights on the beat."""
    dark = scene.pick((0.8, 0.65, 0.5, 0.38, 0.28))
    hue = scene.draws("lights").uniform(3)[:, :, None, None, None] if x.shape[1] == 3 else 0.6
    light = field(scene.draws("beams"), x, 3, max(2, x.shape[2] // 2)) * framed(scene.beat(x.shape[2], BEATS))
    return dark * x + scene.pick((0.3, 0.45, 0.6, 0.8, 1.0)) * light * hue


def smoke(x: Tensor, scene: Scene) -> Tensor:
    """Grey clouds that drift and thicken."""
    thick = scene.pick((0.35, 0.5, 0.65, 0.78, 0.9))
    grey = clouds(scene.draws("smoke"), x, max(2, x.shape[2] // 3)) * (0.7 + 0.6 * framed(scene.at(x.shape[2])))
    return over(x, colour(x, (0.6, 0.6, 0.62)), thick * (0.4 + grey))


def crowd(x: Tensor, scene: Scene) -> Tensor:
    """Heads before the lower part of the picture, which bob."""
    _, _, frames, height, width = x.shape
    heads, draws = 5, scene.draws("heads")
    middle = (torch.arange(heads, device=x.device) + draws.uniform(heads)) / heads
    top = 1 - scene.pick((0.15, 0.25, 0.35, 0.45, 0.6)) * (0.7 + 0.3 * draws.uniform(heads))
    rows = ((torch.arange(height, device=x.device) + 0.5) / height).view(1, 1, height, 1)
    columns = ((torch.arange(width, device=x.device) + 0.5) / width).view(1, 1, 1, width)
    bob = 0.06 * scene.at(frames)[:, :, None, None]
    hidden = torch.zeros(len(x), frames, height, width, device=x.device, dtype=torch.bool)
    for head in range(heads):
        at, crown = (each[:, head].view(-1, 1, 1, 1) for each in (middle, top))
        down = rows - crown + bob
        # A round head of the size of a tenth of the picture, on shoulders as far down as the picture reaches.
        hidden |= ((columns - at) ** 2 + (down - 0.1) ** 2 < 0.1**2) | (((columns - at).abs() < 0.14) & (down > 0.2))
    return torch.where(hidden.unsqueeze(1), 0.06 + 0.1 * x, x)


def interference(x: Tensor, scene: Scene) -> Tensor:
    """Bars of noise and rows out of place, where the course is strongest; colours that part."""
    _, channels, frames, height, width = x.shape
    draws = scene.draws("bars")
    bars = F.interpolate(draws.uniform(frames, min(24, height), 1), size=(height, 1), mode="nearest").unsqueeze(1)
    share = scene.pick((0.1, 0.2, 0.3, 0.42, 0.55)) * (0.6 + 0.8 * framed(scene.at(frames)))
    shift = max(1, round(scene.pick((0.02, 0.04, 0.06, 0.09, 0.12)) * width))
    parted = torch.cat([x[:, :1], torch.roll(x[:, 1:], shift, dims=4)], dim=1) if channels > 1 else x
    torn = torch.where(bars < share, torch.roll(parted, 3 * shift, dims=4), parted)
    snowy = draws.uniform(1, frames, height, width)
    return torch.where(bars < share / 2, snowy, torn)


def _way(x: Tensor) -> tuple[int, float, float]:
    """Of flakes: frames, and the shares of height and width from frame to frame."""
    return x.shape[2], 0.07, 0.02


def _distance(x: Tensor) -> Tensor:
    """0 in the middle of the picture, 1 in its corners: (1, 1, 1, H, W)."""
    rows, columns = (2 * (torch.arange(side, device=x.device) + 0.5) / side - 1 for side in x.shape[3:])
    return ((rows[:, None] ** 2 + columns[None, :] ** 2) / 2).clamp(max=1)[None, None, None]
