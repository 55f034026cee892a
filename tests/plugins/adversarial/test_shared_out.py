"""Adversarial training of a batch that is learned from in parts, or by several processes: as if it were whole."""

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import nn

from avrobust_core import Clip, Dataset, MediaSpec
from avrobust_core.data.loader import Loader
from avrobust_core.training import fit as training
from avrobust_core.training.fit import Fit
from avrobust_core.training.settings import Regime

# Steps of the l2 norm follow the gradient smoothly: signs would turn its last bits into whole steps.
THREAT = {"audio": {"norm": "l2", "eps": 0.4}, "video": {"norm": "l2", "eps": 0.5}}
REGIMES = {
    "free-at": {"threat": THREAT, "replays": 2, "memory": True, "bits": 16, "step_size": 0.5},
    "vertex-mixup": {"threat": THREAT, "bits": 16, "step_size": 0.5},
    "adversarial": {"threat": THREAT, "steps": 2},
    "trades": {"threat": THREAT, "steps": 2},
}


class Faint(Dataset):
    """Three classes that show in both modalities."""

    task = "single-label"
    classes = ("a", "b", "c")
    media = {  # noqa: RUF012
        "audio": MediaSpec(kind="audio", shape=(1, 12), bounds=(-8.0, 8.0)),
        "video": MediaSpec(kind="video", shape=(2, 2, 2, 2), bounds=(-8.0, 8.0)),
    }
    splits = ("train",)

    def ids(self, split):
        return [f"{split}-{i}" for i in range(36)]

    def read(self, split, index):
        generator = torch.Generator().manual_seed(index)
        inputs = {
            name: torch.randn(*spec.shape, generator=generator) + index % 3 - 1 for name, spec in self.media.items()
        }
        return Clip(f"{split}-{index}", {name: x.clamp(-8, 8) for name, x in inputs.items()}, torch.tensor(index % 3))

    def fingerprint(self):
        return "faint"


@pytest.fixture
def fit(make, network, tmp_path):
    """Fit in one regime; a batch in so many parts, by the processes of a Fabric."""

    def run(folder: str, regime: str, *, accumulate: int = 1, fabric: Fabric | None = None, report=None) -> Path:
        model = network()
        for encoder in model.encoders.values():
            encoder.net = nn.Sequential(
                *(part for part in encoder.net if not isinstance(part, nn.BatchNorm1d | nn.Dropout))
            )
        Fit(
            fabric or Fabric(accelerator="cpu", devices=1),
            model,
            Loader(Faint()),
            Regime(epochs=3, batch_size=12, accumulate=accumulate, select="last", optimizer="sgd", learning_rate=0.1),
            [make(regime, **REGIMES[regime])],
            seed=0,
            folder=tmp_path / folder,
            report=report or (lambda done, total: None),
        ).run()
        return tmp_path / folder / "last.safetensors"

    return run


def assert_same(found: Path, wanted: Path) -> None:
    ours = load_file(found)
    for name, value in load_file(wanted).items():
        torch.testing.assert_close(ours[name], value, atol=2e-5, rtol=0)


@pytest.mark.parametrize("regime", REGIMES)
def test_parts_of_a_batch_move_clips_and_weights_as_the_whole_does(fit, regime) -> None:
    assert_same(fit("parts", regime, accumulate=3), fit("whole", regime))


class _Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("regime", ["free-at", "vertex-mixup"])
def test_processes_share_what_is_kept_of_clips_also_after_a_stop(fit, regime, monkeypatch) -> None:
    """In each epoch other processes learn from a clip, and go on from what the last one kept of it."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    wanted = fit("one", regime)

    def stop(done: int, total: int) -> None:
        if done == total // 2 + 1:
            raise _Stopped

    def both(fabric: Fabric) -> None:
        fit("two", regime, fabric=fabric, accumulate=2)

    def stopped(fabric: Fabric) -> None:
        with pytest.raises(_Stopped):
            fit("stopped", regime, fabric=fabric, report=stop)

    def resumed(fabric: Fabric) -> None:
        steps: list[int] = []
        fit("stopped", regime, fabric=fabric, report=lambda done, total: steps.append(done))
        assert steps[0] > steps[-1] // 3 + 1, "the epoch is not begun anew"

    for work, processes in ((both, 2), (stopped, 2), (resumed, 3)):
        Fabric(accelerator="cpu", devices=processes, strategy="ddp_fork").launch(work)
    assert_same(wanted.parents[1] / "two" / "last.safetensors", wanted)
    assert_same(wanted.parents[1] / "stopped" / "last.safetensors", wanted)
