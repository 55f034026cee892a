"""The goal that an attack's entry in a spec sets, and the refusal of what its attack cannot do."""

from collections.abc import Sequence

from avrobust_core.attacks.attack import Attack
from avrobust_core.attacks.goals import Goal
from avrobust_core.config.suggest import closest
from avrobust_core.errors import ComponentError, DataError
from avrobust_core.spec.model import AttackEntry


def refuse_front(name: str, entry: AttackEntry, attack: Attack) -> None:
    """Refuse a front of an attack that does not look for the smallest perturbation.

    Raises:
        ComponentError: names the attack.
    """
    if entry.front is not None and not attack.minimal:
        raise ComponentError(
            f"attack {name!r} asks for a front, but {entry.use} does not look for the smallest perturbation; "
            "use one that does, such as fmn, or leave out `front`"
        )


def entry_goal(name: str, entry: AttackEntry, classes: Sequence[str]) -> Goal:
    """The goal of an attack of a spec, its target class looked up by name.

    Raises:
        DataError: if there is no such class.
    """
    if entry.target is None:
        return Goal(entry.goal)
    if entry.target not in classes:
        near = closest(entry.target, classes)
        raise DataError(
            f"attack {name!r} aims at the class {entry.target!r}, which the data set does not have"
            + (f"; did you mean {' or '.join(near)}?" if near else f"; it has: {', '.join(classes)}")
        )
    return Goal(entry.goal, classes.index(entry.target))
