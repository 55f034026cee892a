"""A clip that does not fit into memory is attacked by a model whose stages are computed twice."""

import pytest
import torch
from torch import Tensor, nn

from avrobust_core import Attack, AttackResult, AttackRun, AvrobustWarning, Batch, MediaSpec, ThreatModel, Victim
from avrobust_core.evaluation.predictions import evaluate_batch
from avrobust_core.evaluation.shards import MicroBatches
from avrobust_core.models.sparing import Sparing

THREAT = ThreatModel.model_validate({"sound": {"eps": 0.1}})
MEDIA = {"sound": MediaSpec(kind="audio", shape=(1, 16))}


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(torch.sin(torch.tanh(torch.sin(self.first(x)))))).sin() + x


class Writer(Stage):
    """Adds to its input in place, so that it must not be run a second time on it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


class Deep(nn.Module):
    def __init__(self, *stages: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(16, 3)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        x = inputs["sound"].flatten(1) * 1
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


class Tight(Attack):
    """One step, in memory that holds so many bytes for a backward pass, and no more."""

    norms = frozenset({"linf"})

    def __init__(self, room: int) -> None:
        self.room = room
        self.most = 0

    def __call__(self, victim):
        kept: list[int] = []

        def keep(x: Tensor) -> Tensor:
            kept.append(x.numel() * x.element_size() if x.dim() == 2 and len(x) == len(victim) else 0)
            self.most = max(self.most, sum(kept))
            if sum(kept) > self.room:
                raise torch.OutOfMemoryError("planted")
            return x

        leaf = victim.clean["sound"].clone().requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = victim.loss(victim({"sound": leaf})).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        moved = victim.region.project(victim.region.step(victim.clean, {"sound": gradient}, 1.0))
        return AttackResult(moved, torch.zeros(len(victim), dtype=torch.bool))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch({"sound": torch.randn(3, 1, 16, generator=generator)}, torch.arange(3), ("a", "b", "c"))


def evaluated(model: nn.Module, batch: Batch, attack: Attack, *, sparing: bool = False, samples: int = 1):
    victim = Victim(model, media=MEDIA, task="single-label", samples=samples)
    work = MicroBatches(
        lambda part: evaluate_batch(victim, part, AttackRun("step", attack, THREAT)),
        victim.spare if sparing else lambda: False,
    )
    with victim.frozen():
        return work(batch)


def test_a_clip_that_does_not_fit_is_attacked_by_computing_stages_twice(batch: Batch) -> None:
    torch.manual_seed(0)
    model = Deep(*(Stage() for _ in range(6)))
    roomy = Tight(1 << 30)
    whole = evaluated(model, batch, roomy)
    one = roomy.most // len(batch)
    cramped = Tight(one // 3)
    with pytest.raises(torch.OutOfMemoryError):
        evaluated(model, batch, cramped)
    with pytest.warns(AvrobustWarning, match="compute the rest again"):
        found = evaluated(model, batch, cramped, sparing=True)
    for name in whole:
        torch.testing.assert_close(found[name], whole[name])
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_that_would_draw_other_numbers_is_not_run_twice(batch: Batch) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        evaluated(Deep(Stage()), batch, Tight(0), sparing=True, samples=2)


def test_a_stage_that_writes_into_its_input_is_not_run_twice(batch: Batch) -> None:
    torch.manual_seed(0)
    model = Deep(Stage(), Writer(), Stage()).eval().requires_grad_(False)
    sparing = Sparing(model, lambda: model(batch.inputs))
    leaf = batch.inputs["sound"].clone().requires_grad_()
    (plain,) = torch.autograd.grad(model({"sound": leaf}).logsumexp(dim=1).sum(), leaf)
    with sparing.in_place():
        logits = model({"sound": leaf})
    (again,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), leaf)
    assert torch.equal(again, plain)
    assert len(sparing) == 2 + 3 * 2 + 1  # two stages, the layers of all three, and the head
