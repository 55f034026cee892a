import torch
from torch import nn

from avrobust_core import Cost, counting


def test_clips_are_counted_as_they_pass_and_as_gradients_come_back_even_after_the_block() -> None:
    model, cost = nn.Linear(3, 2), Cost()
    with counting(model, cost):
        logits = model(torch.zeros(5, 3))
        with torch.no_grad():
            model(torch.zeros(2, 3))
    assert (cost.forwards, cost.backwards) == (7, 0)
    logits.sum().backward()
    assert (cost.forwards, cost.backwards) == (7, 5)
    model(torch.zeros(4, 3)).sum().backward()
    assert (cost.forwards, cost.backwards) == (7, 5), "outside of the block nothing is counted"


def test_of_a_model_of_parts_whole_passes_count(new_model) -> None:
    model, cost = new_model().eval(), Cost()
    inputs = {"left": torch.zeros(6, 1, 8), "right": torch.zeros(6, 2, 3, 3)}
    with counting(model, cost):
        model.encode(inputs)
        model(inputs)
    assert (cost.forwards, cost.backwards) == (6, 0)
