"""Failures of single steps of a run, kept as data, so that the other steps go on."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from avrobust_core.blame import sentence
from avrobust_core.errors import DatasetFailure, RunError

Failure = dict[str, Any]
"""As JSON data: `message` and `traceback`, and which step failed: `metric`, `attack`, `threat`, ..."""

Keep = Callable[[Failure], None]
"""Told of a failure."""


class Unfinished(Exception):
    """Something would have to be computed, where only what is there is to be taken up."""


@contextmanager
def recorded(keep: Keep, *, settle: Callable[[], None] | None = None, label: str = "") -> Iterator[None]:
    """Go on after whatever fails inside, sys.exit of a plugin too.

    Args:
        keep: told of what went wrong.
        settle: None if no other process waits for this one; else called first, and returns only if what failed is not
            that another has died.
        label: of the step, for the error that ends all processes.

    Raises:
        DatasetFailure: as it is: nothing else can do better.
        Unfinished: as it is: nothing failed.
        KeyboardInterrupt: as it is, or the one during which another error was raised: torch.save, interrupted, raises
            a RuntimeError.
        RunError: if other processes wait for this one: only ending all of them is safe.
    """
    try:
        yield
    except (DatasetFailure, Unfinished, KeyboardInterrupt):
        raise
    except BaseException as error:
        interrupt = interruption(error)
        if interrupt is not None:
            raise interrupt from None
        if settle is not None:
            settle()
        keep(told(error))
        if settle is not None:
            raise RunError(
                f"{label} failed: {sentence(error)}. The other processes wait for this one, so all of them end; with "
                "one process alone what fails is recorded, and the rest goes on"
            ) from error


def interruption(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt during which an error was raised, as what was interrupted tidied up; None if there was none."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        if isinstance(link, KeyboardInterrupt):
            return link
        seen.add(id(link))
        link = link.__context__
    return None


def told(error: BaseException) -> Failure:
    """An error's message and traceback, as JSON data."""
    return {"message": sentence(error), "traceback": "".join(traceback.format_exception(error))}


def why_missing(cell: Mapping[str, Any], attack: str | None, threat: str | None) -> str | None:
    """The message of the failure that left a cell without a number for an attack and threat; None if there is none.

    Args:
        cell: its result.
        attack: "worst case" fails where any attack that counts in it does.
        threat: by name.
    """
    for failure in cell.get("failures", []):
        counts = failure["attack"] == attack or (attack == "worst case" and failure["bounded"])
        if counts and failure["metric"] is None and failure["direction"] is None and failure["threat"] == threat:
            return str(failure["message"])
    return None


def failure_label(failure: Mapping[str, Any]) -> str:
    """The name of a failed step: "pgd/both", "fmn/both at audio 0.71, video 0.71", "density", "map on pgd/both"."""
    evaluation = failure["evaluation"]
    if failure["metric"] is None:
        return str(evaluation)
    return str(failure["metric"]) + (f" on {evaluation}" if failure["attack"] is not None else "")
