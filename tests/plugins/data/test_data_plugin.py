"""The plugin module: what it offers, described in full and named without loading anything heavy."""

import subprocess
import sys

import pytest
from avrobust_data.plugin import avrobust_datasets

from avrobust_core import Dataset


def test_it_offers_its_data_sets_with_valid_examples() -> None:
    components = {component.name: component for component in avrobust_datasets()}
    published = {"audioset", "kinetics-sounds", "vggsound", "ave"}
    assert components.keys() == {"toy-av", "clips", "features", "folder", "shards"} | published
    for component in components.values():
        config = component.config.model_validate(component.example)
        assert config.identity().keys() <= set(component.config.model_fields)
    assert isinstance(components["toy-av"].make(components["toy-av"].config()), Dataset)


@pytest.mark.parametrize("component", list(avrobust_datasets()), ids=lambda component: component.name)
def test_every_field_is_described(component) -> None:
    assert [name for name, field in component.config.model_fields.items() if not field.description] == []


def test_naming_the_components_loads_nothing_heavy() -> None:
    code = (
        "import sys; from avrobust_data.plugin import avrobust_datasets; list(avrobust_datasets());"
        "heavy = {'torch', 'numpy', 'av', 'lightning', 'sklearn', 'scipy', 'h5py'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
