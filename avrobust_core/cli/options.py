"""Options that several commands share, and what they load: the installed plugins, a spec."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avrobust_core.registry.registry import Registry
    from avrobust_core.spec.loading import LoadedSpec


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
        from avrobust_core.registry.registry import Registry

        return Registry.discover(disabled=options.no_plugin or ())


def loaded_spec(options: argparse.Namespace) -> tuple[LoadedSpec, Registry]:
    """The spec that the command line names, and the registry that it was checked with.

    Raises:
        SpecError: with every mistake found.
    """
    from avrobust_core.spec.loading import load_spec

    registry = installed(options)
    return load_spec(options.spec, registry, options.set), registry
