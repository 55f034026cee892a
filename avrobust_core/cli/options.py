"""Options that several commands share, and what they load: the installed plugins, a spec."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from avrobust_core.errors import AvrobustError

if TYPE_CHECKING:
    from avrobust_core.registry.registry import Registry
    from avrobust_core.spec.loading import LoadedSpec


class UsageError(AvrobustError):
    """The command line cannot be understood, in a way that the parser does not see: exit status 2."""


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the spec's file and `--set`."""
    parser.add_argument("spec", metavar="SPEC", help="the study's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override a value of the spec")


def installed(options: argparse.Namespace) -> Registry:
    """The installed plugins without those of `--no-plugin`.

    Raises:
        ComponentError: if `--no-plugin` names what there is not.
    """
    with redirect_stdout(sys.stderr):  # what a plugin prints on import must not mix with our JSON
        from avrobust_core.cli.layout import complain
        from avrobust_core.notes import collected
        from avrobust_core.registry.registry import Registry

        with collected(lambda note: complain(f"note: {note}")):
            return Registry.discover(disabled=options.no_plugin or ())


def loaded_spec(options: argparse.Namespace) -> tuple[LoadedSpec, Registry]:
    """The spec that the command line names, and the registry that it was checked with, which knows its `prefer`.

    Raises:
        SpecError: with every mistake found.
    """
    return _loaded(options.spec, options, options.set)


def loaded_run(options: argparse.Namespace, *more: str) -> tuple[LoadedSpec, Registry]:
    """The spec of the run in `options.folder` as it was carried out, with `--set` and more overrides; as `loaded_spec`.

    Without its trackers and jobs, since nothing of a run is tracked or sent again: what they need need not be there.

    Raises:
        RunError: if the folder is no run's, or its resolved.yaml is not what the run wrote.
        SpecError: with every mistake found.
    """
    from avrobust_core.errors import RunError
    from avrobust_core.files import refuse_changed

    file: Path = options.folder / "resolved.yaml"
    if not file.is_file():
        raise RunError(f"{options.folder} is no run: it holds no resolved.yaml; `avrobust run` makes one")
    refuse_changed(options.folder)
    return _loaded(file, options, ["track=[]", "engine.cells=null", *options.set, *more])


def _loaded(file: str | Path, options: argparse.Namespace, overrides: Sequence[str]) -> tuple[LoadedSpec, Registry]:
    from avrobust_core.cli.layout import complain
    from avrobust_core.notes import collected
    from avrobust_core.spec.loading import load_spec

    registry = installed(options)
    with collected(lambda note: complain(f"note: {note}")):
        loaded = load_spec(file, registry, overrides)
    return loaded, registry.preferring(loaded.spec.prefer)
