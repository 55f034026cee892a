"""What messages name: the first few of many names, and bytes in a unit that fits."""

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


def bytes_named(count: int) -> str:
    """Bytes in the largest binary unit of which there is one at least: "1.2 GiB"."""
    for power, name in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 2**power:
            number = count / 2**power
            return f"{number:.3g} {name}" if number < 999.5 else f"{number:.0f} {name}"
    return f"{count} bytes"
