"""Every fault planted in a model or an attack is caught by the check that names it, with the audit's defaults."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import avrobust_core
from avrobust_core import Attack, AttackResult, Registry
from avrobust_core.audit.exact import Exact
from avrobust_core.audit.saying import verdict_lines
from avrobust_core.audit.stand_in import StraightThrough
from avrobust_core.errors import DataError, ModelError
from avrobust_core.registry.choices import configure

CLIPS = 100
BOUNDS = {"audio": (-1.0, 1.0), "video": (0.0, 1.0)}
BOTH = {"audio": {"norm": "linf", "eps": 0.15}, "video": {"norm": "linf", "eps": 0.15}}
AUDIO = {"audio": {"norm": "linf", "eps": 0.2}}
VIDEO = {"video": {"norm": "linf", "eps": 0.2}}
PGD = {"use": "avrobust:pgd", "with": {"steps": 20}}


class Sound(nn.Module):
    """Two layers over the means of four parts of the sound and of three colours: three classes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.hidden = nn.Linear(7, 24)
            self.out = nn.Linear(24, 3)

    def means(self, inputs: dict[str, Tensor]) -> Tensor:
        audio, video = inputs["audio"], inputs["video"]
        return torch.cat([audio.reshape(len(audio), 4, -1).mean(2), video.mean((2, 3, 4))], dim=1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.out(torch.tanh(self.hidden(4 * self.means(inputs))))


def clips(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Clips whose class is heard in one of four parts and seen in one of three colours."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 3, (count,), generator=generator)
    audio = 0.1 * torch.randn(count, 1, 200, generator=generator)
    video = 0.3 * torch.rand(count, 3, 4, 8, 8, generator=generator)
    strength = 0.1 + 0.4 * torch.rand(2, count, generator=generator)
    for i, target in enumerate(targets.tolist()):
        audio[i, 0, target * 50 : (target + 1) * 50] += strength[0, i]
        video[i, target] += strength[1, i]
    return {"audio": audio.clamp(-1, 1), "video": video.clamp(0, 1)}, targets


@pytest.fixture(scope="module")
def sound() -> Sound:
    model = Sound()
    inputs, targets = clips(400, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    features = model.means(inputs)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model.out(torch.tanh(model.hidden(4 * features))), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


class Around(nn.Module):
    """A model with something before it, or after it."""

    def __init__(
        self,
        model: nn.Module,
        before: Callable[[str, Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.before = before or (lambda name, x: x)
        self.after = after or (lambda logits: logits)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.after(self.model({name: self.before(name, x) for name, x in inputs.items()}))


def only(modality: str, change: Callable[[Tensor], Tensor]) -> Callable[[str, Tensor], Tensor]:
    """A change of one modality."""
    return lambda name, x: change(x) if name == modality else x


def left_torch(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy().copy())


class Nothing(Attack):
    """Returns the clean clips; asks the model `queries` times before."""

    norms = frozenset({"linf"})

    def __init__(self, queries: int) -> None:
        self.queries = queries

    def __call__(self, victim):
        fooled = torch.zeros(len(victim), dtype=torch.bool)
        for _ in range(self.queries):
            fooled = victim.fooled(victim(victim.clean))
        return AttackResult(dict(victim.clean), fooled)


class Forgetful(Attack):
    """PGD that returns the clean clips, whatever it has found."""

    norms = frozenset({"linf"})

    def __init__(self) -> None:
        self.pgd = configure(Registry.discover(), "attack", "avrobust:pgd", {"steps": 20}).build()

    def __call__(self, victim):
        self.pgd(victim)
        return AttackResult(dict(victim.clean), torch.zeros(len(victim), dtype=torch.bool))


class Stuck(Attack):
    """PGD whose switch for the sound is stuck: it never returns another than the clean one."""

    norms = frozenset({"linf"})

    def __init__(self) -> None:
        self.pgd = configure(Registry.discover(), "attack", "avrobust:pgd", {"steps": 20}).build()

    def __call__(self, victim):
        found = {**self.pgd(victim).inputs, "audio": victim.clean["audio"]}
        return AttackResult(found, victim.fooled(victim(found)))


class Short(Attack):
    """Two gradient steps of a twentieth of the radius."""

    norms = frozenset({"linf"})

    def __call__(self, victim):
        x = dict(victim.clean)
        for _ in range(2):
            leaves = {name: each.detach().requires_grad_() for name, each in x.items()}
            with torch.enable_grad():
                loss = victim.loss(victim(leaves)).sum()
            gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
            x = victim.region.project(victim.region.step(x, gradients, 0.05))
        return AttackResult(x, victim.fooled(victim(x)))


def judged(model: nn.Module, attack: Any = PGD, threats: Any = None, **options: Any) -> dict[str, Any]:
    """What the audit says of a model under an attack, on a hundred clips."""
    inputs, targets = clips(CLIPS, seed=0)
    loader = [({name: x[i : i + 50] for name, x in inputs.items()}, targets[i : i + 50]) for i in range(0, CLIPS, 50)]
    found = avrobust_core.evaluate(
        model, loader, attacks={"attack": attack}, threats=threats or {"both": BOTH}, bounds=BOUNDS, **options
    )
    return found.summary


def judged_in_two_lengths(model: nn.Module) -> dict[str, Any]:
    """The same of the hundred clips in batches of 20, of which the second and the fourth are a fifth shorter."""
    inputs, targets = clips(CLIPS, seed=0)
    loader = []
    for start in range(0, CLIPS, 20):
        audio = inputs["audio"][start : start + 20]
        if start % 40:
            audio = audio.reshape(20, 4, 50)[..., :40].reshape(20, 1, 160)
        loader.append(({"audio": audio, "video": inputs["video"][start : start + 20]}, targets[start : start + 20]))
    return avrobust_core.evaluate(model, loader, attacks={"attack": PGD}, threats={"both": BOTH}, bounds=BOUNDS).summary


def failed(summary: dict[str, Any]) -> dict[str, set[str | None]]:
    """The checks that failed, with the modalities that they name."""
    found: dict[str, set[str | None]] = {}
    for check in summary["audit"]["checks"]:
        if check["status"] == "failed":
            found.setdefault(check["check"], set()).add(check["modality"])
    return found


VICTIMS: dict[str, tuple[Callable[[nn.Module], nn.Module], str, str | None]] = {
    "inputs in steps of 1/16": (lambda m: Around(m, lambda name, x: (16 * x).round() / 16), "zero-gradient", "audio"),
    "a saturated softmax": (lambda m: Around(m, after=lambda z: (60 * z).softmax(1)), "saturation", None),
    "a detached branch": (lambda m: Around(m, only("audio", lambda x: x.detach())), "zero-gradient", "audio"),
    "a branch without gradients": (lambda m: Around(m, only("video", lambda x: x.data)), "zero-gradient", "video"),
    "a front end in numpy": (lambda m: Around(m, only("audio", left_torch)), "zero-gradient", "audio"),
    "a modality that is ignored": (lambda m: Around(m, only("audio", torch.zeros_like)), "modality-use", "audio"),
    "probabilities": (lambda m: Around(m, after=lambda z: z.softmax(1)), "probabilities", None),
    "permuted classes": (lambda m: Around(m, after=lambda z: z[:, [1, 2, 0]]), "class-order", None),
    "two classes in each other's place": (lambda m: Around(m, after=lambda z: z[:, [1, 0, 2]]), "class-order", None),
}


def test_a_sound_model_passes(sound: Sound) -> None:
    summary = judged(sound, threats={"both": BOTH, "audio": AUDIO, "video": VIDEO})
    assert failed(summary) == {}
    assert summary["audit"]["verdict"] == "passed"
    assert not summary["audit"]["contradictions"]
    assert not summary["caveats"]
    assert 0.1 < summary["robust_accuracy"]["attack"]["both"]["value"] < 0.9, "else there is nothing to probe"


def test_of_clips_of_several_shapes_those_of_the_commonest_are_looked_at(sound: Sound) -> None:
    summary = judged_in_two_lengths(sound)
    assert (summary["audit"]["verdict"], summary["audit"]["left_out"], failed(summary)) == ("passed", 40, {})
    wrong = judged_in_two_lengths(Around(sound, only("audio", lambda x: x.detach())))
    assert failed(wrong)["zero-gradient"] == {"audio"}
    longer = {str(i) for i in range(CLIPS) if i // 20 % 2 == 0}
    for check in wrong["audit"]["checks"]:
        assert check["check"] == "zero-gradient" or longer >= set(check["clips"]), check
    assert "audit: 40 clips of other shapes than most were not looked at" in [*verdict_lines(wrong["audit"])]


@pytest.mark.parametrize("name", VICTIMS)
def test_a_planted_fault_is_caught_by_name(sound: Sound, name: str) -> None:
    plant, check, modality = VICTIMS[name]
    summary = judged(plant(sound))
    assert modality in failed(summary).get(check, set()), failed(summary)
    assert summary["audit"]["verdict"] == "failed"
    assert any(caveat["check"] == check for caveat in summary["caveats"])
    assert summary["audit"]["passes"] <= 0.25 * summary["audit"]["attack_passes"]


@pytest.mark.parametrize("name", ["inputs in steps of 1/16", "a saturated softmax", "a detached branch"])
def test_what_hides_gradients_is_contradicted_by_a_stand_in_for_it(sound: Sound, name: str) -> None:
    plant, check, _ = VICTIMS[name]
    (found,) = judged(plant(sound))["audit"]["contradictions"]
    truth = judged(sound)["robust_accuracy"]["attack"]["both"]["value"]
    assert found["probe"] == check
    assert found["at_most"] < found["low"] < found["robust_accuracy"]
    assert truth <= found["at_most"], "what is called certain must be true of the model without the fault"


@pytest.mark.parametrize("attack", [Nothing(0), Nothing(1), Nothing(20), Forgetful()])
def test_an_attack_that_does_nothing_is_caught(sound: Sound, attack: Attack) -> None:
    assert "inert-attack" in failed(judged(sound, attack))


@pytest.mark.parametrize("attack", [{"use": "avrobust:noise", "with": {"draws": 20}}, PGD])
def test_an_attack_that_breaks_nothing_is_not_taken_for_one_that_does_nothing(sound: Sound, attack: Any) -> None:
    threats = {"small": {name: {"norm": "linf", "eps": 0.01} for name in ("audio", "video")}}
    summary = judged(sound, attack, threats)
    assert summary["attack_success_rate"]["attack"]["small"]["value"] == 0
    assert failed(summary) == {}


def test_a_switch_without_effect_is_caught_under_every_threat_that_it_belongs_to(sound: Sound) -> None:
    summary = judged(sound, Stuck(), threats={"both": AUDIO | VIDEO, "audio": AUDIO})
    caught = {
        check["threat"]
        for check in summary["audit"]["checks"]
        if check["check"] == "inert-switch" and check["status"] == "failed"
    }
    assert caught == {"both", "audio"}


def test_an_attack_that_has_not_converged_is_caught_and_contradicted(sound: Sound) -> None:
    summary = judged(sound, Short())
    assert "convergence" in failed(summary)
    assert summary["audit"]["contradictions"][0]["probe"] in ("convergence", "single-step")


def test_a_random_transform_is_refused_at_the_border(sound: Sound) -> None:
    with pytest.raises(ModelError, match="randomness of its own"):
        judged(Around(sound, lambda _, x: x + 0.05 * torch.randn_like(x)))


def test_a_loader_that_shuffles_is_refused_at_the_border(sound: Sound) -> None:
    inputs, targets = clips(CLIPS, seed=0)
    data = torch.utils.data.TensorDataset(inputs["audio"], inputs["video"], targets)

    def collate(rows: list[tuple[Tensor, ...]]) -> tuple[dict[str, Tensor], Tensor]:
        audio, video, labels = (torch.stack(column) for column in zip(*rows, strict=True))
        return {"audio": audio, "video": video}, labels

    loader = torch.utils.data.DataLoader(data, batch_size=25, shuffle=True, collate_fn=collate)
    with pytest.raises(DataError, match="shuffle=False"):
        avrobust_core.evaluate(sound, loader, attacks={"attack": PGD}, threats={"both": BOTH}, bounds=BOUNDS)


def test_the_audit_can_be_switched_off_and_bounded(sound: Sound) -> None:
    summary = judged(sound, audit="off")
    assert summary["audit"] == {"verdict": "off"}
    small = judged(sound, audit={"clips": 2, "share": 0.02})["audit"]
    assert small["passes"] <= 0.02 * small["attack_passes"]
    assert any("budget" in check["message"] for check in small["checks"] if check["status"] == "not applicable")


def test_a_failure_of_the_audit_itself_loses_no_result(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("avrobust_core.audit.auditing.behaviour", fails)
    summary = judged(sound)
    assert summary["audit"] == {"verdict": "not done", "reason": "RuntimeError: planted"}
    assert summary["robust_accuracy"]["attack"]["both"]["n"] == CLIPS


class FlippedHalf(torch.autograd.Function):
    """The identity, whose backward pass has the wrong sign for half of the samples."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        wrong = gradient.clone()
        wrong[..., ::2] *= -1
        return wrong


def test_a_gradient_that_is_no_derivative_is_caught(sound: Sound) -> None:
    caught = failed(judged(Around(sound, only("audio", FlippedHalf.apply))))
    assert caught.get("gradient-truth") == {"audio"}


def test_true_gradients_cost_few_passes_in_float64(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Counted(Exact):
        def logits(self, inputs: Any, features: Any) -> Tensor:
            asked.append(len(inputs["audio"]))
            return super().logits(inputs, features)

    monkeypatch.setattr("avrobust_core.audit.auditing.Exact", Counted)
    (truth,) = [c for c in judged(sound, threats={"audio": AUDIO})["audit"]["checks"] if c["check"] == "gradient-truth"]
    assert truth["status"] == "passed"
    assert sum(asked) <= truth["figures"]["clips"], "two for each clip, if all were in float64"


def test_a_model_that_runs_in_float32_alone_is_judged_in_float32(sound: Sound) -> None:
    assert failed(judged(Around(sound, lambda _, x: x.float()))) == {}
    flipped = only("audio", FlippedHalf.apply)
    summary = judged(Around(sound, lambda name, x: flipped(name, x.float())))
    assert failed(summary).get("gradient-truth") == {"audio"}
    (caveat,) = [caveat for caveat in summary["caveats"] if caveat["check"] == "gradient-truth"]
    assert "differences in float32, in which alone the model runs" in caveat["message"]


def test_a_model_that_runs_in_float32_alone_is_given_whole_numbers_as_they_are() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(5, 3), nn.Linear(4, 3)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.out(inputs["audio"]).float() + self.words(inputs["words"]).float()

    exact = Exact(Words())
    assert exact.logits({"audio": torch.rand(2, 4), "words": torch.tensor([1, 4])}, ()).dtype == torch.float32
    assert not exact.double


def test_a_random_model_that_stands_as_a_mean_of_draws_raises_no_alarm(sound: Sound) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = Around(sound, lambda _, x: x + 0.02 * torch.randn(x.shape, generator=generator))
    summary = judged(noisy, samples=4)
    assert failed(summary) == {}
    (randomness,) = [check for check in summary["audit"]["checks"] if check["check"] == "randomness"]
    assert "mean of 4 draws" in randomness["message"]
    assert summary["audit"]["passes"] <= 0.25 * summary["audit"]["attack_passes"]


def test_perturbations_that_no_file_can_hold_are_told(sound: Sound) -> None:
    """A model that hears differences of a millionth: what breaks it is gone once the sound is 16 bits wide."""
    inputs, targets = clips(CLIPS, seed=0)
    coarse = {
        "audio": (inputs["audio"] * 2**15).round().clamp(-(2**15), 2**15) / 2**15,
        "video": (inputs["video"] * 255).round() / 255,
    }
    # Between two values that a file can hold, a wave moves the outputs as far as the classes are apart.
    fine = Around(sound, only("audio", lambda x: x + 0.4 * torch.sin(2 * torch.pi * x * 2**15)))
    found = avrobust_core.evaluate(
        fine,
        [(coarse, targets)],
        attacks={"attack": PGD},
        threats={"audio": {"audio": {"norm": "linf", "eps": 1e-5}}},
        bounds=BOUNDS,
        audit={"share": 1},  # nearly every clip is broken at once: a quarter of so little does not reach for it
    )
    assert failed(found.summary).get("rounding") == {None}


@pytest.mark.parametrize(
    "step",
    [
        lambda x: (16 * x).round() / 16,
        lambda x: torch.floor(16 * x) / 16,
        lambda x: x // 0.1,
        lambda x: x.sign(),
        lambda x: x.detach() * 2,
        lambda x: x.data * 2,
        torch.no_grad()(lambda x: 2 * x),
    ],
)
def test_a_stand_in_changes_gradients_and_no_output(step: Callable[[Tensor], Tensor]) -> None:
    x = torch.linspace(-1, 1, 9, requires_grad=True)
    with StraightThrough():
        found = step(x)
    assert torch.allclose(found, step(x.detach()), atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert (gradient > 0).all()
    assert torch.is_grad_enabled()
