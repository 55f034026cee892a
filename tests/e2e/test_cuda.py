"""On a GPU: the same models say the same, every attack is verified there, and every regime trains there and resumes."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from avrobust_core import AttackRun, Registry, attack_batch, evaluate
from avrobust_core.data.loader import Loader
from avrobust_core.data.loading import Skipped
from avrobust_core.registry.choices import configure
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.runner import carry_out
from avrobust_core.testing.oracles import make_problem
from avrobust_core.testing.subjects import Case

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SEPARATE = "{audio: {eps: 0.004}, video: {eps: 4/255}}"
REGIMES = {
    "mixup": "[mixup]",
    "cutmix": "[cutmix, specaugment]",
    "manifold": "[manifold-mixup, {use: modality-dropout, with: {probability: {audio: 0.3}}}]",
    "features": "[noisy-feature-mixup, {use: noise, with: {scale: {audio: 0.01}}}]",
    "guided": "[{use: guided-mixup, with: {warmup: 1, refresh: 2, alpha: 0.2}}]",
    "guided-encoded": "[{use: guided-mixup, with: {level: encoded, warmup: 1}}]",
    "adversarial": f"[{{use: adversarial, with: {{steps: 2, threat: {SEPARATE}}}}}]",
    "any-attack": f"[{{use: adversarial, with: {{attack: {{use: apgd, with: {{steps: 2}}}}, threat: {SEPARATE}}}}}]",
    "fast-at": f"[{{use: fast-at, with: {{threat: {SEPARATE}}}}}]",
    "free-at": f"[{{use: free-at, with: {{replays: 1, memory: true, threat: {SEPARATE}}}}}, mixup]",
    "vertex": f"[{{use: vertex-mixup, with: {{threat: {SEPARATE}}}}}, {{use: guided-weights, with: {{warmup: 1}}}}]",
    "trades": f"[{{use: trades, with: {{steps: 2, threat: {SEPARATE}}}}}]",
}
ATTACKS = """
threats:
  both: {audio: {eps: 0.01}, video: {eps: 4/255}}
  l2: {audio: {norm: l2, eps: {snr_db: 25}}, video: {norm: l2, eps: 1}}
  shared: {kind: shared, audio: {norm: l2, eps: 0.5}, video: {norm: l2, eps: 0.5}}
  sparse: {audio: {norm: l0, eps: 40}, video: {norm: l1, eps: 10}}
attacks:
  fgsm: {use: fgsm, threats: [both, l2, shared]}
  pgd: {use: pgd, with: {steps: 5}, curve: [0.5, 2]}
  apgd: {use: apgd, with: {steps: 5}, threats: [both, l2]}
  cw: {use: cw, with: {steps: 10, searches: 2}, threats: [l2]}
  fmn: {use: fmn, with: {steps: 10}, threats: [both, l2]}
  square: {use: square, with: {queries: 20}, threats: [both, l2]}
  universal: {use: universal, with: {epochs: 1}, threats: [both]}
metrics: [accuracy, density, convexity]
"""


def run(folder: Path, text: str, name: str, *overrides: str) -> tuple[dict[str, Any], Path]:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    registry = Registry.discover()
    out = folder / name
    return carry_out(load_spec(path, registry, list(overrides)), registry, out=out), out


def clean_margins(out: Path) -> np.ndarray:
    rows = pq.read_table(next(out.glob("cells/*/samples.parquet"))).to_pylist()  # type: ignore[no-untyped-call]
    return np.array([row["margin"] for row in sorted(rows, key=lambda row: row["id"]) if row["attack"] is None])


@pytest.fixture
def spec(small_spec: Callable[..., str]) -> Callable[[Mapping[str, str], str], str]:
    """From regimes' augmentations and the rest to a spec."""

    def make(training: Mapping[str, str], rest: str) -> str:
        regimes = [f"  {name}: {{epochs: 3, batch_size: 16, augment: {text}}}" for name, text in training.items()]
        lines = ["training:", *regimes, "evaluation: {resamples: 200}", rest]
        return small_spec("\n".join(lines), name="cuda", models=["concat"], size=16, frames=4)

    return make


