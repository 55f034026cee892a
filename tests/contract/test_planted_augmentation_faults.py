"""Each known fault, planted into a sound augmentation by a small change, is caught by the check the table names."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from avrobust_core import (
    Augmentation,
    AugmentedStep,
    AvrobustError,
    Batch,
    Encoded,
    TrainingStep,
    classification_loss,
    clip_generator,
    soft_targets,
)
from avrobust_core.testing.augmentation_subjects import AugmentationSubject
from avrobust_core.testing.checklists import AUGMENTATION_CHECKS
from avrobust_core.testing.running import CheckFailed, NotApplicable

CHECKS = {check.name: check for check in AUGMENTATION_CHECKS}


# Four sound augmentations ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Hooked(AugmentedStep):
    """A pass whose hooks are methods of the augmentation, so that a fault is one method overridden."""

    of: "Hooks"
    step: TrainingStep

    def encodings(self, encoded, targets):
        return self.of.encodings(encoded, targets, self)

    def loss(self, losses, forward):
        return self.of.loss(losses, forward, self)


class Hooks(Augmentation):
    def begin(self, batch, step):
        return Hooked(self.changed(batch, step), self, step)

    def changed(self, batch, step):
        return batch

    def encodings(self, encoded, targets, of):
        return encoded, targets

    def loss(self, losses, forward, of):
        return losses


class Blend(Hooks):
    """Each clip, noisy, is mixed with the next one by id; encodings are scaled per clip."""

    def changed(self, batch, step):
        generators = [self.generator(clip_id, step) for clip_id in batch.ids]
        inputs = {name: self.noisy(name, x, generators, step) for name, x in batch.inputs.items()}
        partner = self.partner(batch)
        inputs = {name: torch.lerp(x, x[partner], 0.25) for name, x in inputs.items()}
        return Batch(inputs, self.targets(batch, partner, step), batch.ids)

    def generator(self, clip_id, step):
        return clip_generator(step.seed, clip_id, f"blend/{step.epoch}")

    def noisy(self, name, x, generators, step):
        noise = torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in generators])
        return self.clipped(name, x + 0.1 * noise.to(x), step)

    def clipped(self, name, x, step):
        return step.clipped(name, x)

    def partner(self, batch):
        order = sorted(range(len(batch)), key=batch.ids.__getitem__)
        after = {i: order[(rank + 1) % len(order)] for rank, i in enumerate(order)}
        return torch.tensor([after[i] for i in range(len(batch))], device=batch.targets.device)

    def targets(self, batch, partner, step):
        soft = self.soft(batch.targets, step)
        return torch.lerp(soft, soft[partner], 0.25)

    def soft(self, targets, step):
        return soft_targets(targets, step.classes)

    def encodings(self, encoded, targets, of):
        return {name: Encoded(found.tokens * 0.5, found.pooled * 0.5) for name, found in encoded.items()}, targets


class Climb(Hooks):
    """One signed gradient step on the inputs, the model in evaluation mode, and a consistency loss beside."""

    def changed(self, batch, step):
        training = [module.training for module in step.model.modules()]
        self.into_mode(step.model)
        leaves = {name: x.detach().clone().requires_grad_() for name, x in batch.inputs.items()}
        loss = classification_loss(step.model(leaves), batch.targets, step.task).sum()
        gradients = self.gradients(loss, leaves)
        self.count(step.cost, len(batch))
        self.restore(step.model, training)
        inputs = {name: step.clipped(name, x + 0.05 * gradients[name].sign()) for name, x in batch.inputs.items()}
        return Batch(inputs, batch.targets, batch.ids)

    def into_mode(self, model):
        model.eval()

    def gradients(self, loss, leaves):
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    def count(self, cost, clips):
        cost.forwards += clips
        cost.backwards += clips

    def restore(self, model, training):
        for module, flag in zip(model.modules(), training, strict=True):
            module.training = flag

    def loss(self, losses, forward, of):
        again = of.step.model({name: x.detach() * 0.9 for name, x in forward.batch.inputs.items()})
        of.step.cost.forwards += len(losses)
        self.count_in_loss(of.step.cost, len(losses))
        return losses + (again - forward.logits).square().mean(dim=1)

    def count_in_loss(self, cost, clips):
        cost.backwards += clips


class Replayed(Augmentation):
    """Learns from each batch twice: the second time moved along the gradient that the first backward pass left."""

    replays = 2

    def begin(self, batch, step):
        return Moved.by({name: torch.zeros_like(x) for name, x in batch.inputs.items()}, batch, step)


class Moved(AugmentedStep):
    @classmethod
    def by(cls, delta, batch, step):
        leaves = {name: step.clipped(name, x + delta[name]).requires_grad_() for name, x in batch.inputs.items()}
        return cls(Batch(leaves, batch.targets, batch.ids))

    def after_backward(self):
        self.delta = {name: 0.05 * x.grad.sign() for name, x in self.batch.inputs.items()}

    def again(self, batch, step):
        return Moved.by(self.delta, batch, step)


class Remembers(Hooks):
    """Begins an epoch with the clips whose embedding was largest in the last one, and weights their losses."""

    def __init__(self):
        self.now = {}
        self.size = {}

    def order(self, clips, step):
        return np.array(sorted(range(len(clips)), key=lambda i: (-self.size.get(clips[i], 0.0), clips[i])))

    def encodings(self, encoded, targets, of):
        sizes = sum(found.pooled.detach().square().sum(dim=1) for found in encoded.values())
        self.now |= dict(zip(of.batch.ids, sizes.tolist(), strict=True))
        return encoded, targets

    def loss(self, losses, forward, of):
        return losses * torch.tensor([1 + self.size.get(clip_id, 0.0) for clip_id in of.batch.ids]).to(losses)

    def end_epoch(self, step, gather):
        self.size = {clip_id: size for found in gather(self.now) for clip_id, size in found.items()}
        self.now = {}

    def state_dict(self):
        return {"now": dict(self.now), "size": dict(self.size)}

    def load_state_dict(self, state):
        self.now, self.size = dict(state["now"]), dict(state["size"])


# The faults -----------------------------------------------------------------------------------------------------------


class OneLabelOnly(Blend):
    def soft(self, targets, step):
        return F.one_hot(targets, step.classes).float()


class InPlace(Blend):
    def changed(self, batch, step):
        found = super().changed(batch, step)
        batch.inputs["audio"].mul_(0.5)
        return found


class TargetsInPlace(Blend):
    def targets(self, batch, partner, step):
        found = super().targets(batch, partner, step)
        batch.targets.copy_(batch.targets.flip(0))
        return found


class Crops(Blend):
    def noisy(self, name, x, generators, step):
        return super().noisy(name, x, generators, step)[..., :2]


class OtherDtype(Blend):
    def noisy(self, name, x, generators, step):
        return super().noisy(name, x.double(), generators, step)

    def encodings(self, encoded, targets, of):  # so that the check sees what the model would stumble over
        return encoded, targets


class OtherClips(Blend):
    def changed(self, batch, step):
        return super().changed(batch.select(torch.arange(len(batch)).flip(0)), step)


class EncodingsInPlace(Blend):
    def encodings(self, encoded, targets, of):
        for found in encoded.values():
            found.pooled.data.mul_(0.5)
        return encoded, targets


class LaterTargetsInPlace(Blend):
    def encodings(self, encoded, targets, of):
        return encoded, targets.mul_(0.5)


class TokensLost(Blend):
    def encodings(self, encoded, targets, of):
        return {name: Encoded(found.tokens[:, :0], found.pooled) for name, found in encoded.items()}, targets


class MeanLoss(Climb):
    def loss(self, losses, forward, of):
        return super().loss(losses, forward, of).mean()


class DetachedLoss(Climb):
    def loss(self, losses, forward, of):
        return super().loss(losses, forward, of).detach()


class Heavier(Blend):
    def targets(self, batch, partner, step):
        return super().targets(batch, partner, step) * 1.1


class Unnormalised(Blend):
    def targets(self, batch, partner, step):
        return super().targets(batch, partner, step) * 0.9


class NoSuchClass(Blend):
    def targets(self, batch, partner, step):
        return batch.targets if batch.targets.is_floating_point() else -100 * torch.ones_like(batch.targets)


class Unclipped(Blend):
    def clipped(self, name, x, step):
        return x


class UnitInterval(Blend):
    def clipped(self, name, x, step):
        return x.clamp(0, 1)


class WiderByRounding(Blend):
    def clipped(self, name, x, step):
        bounds = step.media[name].bounds
        return x if bounds is None else x.clamp(bounds[0] - 1e-6, bounds[1] + 1e-6)


class Unseeded(Blend):
    def generator(self, clip_id, step):
        generator = torch.Generator()
        generator.seed()
        return generator


class SameInEveryEpoch(Blend):
    def generator(self, clip_id, step):
        return clip_generator(step.seed, clip_id, "blend")


class NoSeed(Blend):
    def generator(self, clip_id, step):
        return clip_generator(0, clip_id, f"blend/{step.epoch}")


class OneGeneratorForTheBatch(Blend):
    def changed(self, batch, step):
        self.shared = clip_generator(step.seed, "batch", f"blend/{step.epoch}")
        return super().changed(batch, step)

    def generator(self, clip_id, step):
        return self.shared


class PartnerByPosition(Blend):
    def partner(self, batch):
        return torch.arange(len(batch)).roll(-1)


class KeepsThePassToItself(Blend):
    def changed(self, batch, step):
        self.ids = sorted(batch.ids)
        return super().changed(batch, step)

    def encodings(self, encoded, targets, of):
        first = torch.tensor([[float(clip_id == self.ids[0])] for clip_id in of.batch.ids])
        return {name: Encoded(found.tokens, found.pooled + first) for name, found in encoded.items()}, targets


class DrawsFromTorch(Blend):
    def noisy(self, name, x, generators, step):
        torch.rand(1)
        return super().noisy(name, x, generators, step)


class DrawsFromNumpy(Blend):
    def noisy(self, name, x, generators, step):
        np.random.rand()
        return super().noisy(name, x, generators, step)


class DrawsFromPython(Remembers):
    def order(self, clips, step):
        random.random()
        return super().order(clips, step)


class SeedsTorch(Blend):
    def encodings(self, encoded, targets, of):
        torch.manual_seed(of.step.seed)
        return super().encodings(encoded, targets, of)


class CountsNothing(Climb):
    def count(self, cost, clips):
        pass


class CountsBatches(Climb):
    def count(self, cost, clips):
        super().count(cost, 1)


class BackwardOfTheLossUncounted(Climb):
    def count_in_loss(self, cost, clips):
        pass


class LooksAtTheEndOfAnEpoch(Remembers):
    def encodings(self, encoded, targets, of):
        self.last = of.batch.inputs
        return super().encodings(encoded, targets, of)

    def end_epoch(self, step, gather):
        with torch.no_grad():
            step.model(self.last)
        super().end_epoch(step, gather)


class LeavesGradients(Climb):
    def gradients(self, loss, leaves):
        loss.backward()
        return {name: leaf.grad for name, leaf in leaves.items()}


class LeavesEvaluationMode(Climb):
    def restore(self, model, training):
        pass


class TrainsEveryModule(Climb):
    def restore(self, model, training):
        model.train()
        model.requires_grad_(True)


class MovesStatistics(Climb):
    def into_mode(self, model):
        model.train()


class MovesWeights(Blend):
    def encodings(self, encoded, targets, of):
        with torch.no_grad():
            for parameter in of.step.model.parameters():
                parameter.mul_(0.99)
        return super().encodings(encoded, targets, of)


class TooFew(Remembers):
    def order(self, clips, step):
        return super().order(clips, step)[1:]


class CountsFromOne(Remembers):
    def order(self, clips, step):
        return super().order(clips, step) + 1


class Shuffles(Remembers):
    asked = 0

    def order(self, clips, step):
        self.asked += 1
        return np.roll(super().order(clips, step), self.asked)


class LooksBeforeItOrders(Remembers):
    def encodings(self, encoded, targets, of):
        self.last = of.batch.inputs
        return super().encodings(encoded, targets, of)

    def order(self, clips, step):
        if hasattr(self, "last"):
            with torch.no_grad():
                step.model(self.last)
        return super().order(clips, step)


class KeepsItToItself(Remembers):
    def state_dict(self):
        return {}


class ForgetsTheEpoch(Remembers):
    def state_dict(self):
        return {"now": {}, "size": dict(self.size)}


class NeedsAPickle(Remembers):
    def state_dict(self):
        return {"now": dict(self.now), "size": {k: np.float32(v) for k, v in self.size.items()}, "f": np.ones(3)}


class OrdersByTheEpochAsItGoes(Remembers):
    def order(self, clips, step):
        return np.array(sorted(range(len(clips)), key=lambda i: (self.now.get(clips[i], 0.0), clips[i])))


class KeepsItsOwnPart(Remembers):
    def end_epoch(self, step, gather):
        super().end_epoch(step, lambda mine: [mine])


class GathersWhereItLikes(Remembers):
    def end_epoch(self, step, gather):
        super().end_epoch(step, gather if "clip-00" in self.now else lambda mine: [mine])


@dataclass(frozen=True)
class Planted:
    check: str
    faulty: type[Augmentation]
    sound: type[Augmentation]


TABLE = (
    Planted("both_tasks", OneLabelOnly, Blend),
    Planted("batch_unchanged", InPlace, Blend),
    Planted("batch_unchanged", TargetsInPlace, Blend),
    Planted("batch_unchanged", Crops, Blend),
    Planted("batch_unchanged", OtherDtype, Blend),
    Planted("batch_unchanged", OtherClips, Blend),
    Planted("batch_unchanged", EncodingsInPlace, Blend),
    Planted("batch_unchanged", LaterTargetsInPlace, Blend),
    Planted("batch_unchanged", TokensLost, Blend),
    Planted("batch_unchanged", MeanLoss, Climb),
    Planted("batch_unchanged", DetachedLoss, Climb),
    Planted("targets", Heavier, Blend),
    Planted("targets", Unnormalised, Blend),
    Planted("targets", NoSuchClass, Blend),
    Planted("bounds", Unclipped, Blend),
    Planted("bounds", UnitInterval, Blend),
    Planted("bounds", WiderByRounding, Blend),
    Planted("repeatable", Unseeded, Blend),
    Planted("repeatable", SameInEveryEpoch, Blend),
    Planted("repeatable", NoSeed, Blend),
    Planted("clip_order", OneGeneratorForTheBatch, Blend),
    Planted("clip_order", PartnerByPosition, Blend),
    Planted("passes_apart", KeepsThePassToItself, Blend),
    Planted("global_random_state", DrawsFromTorch, Blend),
    Planted("global_random_state", DrawsFromNumpy, Blend),
    Planted("global_random_state", DrawsFromPython, Remembers),
    Planted("global_random_state", SeedsTorch, Blend),
    Planted("cost", CountsNothing, Climb),
    Planted("cost", CountsBatches, Climb),
    Planted("cost", BackwardOfTheLossUncounted, Climb),
    Planted("cost", LooksAtTheEndOfAnEpoch, Remembers),
    Planted("model_unchanged", LeavesGradients, Climb),
    Planted("model_unchanged", LeavesEvaluationMode, Climb),
    Planted("model_unchanged", TrainsEveryModule, Climb),
    Planted("model_unchanged", MovesStatistics, Climb),
    Planted("model_unchanged", MovesWeights, Blend),
    Planted("order", TooFew, Remembers),
    Planted("order", CountsFromOne, Remembers),
    Planted("order", Shuffles, Remembers),
    Planted("order", LooksBeforeItOrders, Remembers),
    Planted("resumed", KeepsItToItself, Remembers),
    Planted("resumed", ForgetsTheEpoch, Remembers),
    Planted("resumed", NeedsAPickle, Remembers),
    Planted("resumed", OrdersByTheEpochAsItGoes, Remembers),
    Planted("processes", KeepsItsOwnPart, Remembers),
    Planted("processes", GathersWhereItLikes, Remembers),
)


@pytest.mark.parametrize("planted", TABLE, ids=[f"{p.check}-{p.faulty.__name__}" for p in TABLE])
def test_the_check_that_the_table_names_catches_the_fault(planted):
    with pytest.raises(CheckFailed):
        CHECKS[planted.check](AugmentationSubject.of(planted.faulty()))


def test_no_check_is_one_that_cannot_fail():
    assert {planted.check for planted in TABLE} == set(CHECKS)


@pytest.mark.parametrize("check", AUGMENTATION_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("sound", [Blend, Climb, Replayed, Remembers])
def test_sound_augmentations_pass_every_check(sound, check):
    check(AugmentationSubject.of(sound()))


def test_one_that_refuses_several_labels_is_checked_on_clips_of_one():
    class Refuses(Blend):
        def begin(self, batch, step):
            if step.task == "multi-label":
                raise AvrobustError("one label only")
            return super().begin(batch, step)

    with pytest.raises(NotApplicable, match="multi-label"):
        CHECKS["both_tasks"](AugmentationSubject.of(Refuses()))
    CHECKS["bounds"](AugmentationSubject.of(Refuses()))


def test_one_that_refuses_everything_is_not_applicable():
    class Refuses(Augmentation):
        def begin(self, batch, step):
            raise AvrobustError("not here")

    for check in AUGMENTATION_CHECKS:
        with pytest.raises(NotApplicable, match="not here"):
            check(AugmentationSubject.of(Refuses()))
