"""What others say reaches no terminal with escapes, control characters or endless lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avrobust_core.plain_text import plain_lines, plain_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[1mdo those steps\x1b[0m now", "do those steps now"),
        ("\x1b]0;a new title\x07file", "file"),
        ("\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("\x1b(Bplain\x1bc", "plain"),
        ("\x1b]never ended", "never ended"),
        ("first\r\n  second\tthird\x00\x07\x7f", "first second third"),
        ("over\u202egnp.exe", "overgnp.exe"),
        ("name\udc80.wav", "name\\udc80.wav"),
        ("Hütte 日本 [/x] 100%", "Hütte 日本 [/x] 100%"),
    ],
)
def test_escapes_and_control_characters_are_taken_out_and_all_else_stays(text: str, plain: str) -> None:
    assert plain_text(text) == plain


def test_an_error_may_be_given_as_it_is() -> None:
    assert plain_text(ValueError("bad\nvalue")) == "bad value"


@given(st.text(max_size=300) | st.text("\x1b[]0;m\x07\x9b\\ \n", max_size=300))
def test_whatever_comes_in_one_printable_line_goes_out(text: str) -> None:
    line = plain_text(text, limit=50)
    assert len(line) <= 50
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)
    assert len(line.splitlines()) <= 1
    line.encode("utf-8")


def test_lines_are_kept_where_they_are_wanted_and_cut_one_by_one() -> None:
    text = plain_lines(f"spec.yaml:1:\r\n    \x1b[31mbad\x1b[0m\n{'x' * 600}\n\tend\n")
    assert text == f"spec.yaml:1:\n    bad\n{'x' * 497}...\n    end\n"
