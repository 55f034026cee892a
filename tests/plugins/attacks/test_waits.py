"""Attacks on a device: the host waits for it in no step, and seldom beside them; results are those of the CPU."""

import pytest
import torch

from avrobust_core import AttackRun, Registry, attack_batch
from avrobust_core.registry.choices import configure
from avrobust_core.testing.elsewhere import ELSEWHERE, elsewhere
from avrobust_core.testing.oracles import make_problem
from avrobust_core.testing.subjects import Case

SHAPES = {"audio": (1, 16), "video": (2, 2, 3, 3)}
BOTH = ("audio", "video")

SEARCHES = {"searches": 1, "lead": 0}
ATTACKS = [
    ("pgd", "linf", {}),
    ("apgd", "l2", {}),
    ("mim", "linf", {}),
    ("cw", "l2", SEARCHES),
    ("fmn", "linf", {}),
    ("square", "linf", {}),
    ("noise", "linf", {}),
]
LENGTH = {"square": "queries", "noise": "draws"}


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def run(registry: Registry, name: str, norm: str, *, steps: int, share: float | None, device: torch.device, **fields):
    """The batch after an attack, and the waits; with a share of None no clip can be broken."""
    problem = make_problem(SHAPES, seed=73, clips=6)
    threat = problem.unbreakable(norm) if share is None else problem.threat(BOTH, norm, share=share)
    case = Case.of(problem, threat)
    attack = configure(registry, "attack", name, {LENGTH.get(name, "steps"): steps, **fields}).build()
    with elsewhere() as waits:
        victim = case.victim()
        victim.model.to(device)
        batch = case.batch.to(device)
        waits.clear()
        with victim.frozen():
            found = attack_batch(victim, batch, AttackRun(name, attack, case.threat))
        during = list(waits)
        return {name: x.cpu() for name, x in found.inputs.items()}, found.success.cpu(), during


@pytest.mark.parametrize(("name", "norm", "fields"), ATTACKS)
def test_no_step_waits_for_the_device(registry: Registry, name: str, norm: str, fields: dict[str, object]) -> None:
    few, many = (run(registry, name, norm, steps=steps, share=None, device=ELSEWHERE, **fields)[2] for steps in (4, 14))
    # The searches of cw ask every fifth step which clips are done.
    allowed = 2 if name == "cw" else 0
    assert len(many) - len(few) <= allowed, sorted(set(many))


def test_no_batch_of_what_universal_prepares_from_is_waited_for(registry: Registry) -> None:
    problem = make_problem(SHAPES, seed=73, clips=6)
    counts = []
    for epochs in (2, 6):
        attack = configure(registry, "attack", "universal", {"epochs": epochs}).build()
        case = Case.of(problem, problem.unbreakable("linf"))
        with elsewhere() as waits:
            victim = case.victim()
            victim.model.to(ELSEWHERE)
            with victim.frozen():
                bound = victim.bind(case.batch.to(ELSEWHERE), case.threat)
                waits.clear()
                attack.prepare(lambda bound=bound: iter([bound, bound]))
            counts.append(len(waits))
    assert counts[0] == counts[1]


def test_an_attack_is_bound_and_verified_with_four_waits(registry: Registry) -> None:
    waits = run(registry, "pgd", "linf", steps=3, share=None, device=ELSEWHERE, random_start=False)[2]
    # For the bounds of the clean clips, the end of the climb, the check, and whether the model answered.
    assert len(waits) == 4, waits


@pytest.mark.parametrize(
    ("name", "norm", "steps", "share"), [("pgd", "linf", 8, 0.6), ("fmn", "l2", 8, 0.6), ("square", "linf", 40, 0.8)]
)
def test_a_device_finds_what_the_cpu_finds(registry: Registry, name: str, norm: str, steps: int, share: float) -> None:
    here, there = (
        run(registry, name, norm, steps=steps, share=share, device=device)
        for device in (torch.device("cpu"), ELSEWHERE)
    )
    assert not here[2]
    assert 0 < int(here[1].sum()) < len(here[1])
    assert torch.equal(here[1], there[1])
    for modality, x in here[0].items():
        torch.testing.assert_close(there[0][modality], x, rtol=0, atol=1e-5)