@pytest.fixture(scope="module", autouse=True)
def _exact() -> Any:
    """Without TF32, which keeps ten bits of each factor."""
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


def test_a_model_says_the_same_on_both_and_every_attack_keeps_its_threat(tmp_path: Path, spec) -> None:
    text = spec({"standard": "[]"}, ATTACKS)
    here, fitted = run(tmp_path, text, "cpu", "engine.accelerator=cpu")
    weights = next(fitted.glob("cells/*/model.safetensors"))
    there, found = run(
        tmp_path,
        text,
        "gpu",
        "engine.accelerator=cuda",
        "training={standard: {epochs: 0, select: last}}",
        f"models={{concat: {{encoders: [audio, video], fusion: concat, weights: '{weights}'}}}}",
    )
    (one,), (two,) = here["cells"], there["cells"]
    margins = [clean_margins(out) for out in (fitted, found)]
    assert len(margins[0]) == 24
    assert np.abs(margins[0] - margins[1]).max() < 1e-3 * np.abs(margins[0]).max()
    assert one["clean_accuracy"] == two["clean_accuracy"]
    for attack, threats in one["robust_accuracy"].items():
        for threat, estimate in threats.items():
            # Two clips of 24: a gradient that is zero but for rounding has another sign on another device.
            assert abs(estimate["value"] - two["robust_accuracy"][attack][threat]["value"]) < 0.1, (attack, threat)


@pytest.mark.parametrize("name", list(REGIMES))
def test_every_regime_trains_on_a_gpu(tmp_path: Path, name: str, spec) -> None:
    result, _ = run(tmp_path, spec({name: REGIMES[name]}, "metrics: [accuracy]"), name, "engine.accelerator=cuda")
    (cell,) = result["cells"]
    assert "error" not in cell, json.dumps(cell)
    assert cell["clean_accuracy"]["value"] > 0


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_half_precision_trains_and_attacks(tmp_path: Path, precision: str, spec) -> None:
    text = spec({"free-at": REGIMES["free-at"]}, ATTACKS)
    result, _ = run(
        tmp_path,
        text,
        "half",
        "engine.accelerator=cuda",
        f"engine.precision={precision}",
        "engine.attack_precision=bf16-mixed",
        "metrics=[accuracy]",
    )
    (cell,) = result["cells"]
    assert "error" not in cell, json.dumps(cell)


def test_settings_are_chosen_by_measuring(tmp_path: Path, spec) -> None:
    text = spec({"standard": "[]"}, ATTACKS)
    auto = ("engine.channels_last=auto", "engine.attack_compile=auto", "engine.cudnn_benchmark=auto")
    chosen = ("engine.accelerator=cuda", "engine.attack_precision=bf16-mixed", "engine.batch_size=auto", *auto)
    result, out = run(tmp_path, text, "tuned", *chosen, "metrics=[accuracy]")
    assert "error" not in result["cells"][0], json.dumps(result["cells"][0])
    records = [json.loads(path.read_text()) for path in out.glob("cells/*/evaluations/*/record.json")]
    for record in records:
        assert record["batch_size"] == 256, "clips that are so small fit by hundreds"
        assert set(record["tuned"]) == {"channels_last", "compile", "cudnn_benchmark"}
        assert set(record["tuned"]["compile"]) == set(record["tuned"]["channels_last"]) == {"audio", "video"}
        assert not any("problem" in each for by_name in record["tuned"].values() for each in by_name.values())


