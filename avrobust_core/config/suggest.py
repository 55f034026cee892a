"""Suggest the known name that was probably meant by a misspelled one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# difflib's ratio below which a name is too far off to be a likely slip; 0.6 accepts "pgdd" for "pgd" and "epsilom"
# for "epsilon" but not "fgsm" for "pgd".
_CUTOFF = 0.6
# No slip of the pen is as long, and comparing takes the square of it.
_LONGEST = 200
# A name this far behind the nearest is still worth a mention: names that share a long prefix, such as the hooks, are
# all near one another.
_BEHIND = 0.15


def _folded(name: str) -> str:
    """`name` in the form in which names are compared: lower case, with `-` and `.` read as `_`."""
    return name.casefold().replace("-", "_").replace(".", "_")


def closest(name: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """Up to `limit` of the `known` names nearest to `name`, nearest first; an empty list when none is near.

    A name much further off than the nearest one is left out. Case and the choice between `-`, `_` and `.` do not
    count as differences. Names equally near come in alphabetical order, so that the answer does not depend on the
    order of `known`.
    """
    if len(name) > _LONGEST:
        return []
    wanted = _folded(name)
    scored: list[tuple[float, str]] = []
    for candidate in set(known):
        matcher = difflib.SequenceMatcher(None, wanted, _folded(candidate))
        # The quick ones are bounds from above: most names are far off, and need not be compared letter by letter.
        if matcher.real_quick_ratio() >= _CUTOFF and matcher.quick_ratio() >= _CUTOFF:
            ratio = matcher.ratio()
            if ratio >= _CUTOFF:
                scored.append((-ratio, candidate))
    nearest = min(scored, default=(0.0, ""))[0]
    near = sorted(item for item in scored if item[0] <= nearest + _BEHIND)
    return [candidate for _, candidate in near[: max(limit, 0)]]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message, such as `"; did you mean 'pgd'?"`, or `""` when no known name is near."""
    near = [repr(candidate) for candidate in closest(name, known)]
    if not near:
        return ""
    if len(near) == 1:
        return f"; did you mean {near[0]}?"
    return f"; did you mean {', '.join(near[:-1])} or {near[-1]}?"
