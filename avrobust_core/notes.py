"""Notes: warnings that a user should have read beside the results, each said and kept once."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from avrobust_core.errors import AvrobustWarning
from avrobust_core.plain_text import plain_text


@contextmanager
def collected(say: Callable[[str], object]) -> Iterator[Sequence[str]]:
    """Take up each `AvrobustWarning` that is raised meanwhile; other warnings go where they went.

    Args:
        say: told of each when it is raised for the first time.

    Yields:
        The messages so far, in order.
    """
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", AvrobustWarning)
        show = warnings.showwarning

        def take(message: Warning | str, category: type[Warning], *place: Any, **where: Any) -> None:
            if not issubclass(category, AvrobustWarning):
                show(message, category, *place, **where)
            elif (note := plain_text(message)) not in notes:
                notes.append(note)
                say(note)

        warnings.showwarning = take
        yield notes
