"""Names in a message: the first few of them, and how many there are beside."""

from collections.abc import Iterable, Sequence
from typing import Final

SHOWN: Final = 5
"""Names that are shown."""


def first_of(names: Iterable[object], separator: str = ", ") -> str:
    """The first of some names, and how many there are beside: "3, 5, 8, 9, 12 and 2 more"."""
    said = [str(name) for name in names]
    return separator.join(said[:SHOWN]) + (f" and {len(said) - SHOWN} more" if len(said) > SHOWN else "")


def clips_named(ids: Sequence[str]) -> str:
    """The first of some clips: "clip 3", "clips 3, 5, 8, 9, 12 and 2 more"."""
    return f"{'clip' if len(ids) == 1 else 'clips'} {first_of(ids)}"
