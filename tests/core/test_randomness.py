"""Random numbers: the same everywhere, one stream per clip and purpose, and the global state left alone."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avrobust_core.randomness import clip_generator, derive_seed, seeded


def test_seeds_are_what_they_have_always_been():
    """Changing any of these changes every result that was ever stored."""
    assert derive_seed() == 8238016292129134938
    assert derive_seed(0, "clip-1", "start/0/audio") == 1149743219062285070
    assert derive_seed("ü", -5) == 136529202015068194


def test_seeds_are_the_same_in_another_process():
    code = "from avrobust_core.randomness import derive_seed; print(derive_seed(3, 'a', 'b'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == derive_seed(3, "a", "b")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "bc"), ("ab", "c")),
        (("a", "b"), ("b", "a")),
        (("a",), ("a", "")),
        ((1,), ("1",)),
        (("a\x1fstr:b",), ("a", "b")),
        (("a\x1f", "b"), ("a", "\x1fb")),
        (("a\x1f\x1f",), ("a\x1f",)),
    ],
)
def test_different_parts_give_different_seeds(one, other):
    assert derive_seed(*one) != derive_seed(*other)


part = st.one_of(st.integers(), st.text(alphabet="a:\x1fstrint0", max_size=8))


@given(one=st.lists(part, max_size=4), other=st.lists(part, max_size=4))
def test_seeds_differ_where_parts_do(one, other):
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=5))
def test_a_seed_fits_torch_and_numpy(parts):
    assert 0 <= derive_seed(*parts) < 2**63


def test_each_clip_and_purpose_has_its_own_stream():
    def draw(*key):
        return torch.rand(5, generator=clip_generator(*key)).tolist()

    assert draw(0, "a", "x") == draw(0, "a", "x")
    assert len({tuple(draw(*key)) for key in [(0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y")]}) == 4


def test_seeded_gives_the_same_numbers_and_restores_the_state():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(7):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(7):
        assert torch.equal(torch.rand(3), first)
    with seeded(8):
        assert not torch.equal(torch.rand(3), first)


def test_seeded_restores_the_state_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeded(7):
        torch.rand(3).add(1 / 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_clip_generator_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    torch.rand(3, generator=clip_generator(0, "a", "x"))
    assert torch.equal(torch.get_rng_state(), before)
