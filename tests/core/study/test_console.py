"""Progress: the time that is left, a bar in a terminal, sober lines elsewhere, nothing when silent."""

import io

import pytest

from avrobust_core.study import console
from avrobust_core.study.console import Monitor, Pace, TextConsole, in_words


def test_the_time_left_is_that_of_the_pace_since_the_step_was_taken_up() -> None:
    now = 100.0
    pace = Pace(lambda: now)
    assert pace.left(400, 1000) == "", "what an earlier command did says nothing of the pace"
    now += 60
    assert pace.left(400, 1000) == ""
    assert pace.left(500, 1000) == "about 5 min left"
    now += 240
    assert pace.left(600, 1000) == "about 10 min left"
    assert pace.left(1000, 1000) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (60, "1 min"), (3599, "1 h"), (11_100, "3 h 5 min"), (187_200, "2 d 4 h")],
)
def test_a_length_of_time_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def _step(monitor: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a hundred parts, of which each takes half a minute."""
    now = 0.0
    monkeypatch.setattr(console, "monotonic", lambda: now)
    with monitor.task("[1/2] concat: fit"):
        for done in range(5):
            monitor.update(done, 100)
            now += 30


def test_without_a_terminal_a_long_step_is_a_line_each_minute(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    _step(Monitor(), monkeypatch)
    assert capsys.readouterr() == (
        "",
        "[1/2] concat: fit: 2 of 100, about 49 min left\n[1/2] concat: fit: 4 of 100, about 48 min left\n",
    )
    _step(Monitor(silent=True), monkeypatch)
    assert capsys.readouterr() == ("", "")


def test_in_a_terminal_the_bar_has_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, now = io.StringIO(), 0.0
    monkeypatch.setattr(console, "monotonic", lambda: now)
    monitor = Monitor()
    monitor._console = TextConsole(file=screen, force_terminal=True, width=100, legacy_windows=False)
    with monitor.task("fit"):
        monitor.update(0, 100)
        now = 60.0
        monitor.update(10, 100)
    shown = screen.getvalue()
    assert "10/100" in shown
    assert "about 9 min left" in shown
