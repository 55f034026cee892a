"""Nobody's clips are written into: the caller's are copied, and a model that writes is blamed by its name."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from avrobust_core import Attack, AttackResult, DataError, ModelError


def clamps(z, x):
    x["video"].clamp_(0, 1)  # changes no value: the clips are within their bounds
    return z


def through_numpy(z, x):
    x["video"].numpy()[:] *= 0.5  # torch's counters do not see it
    return z


def through_data(z, x):
    x["video"].data.mul_(0.5)
    return z


def by_mask(z, x):
    x["audio"][x["audio"] > 0.5] = 0.5
    return z


def by_shape(z, x):
    x["audio"].unsqueeze_(0)
    return z


def only_under_attack(z, x):
    if x["audio"].requires_grad:
        x["video"].data.mul_(0.5)
    return z


@pytest.mark.parametrize("after", [clamps, through_numpy, through_data, by_mask, by_shape, only_under_attack])
def test_a_model_that_writes_into_its_inputs_is_blamed_not_the_attack(net, batches, attack, after):
    loader = batches()
    with pytest.raises(ModelError, match=r"Net writes into its inputs in place \((audio|video)\).*x = x.clone\(\)"):
        attack(net(after), loader)
    for (given, _), (before, _) in zip(loader, batches(), strict=True):
        assert all(torch.equal(x, before[name]) for name, x in given.items()), "the caller's clips"


def test_a_model_may_change_the_map_it_is_given(net, attack):
    plain = attack().summary["robust_accuracy"]
    assert attack(net(lambda z, x: (x.pop("audio"), z)[1])).summary["robust_accuracy"] == plain


def test_clips_that_need_a_gradient_are_taken_and_left_alone(attack, batches):
    loader = batches()
    for inputs, _ in loader:
        inputs["audio"].requires_grad_()
    found = attack(loader=loader)
    assert found.summary["clean_accuracy"]["value"] == 0.75
    assert all(inputs["audio"].grad is None for inputs, _ in loader)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_without_gradients_around_it_the_attack_is_the_same(net, attack, batches, mode):
    model, plain = net(), attack().summary["robust_accuracy"]
    with mode():
        assert attack(model, batches()).summary["robust_accuracy"] == plain


def missing(loader, value):
    for inputs, _ in loader:
        inputs["video"][::4] = value
    return loader


def test_nan_may_mark_a_modality_that_a_clip_lacks(net, batches, attack):
    """The model takes it as zeros, and so its robustness must come out the same as with zeros."""

    class Filled(net):
        def forward(self, inputs):
            return super().forward(inputs | {"video": inputs["video"].nan_to_num(0.0)})

    options = {"attacks": {"pgd": {"use": "pgd", "with": {"steps": 5}}}}
    marked = attack(Filled(), missing(batches(), torch.nan), **options)
    zeros = attack(Filled(), missing(batches(), 0.0), **options)
    assert marked.summary["robust_accuracy"] == zeros.summary["robust_accuracy"]
    assert marked.summary["robust_accuracy"]["pgd"]["audio"]["value"] < zeros.summary["clean_accuracy"]["value"]


def test_what_is_nan_cannot_be_attacked(net, batches, attack):
    class Filled(net):
        def forward(self, inputs):
            return super().forward(inputs | {"video": inputs["video"].nan_to_num(0.0, 0.0, 0.0)})

    for bounds in ({"video": (0, 1)}, {}):
        for value in (torch.nan, torch.inf):
            with pytest.raises(DataError, match="attacks video, but its values are NaN or infinite: 0, 4; leave these"):
                attack(Filled(), missing(batches(), value), threats={"video": {"video": {"eps": 0.1}}}, bounds=bounds)


class Stays(Attack):
    """Returns the clean clips."""

    norms = frozenset({"linf"})

    def __call__(self, victim):
        return AttackResult(dict(victim.clean), torch.zeros(len(victim), dtype=torch.bool))


class Copies(TorchDispatchMode):
    """Counts copies of whole batches of a modality, which no other tensor has the shape of."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        copies = func in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default)
        self.count += copies and found.shape == self.shape
        return found


def test_each_reading_of_a_batch_is_copied_once(attack, batches):
    """Of what is not attacked; of what is, an attack's results are kept as well."""
    loader = batches()
    with Copies(loader[0][0]["video"].shape) as copies:
        attack(loader=loader, attacks={"none": Stays()})
    assert copies.count == 2 * len(loader), "the clean reading, and the attack's"
