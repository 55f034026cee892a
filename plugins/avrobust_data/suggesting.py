"""What a mistaken name may have been meant to be."""

import difflib
from collections.abc import Sequence


def nearest(name: str, names: Sequence[str]) -> str:
    """A question to stand after a mistaken name: " (did you mean 'dog'?)"; empty where no name is near."""
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
