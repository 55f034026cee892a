import torch

from avrobust_core import Mixture, hard_targets, soft_targets


def test_a_mixture_lies_between_its_clips_and_where_the_ratio_is_one_is_the_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, 3, 7, generator=generator)
    ratio = torch.rand(50, generator=generator)
    ratio[::5] = 1
    partner = torch.randint(50, (50,), generator=generator)
    mixed = Mixture(ratio, partner).mix(x)
    assert torch.equal(mixed[::5], x[::5])
    assert (mixed >= torch.minimum(x, x[partner])).all()
    assert (mixed <= torch.maximum(x, x[partner])).all()
    expected = ratio.view(-1, 1, 1) * x + (1 - ratio).view(-1, 1, 1) * x[partner]
    torch.testing.assert_close(mixed, expected)


def test_targets_become_soft_once_and_hard_for_one_label_alone() -> None:
    classes = torch.tensor([2, 0])
    soft = soft_targets(classes, 3)
    assert soft.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert soft_targets(soft, 3) is soft
    assert hard_targets(classes, "single-label") is classes
    assert hard_targets(torch.tensor([[0.3, 0.7, 0.0]]), "single-label").tolist() == [1]
    several = torch.tensor([[1.0, 0.0, 1.0]])
    assert hard_targets(several, "multi-label") is several
