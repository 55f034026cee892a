"""Density and convexity of latent spaces: metrics of a study, and functions on arrays."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avrobust_geometry.convexity.arrays import convexity, graph_convexity
    from avrobust_geometry.density.arrays import density

_HOME = {"convexity": "convexity.arrays", "graph_convexity": "convexity.arrays", "density": "density.arrays"}

__all__ = ["convexity", "density", "graph_convexity"]


class _Package(ModuleType):
    """Keeps the functions under their names, which importing the folders of the same names would take over."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'avrobust_geometry' has no attribute {name!r}")
    value = getattr(import_module(f"avrobust_geometry.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
