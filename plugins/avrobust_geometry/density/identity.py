"""The reference clip that a clip is itself: told by ids, never by position."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def own_rows(ids: Sequence[str], reference_ids: Sequence[str]) -> NDArray[np.int64] | None:
    """The row of the reference that has each clip's id: (N,), -1 for none; None if no clip is in the reference.

    Raises:
        ValueError: if an id occurs twice in the reference, where it would leave out one of both only.
    """
    place = {name: row for row, name in enumerate(reference_ids)}
    if len(place) < len(reference_ids):
        twice = next(name for row, name in enumerate(reference_ids) if place[name] != row)
        raise ValueError(f"the id {twice!r} occurs twice in the reference: give each clip an id of its own")
    own = np.fromiter((place.get(name, -1) for name in ids), dtype=np.int64, count=len(ids))
    return own if (own >= 0).any() else None
