"""Messages name the first of many, and say how many there are beside."""

import pytest

from avrobust_core.naming import clips_named, first_of


@pytest.mark.parametrize(
    ("count", "said"),
    [(1, "clip c0"), (2, "clips c0, c1"), (5, "clips c0, c1, c2, c3, c4"), (7, "clips c0, c1, c2, c3, c4 and 2 more")],
)
def test_a_few_clips_are_named_whole_and_of_many_the_first(count: int, said: str) -> None:
    assert clips_named([f"c{i}" for i in range(count)]) == said


def test_numbers_may_be_named_and_sentences_set_apart() -> None:
    assert first_of(iter([3, 5])) == "3, 5"
    assert first_of(["a: b, c"] * 6, "; ") == "; ".join(["a: b, c"] * 5) + " and 1 more"
