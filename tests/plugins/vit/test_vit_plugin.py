"""The plugin `vit` is found, names its components without anything heavy, and draws weights from the seed alone."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avrobust_vit.plugin import avrobust_encoders, avrobust_fusions

from avrobust_core import Registry
from avrobust_core.registry.choices import configure


def test_naming_the_components_imports_nothing_heavy() -> None:
    code = (
        "import sys, avrobust_vit.plugin as plugin; list(plugin.avrobust_encoders()); list(plugin.avrobust_fusions());"
        "print(*{'torch', 'torchaudio', 'numpy'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_its_components_are_found_by_name() -> None:
    registry = Registry.discover()
    for kind, components in (("encoder", avrobust_encoders()), ("fusion", avrobust_fusions())):
        for component in components:
            found = configure(registry, kind, component.name, dict(component.example))
            offer, config = found.offer, found.config
            assert offer.plugin == "vit"
            assert isinstance(config, component.config)


@pytest.mark.parametrize("name", ["ast", "cav-mae-audio", "cav-mae-video"])
def test_weights_depend_on_the_seed_alone_and_are_finite(make: Callable[..., Any], name: str) -> None:
    fields = {"width": 16, "heads": 2, "depth": 1} | ({} if name == "cav-mae-video" else {"frames": 32})
    one, other = make(name, **fields), make(name, **fields)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.isfinite().all()
