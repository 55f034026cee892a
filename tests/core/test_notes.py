"""Notes: said and kept once, and nobody else's warnings."""

import warnings

import pytest

from avrobust_core import AvrobustWarning
from avrobust_core.notes import collected


def test_each_note_is_said_and_kept_once() -> None:
    said: list[str] = []
    with collected(said.append) as notes:
        for text in ("one", "two\x1b[31m", "one"):
            warnings.warn(text, AvrobustWarning, stacklevel=1)
        assert list(notes) == said == ["one", "two"]
    with pytest.warns(AvrobustWarning, match="three"):
        warnings.warn("three", AvrobustWarning, stacklevel=1)
    assert said == ["one", "two"]


def test_other_warnings_go_where_they_went() -> None:
    said: list[str] = []
    with pytest.warns(UserWarning, match="somebody else's") as caught, collected(said.append):
        warnings.warn("somebody else's", UserWarning, stacklevel=1)
    assert len(caught) == 1
    assert not said
