"""What it is for: fits that are robust where standard training is not, on clips made to tell the two apart."""

import functools

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from avrobust_core import (
    AttackRun,
    AVModel,
    Batch,
    Clip,
    Dataset,
    MediaSpec,
    Registry,
    ThreatModel,
    Victim,
    attack_batch,
)
from avrobust_core.data.loader import Loader
from avrobust_core.registry.choices import configure
from avrobust_core.training.fit import Fit
from avrobust_core.training.settings import Regime

THREAT = {"audio": {"eps": 0.3}, "video": {"eps": 0.4}}
REGIMES = {
    "standard": (12, []),
    "adversarial": (12, [("adversarial", {"threat": THREAT})]),
    "adversarial-in-turn": (12, [("adversarial", {"threats": [THREAT, {"video": THREAT["video"]}]})]),
    "fast-at": (12, [("fast-at", {"threat": THREAT})]),
    "free-at": (3, [("free-at", {"threat": THREAT, "replays": 4})]),
    "vertex-mixup": (12, [("vertex-mixup", {"threat": {"audio": {"eps": 0.45}, "video": {"eps": 0.6}}})]),
    "trades": (12, [("trades", {"threat": THREAT})]),
}


class Brittle(Dataset):
    """Two classes, told apart by one sound that no small change hides, and by 48 faint sights that one turns around.

    Both together are more accurate than the sound alone (after Tsipras et al. 2019, arXiv 1805.12152).
    """

    classes = ("a", "b")
    media = {  # noqa: RUF012
        "audio": MediaSpec(kind="audio", shape=(1, 12), bounds=(-8.0, 8.0)),
        "video": MediaSpec(kind="video", shape=(3, 4, 2, 2), bounds=(-8.0, 8.0)),
    }
    splits = ("train", "test")

    def __init__(self, task):
        self.task = task

    def ids(self, split):
        return [f"{split}-{i}" for i in range(320)]

    def read(self, split, index):
        generator = torch.Generator().manual_seed(index + 1000 * len(split))
        sign = 2 * (index % 2) - 1
        audio = torch.randn(1, 12, generator=generator) * 0.3
        audio[0, 3] += sign * (1 if torch.rand((), generator=generator) < 0.9 else -1)
        video = torch.randn(3, 4, 2, 2, generator=generator) + 0.25 * sign
        target = torch.tensor(index % 2)
        if self.task == "multi-label":
            target = nn.functional.one_hot(target, 2).float()
        return Clip(f"{split}-{index}", {"audio": audio.clamp(-8, 8), "video": video.clamp(-8, 8)}, target)

    def fingerprint(self):
        return f"brittle-{self.task}"


@pytest.fixture(scope="module")
def robust(make, network, tmp_path_factory):
    """From a regime and a task to clean accuracy, robust accuracy under PGD-20 on both, and the fit's record."""

    @functools.cache
    def fit(regime, task):
        epochs, augments = REGIMES[regime]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: AVModel = network(classes=2, sizes={"audio": 12, "video": 48})
        dataset = Brittle(task)
        record = Fit(
            Fabric(accelerator="cpu", devices=1),
            model,
            Loader(dataset),
            Regime(epochs=epochs, learning_rate=0.02, batch_size=32, select="last"),
            [make(name, **config) for name, config in augments],
            seed=0,
            folder=tmp_path_factory.mktemp(regime),
            report=lambda done, total: None,
        ).run()
        batch = Batch.stack([dataset.read("test", i) for i in range(320)])
        run = AttackRun(
            "pgd",
            configure(Registry.discover(), "attack", "pgd", {"steps": 20}).build(),
            ThreatModel.model_validate(THREAT),
        )
        victim = Victim(model, media=dataset.media, task=task)
        with victim.frozen():
            clean = ~victim.bind(batch, run.threat).fooled(victim.logits(batch.inputs))
            return clean.double(), (~attack_batch(victim, batch, run).success).double(), record

    return fit


@pytest.mark.parametrize("regime", [name for name in REGIMES if name != "standard"])
def test_it_protects_beyond_noise(robust, regime):
    clean, standard, plain = robust("standard", "single-label")
    _, found, record = robust(regime, "single-label")
    assert clean.mean() > 0.85
    gained = found - standard
    assert gained.mean() > 0.2
    assert gained.mean() - 3 * gained.std() / len(gained) ** 0.5 > 0
    each = {"adversarial": 8, "adversarial-in-turn": 8, "fast-at": 2, "free-at": 1, "vertex-mixup": 1, "trades": 13}[
        regime
    ]
    steps = REGIMES[regime][0] * 320 * {"free-at": 4}.get(regime, 1)
    assert record["clip_forwards"] == each * steps
    assert record["clip_backwards"] == (each - (regime == "trades")) * steps
    assert plain["clip_forwards"] == 12 * 320


def test_it_protects_clips_with_several_labels(robust):
    _, standard, _ = robust("standard", "multi-label")
    _, found, _ = robust("adversarial", "multi-label")
    gained = found - standard
    assert gained.mean() - 3 * gained.std() / len(gained) ** 0.5 > 0.1
