"""Checks, their subjects and outcomes, and the running of a list of checks."""

from __future__ import annotations

import copy
import unittest
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Generic, Literal, Self, TypeVar, cast

from avrobust_core.registry.components import Component
from avrobust_core.registry.loading import one_line

S = TypeVar("S")
T = TypeVar("T")

Status = Literal["passed", "failed", "not applicable", "not checked"]


class CheckFailed(AssertionError):
    """A check found a fault; the message says what was found, why it matters and what to do."""


class NotChecked(CheckFailed):
    """Nothing could be checked: no verdict on the subject, and so no success; the message says why."""


class NotApplicable(unittest.SkipTest):  # which pytest, too, takes for a skipped test
    """A check has nothing to say of its subject; the message says why."""


@dataclass(frozen=True, slots=True)
class Renewable(Generic[T]):
    """The base of subjects that are made anew for every check, so that none sees what another has left in them.

    Attributes:
        name: for errors and test ids.
        make: gives it, in the same state at every call.
    """

    name: str
    make: Callable[[], T]

    @classmethod
    def of(cls, made: T | Self, name: str | None = None) -> Self:
        """The subject of what was made: a copy of it at every call."""
        if isinstance(made, cls):
            return made
        return cls(name or type(made).__name__, lambda: copy.deepcopy(cast(T, made)))

    @classmethod
    def of_component(
        cls, component: Component, given: Mapping[str, object] | None = None, name: str | None = None
    ) -> Self:
        """The subject of a component as a plugin offers it, configured by its example or as given.

        Raises:
            ValidationError: if the configuration is not valid.
        """
        config = component.config.model_validate(dict(component.example if given is None else given))
        return cls(name or component.name, lambda: component.make(config))


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """A plain function that takes a subject and raises if it is at fault.

    Attributes:
        function: raises `CheckFailed` or `NotApplicable`; the first line of its docstring says what it looks for.
        faults: the numbers of the known faults of attack libraries that it catches.
    """

    function: Callable[[S], None]
    faults: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Short, for tables and test ids: `batch_mates`."""
        return self.function.__name__.removeprefix("check_")

    @property
    def summary(self) -> str:
        """The fault that it looks for, in one line."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def __call__(self, subject: S) -> None:
        """Check one subject.

        Raises:
            CheckFailed: if it is at fault.
            NotApplicable: if the check has nothing to say of it.
        """
        self.function(subject)

    def __repr__(self) -> str:
        return f"<check {self.name}>"


def check(*faults: int) -> Callable[[Callable[[S], None]], Check[S]]:
    """Make a check of a function; `faults` are the numbers of the known faults that it catches."""
    return lambda function: Check(function, faults)


def checks_in(*modules: ModuleType) -> tuple[Check[Any], ...]:
    """Every check that the modules define, in their order; a plain function `check_...` is one of no known fault."""
    found = [value for module in modules for name, value in vars(module).items() if name.startswith("check_")]
    return tuple(value if isinstance(value, Check) else Check(value) for value in found)


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """The outcome of one check of one subject.

    Attributes:
        check: its name.
        summary: the fault that it looks for.
        faults: the numbers of the known faults that it catches.
        status: passed, failed, not applicable, or not checked: the subject could not be had, so that nothing is known.
        reason: why it failed and what to do, or why it does not apply; empty if it passed.
    """

    check: str
    summary: str
    faults: tuple[int, ...]
    status: Status
    reason: str = ""


def run_check(subject: S, check: Check[S]) -> CheckOutcome:
    """Run one check; whatever it raises becomes part of the outcome."""
    status: Status = "passed"
    reason = ""
    try:
        check(subject)
    except NotApplicable as error:
        status, reason = "not applicable", str(error)
    except NotChecked as error:
        status, reason = "not checked", str(error)
    except CheckFailed as error:
        status, reason = "failed", str(error)
    except Exception as error:  # noqa: BLE001 - what the subject raises is its failure, not the command's
        status, reason = "failed", f"raised {one_line(error)}"
    return CheckOutcome(check.name, check.summary, check.faults, status, reason)
