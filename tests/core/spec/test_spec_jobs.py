"""`engine.cells`: a name or a map, what belongs to which kind of job, and what is missing to send them."""

from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from avrobust_core.registry.registry import Registry
from avrobust_core.spec import jobs
from avrobust_core.spec.json_schema import spec_schema
from avrobust_core.spec.loading import LoadedSpec
from avrobust_core.spec.nodes import plain
from avrobust_core.spec.problems import Problem
from avrobust_core.spec.yaml_reader import read_yaml


def with_cells(good: str, cells: str) -> str:
    return f"{good}engine: {{cells: {cells}}}\n"


@pytest.mark.parametrize(
    "cells", ["local", "slurm", "{where: slurm, hours: 12, sbatch: {account: x, exclusive: true}}"]
)
def test_a_name_is_a_map_with_defaults_and_the_resolution_says_all_of_it(
    good: str, cells: str, load: Callable[..., LoadedSpec], registry: Registry
) -> None:
    text = with_cells(good, cells)
    loaded = load(text)
    section = loaded.spec.engine.cells
    assert section is not None
    assert section.at_once is None
    assert load(loaded.resolved_yaml()).spec.engine == loaded.spec.engine
    root = read_yaml(text, "t").root
    assert root is not None
    assert Draft202012Validator(spec_schema(registry)).is_valid(plain(root))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("loca", "engine.cells: expected local, slurm or a map with where, at_once, gpus, cpus, memory_gib, hours"),
        ("{hours: 2}", "'where' is missing in engine.cells"),
        ("{where: local, hours: 2, partition: x}", "engine.cells: hours, partition: for SLURM; local jobs share this"),
        ("{where: slurm, hours: 0}", "engine.cells.hours: must be above 0, found 0"),
        (
            "{where: slurm, sbatch: {x: false}}",
            "engine.cells.sbatch.x: expected text, a whole number, a number or true",
        ),
    ],
)
def test_what_cannot_be_meant_is_said(
    good: str, cells: str, message: str, problems_of: Callable[..., list[Problem]]
) -> None:
    (problem,) = problems_of(with_cells(good, cells))
    assert problem.message.startswith(message), problem.message


def test_without_submitit_the_spec_says_what_to_install(
    good: str, load: Callable[..., LoadedSpec], problems_of: Callable[..., list[Problem]], monkeypatch: Any
) -> None:
    monkeypatch.setattr(jobs, "find_spec", lambda name: None)
    (problem,) = problems_of(with_cells(good, "slurm"))
    assert problem.message.endswith("submitit, which is missing: pip install 'avrobust[slurm]'")
    assert load(with_cells(good, "local")).spec.engine.cells is not None
