"""Published layouts: keys are renamed by rules in turn, and some are left out."""

import torch

from avrobust_core import renamed


def test_each_key_goes_through_all_rules_in_turn_and_keeps_its_tensor() -> None:
    state = {"body.0.w": torch.zeros(1), "top.w": torch.ones(1), "other": torch.full((1,), 2.0)}
    found = renamed([(r"^body\.(\d)\.", r"blocks.\1."), (r"^blocks\.0\.", "stem."), (r"^top\.", "head.")], state)
    assert list(found) == ["stem.w", "head.w", "other"]
    assert all(given is kept for given, kept in zip(state.values(), found.values(), strict=True))


def test_keys_that_begin_with_what_is_left_out_are_left_out() -> None:
    state = {"fixed.w": torch.zeros(1), "not.fixed.w": torch.zeros(1)}
    assert list(renamed([], state, without=r"fixed\.")) == ["not.fixed.w"]