@pytest.mark.parametrize("name", ["pgd", "apgd", "mim", "fmn"])
def test_no_step_of_an_attack_waits_for_a_gpu(name: str) -> None:
    registry = Registry.discover()
    problem = make_problem(seed=73, clips=6)
    case = Case.of(problem, problem.unbreakable("linf"))
    victim = case.victim()
    victim.model.cuda()
    batch = case.batch.to("cuda")
    found = []
    for steps in (4, 4, 14):  # the first loads libraries
        attack = configure(registry, "attack", name, {"steps": steps}).build()
        with victim.frozen(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            attack_batch(victim, batch, AttackRun(name, attack, case.threat))
            torch.cuda.set_sync_debug_mode("default")
        found.append(sum("synchroniz" in str(warning.message) for warning in caught))
    assert found[1] == found[2]
    assert found[1] > 0  # of the check, or nothing was counted


class Recurrent(torch.nn.Module):
    """Two recurrent branches with dropout between their layers, and batch normalisation."""

    def __init__(self, kind: type[torch.nn.RNNBase]) -> None:
        super().__init__()
        self.audio = kind(20, 16, num_layers=3, dropout=0.5, batch_first=True, bidirectional=True)
        self.video = kind(48, 16, num_layers=2, dropout=0.5, batch_first=True)
        self.rest = torch.nn.Sequential(torch.nn.BatchNorm1d(48), torch.nn.Dropout(0.5), torch.nn.Linear(48, 4))

    def forward(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (B, 4) of audio (B, 1, 400) and video (B, 3, 6, 4, 4)."""
        heard = self.audio(inputs["audio"].reshape(-1, 20, 20))[0][:, -1]
        seen = self.video(inputs["video"].transpose(1, 2).flatten(2))[0][:, -1]
        found: torch.Tensor = self.rest(torch.cat([heard, seen], dim=1))
        return found


@pytest.mark.parametrize("kind", [torch.nn.GRU, torch.nn.LSTM, torch.nn.RNN])
def test_recurrent_models_are_attacked_on_a_gpu_as_on_a_processor(kind: type[torch.nn.RNNBase]) -> None:
    torch.manual_seed(0)
    model = Recurrent(kind)
    audio, video = torch.rand(32, 1, 400) * 2 - 1, torch.rand(32, 3, 6, 4, 4)
    with torch.no_grad():  # statistics of these clips, so that logits spread
        for _ in range(20):
            model({"audio": audio, "video": video})
    model.eval()
    with torch.no_grad():
        targets = model({"audio": audio, "video": video}).argmax(dim=1)
    found = {}
    for device in ("cpu", "cuda"):
        model.to(device).train()
        state = {key: value.clone() for key, value in model.state_dict().items()}
        found[device] = evaluate(
            model,
            [({"audio": audio[i : i + 16], "video": video[i : i + 16]}, targets[i : i + 16]) for i in (0, 16)],
            attacks={
                "pgd": {"use": "pgd", "with": {"steps": 10, "restarts": 1}},
                "fmn": {"use": "fmn", "with": {"steps": 20}},
            },
            threats={
                "both": {"audio": {"norm": "l2", "eps": 1.0}, "video": {"norm": "l2", "eps": 1.0}},
                "video": {"video": {"norm": "l2", "eps": 1.0}},
            },
            bounds={"audio": (-1, 1), "video": (0, 1)},
        )
        assert all(module.training for module in model.modules())
        assert model.audio.dropout == model.video.dropout == 0.5
        assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    here, there = found["cpu"], found["cuda"]
    np.testing.assert_allclose(there.clean.margins, here.clean.margins, rtol=1e-3, atol=1e-3)
    robust = [each.summary["robust_accuracy"] for each in (here, there)]
    assert robust[0]["pgd"]["both"]["value"] < 1
    for attack in ("pgd", "fmn"):
        for threat in ("both", "video"):
            values = [each[attack][threat]["value"] for each in robust]
            # Two clips of 32: where gradients are small, rounding turns a step.
            assert abs(values[0] - values[1]) < 0.07, (attack, threat, values)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_for_a_gpu_are_read_into_pinned_memory(workers: int) -> None:
    from avrobust_data.configs import ToyAVConfig
    from avrobust_data.toy import ToyAV

    dataset = ToyAV(ToyAVConfig(classes=3, train=6, val=0, test=6))
    with Loader(dataset, workers=workers, pin=True) as loader:
        (batch,) = loader.batches("test", [[0, 3, 5]], Skipped(dataset))
    assert batch is not None
    assert batch.targets.is_pinned()
    assert all(x.is_pinned() for x in batch.inputs.values())
    assert torch.equal(batch.to("cuda").inputs["audio"].cpu()[1], dataset.read("test", 3).inputs["audio"])
