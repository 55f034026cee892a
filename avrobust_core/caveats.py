"""Caveats: what speaks against a number, kept with it wherever it is printed."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """Something that was found on the way to a number, and for which it cannot be taken at its word.

    Attributes:
        check: what found it, a short name in kebab-case: "probabilities", "zero-gradient".
        message: one or two sentences: what was found, with figures and the first clips, and what to do about it.
        attack: whose numbers; None for all numbers of the model.
        threat: under which threat; None for all threats.
    """

    check: str
    message: str
    attack: str | None = None
    threat: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def concerns(caveats: Iterable[Mapping[str, Any]], attack: str | None, threat: str | None) -> bool:
    """True if one of some caveats (as JSON data) speaks against the number of an attack under a threat.

    Args:
        caveats: of one model, as `Caveat.to_json` gives them.
        attack: None for the clean accuracy, which caveats about an attack leave alone.
        threat: None with the clean accuracy.
    """
    return any(caveat["attack"] in (None, attack) and caveat["threat"] in (None, threat) for caveat in caveats)


def describe(caveat: Mapping[str, Any]) -> str:
    """A caveat (as JSON data) as a line below a table: "pgd on both: zero-gradient: no gradient reached ..."."""
    where = [name for name in (caveat["attack"], caveat["threat"]) if name is not None]
    return f"{' on '.join(where)}{': ' if where else ''}{caveat['check']}: {caveat['message']}"
