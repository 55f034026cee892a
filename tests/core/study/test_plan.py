"""What planning asks of a data set: its fingerprint once, and clips that can be told apart."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from avrobust_core.errors import AvrobustError, ComponentError, DataError
from avrobust_core.registry.components import Component, Config
from avrobust_core.registry.discovery import PluginRecord, RegistryEntry
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import load_spec
from avrobust_core.study.building import Builder
from avrobust_core.study.plan import plan
from avrobust_core.study.provenance import lock

SPEC = """\
version: 1
name: many
seed: [0, 1, 2, 3, 4]
data: {use: counted, with: {clips: 2000}}
encoders: {left: flat, right: flat}
models:
  left: {encoders: [left]}
  right: {encoders: [right]}
training:
  short: {epochs: 1}
  long: {epochs: 2}
threats: {all: {left: {eps: 0.1}, right: {eps: 0.1}}}
attacks: {push: push}
"""


class Sizes(Config):
    """How many clips."""

    clips: int = Field(default=4, ge=1)
    """In each split."""


def _component(name: str, config: type[Config] = Config, build: Callable[..., Any] = lambda *_: None) -> Component:
    return Component(name=name, summary=f"The {name}.", config=config, build=build)


@pytest.fixture
def build(blobs: Callable[..., Any], tmp_path: Path) -> Callable[..., Builder]:
    """Return `build(text, ids)`: a builder whose data set counts calls of `fingerprint`, with other ids if given."""

    class Counted(type(blobs())):  # type: ignore[misc]
        prints = 0
        changed: Sequence[object] | None = None

        def ids(self, split: str) -> Sequence[Any]:
            return self.changed if self.changed is not None and split == "test" else super().ids(split)

        def fingerprint(self) -> str:
            type(self).prints += 1
            return "the same"

    def builder(text: str = SPEC, ids: Sequence[object] | None = None) -> Builder:
        Counted.changed = ids
        offers = [
            ("dataset", _component("counted", Sizes, lambda config: Counted(config.clips, config.clips))),
            ("encoder", _component("flat")),
            ("attack", _component("push")),
        ]
        record: dict[str, Any] = {"distribution": "d", "distribution_version": "1"}
        offered = tuple(
            RegistryEntry(kind=kind, component=component, plugin="p", **record) for kind, component in offers
        )
        state: dict[str, Any] = {"module": "m", "group": "g", "status": "ok", "error": None, "milliseconds": 0.0}
        registry = Registry([PluginRecord(name="p", entries=offered, **record, **state)])
        (tmp_path / "s.yaml").write_text(text)
        return Builder(load_spec(tmp_path / "s.yaml", registry).spec, registry)

    return builder


def test_the_fingerprint_is_made_once_however_many_cells_ask(build: Callable[..., Builder], tmp_path: Path) -> None:
    builder = build()
    dataset: Any = builder.dataset()
    cells = plan(builder, dataset, tmp_path)
    locked = lock(builder.registry, cells, "cpu", 1)
    assert len(cells) == 20
    assert locked["data"] == "the same"
    assert dataset.prints == 1
    builder.data_fingerprint(builder.dataset())
    assert dataset.prints == 2, "another data set is asked for its own"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["x", "y", "x"], "two clips have the id 'x': clip 0 of split 'test', and clip 2 of split 'test'"),
        (["x", "train-1"], "two clips have the id 'train-1': clip 1 of split 'train', and clip 1 of split 'test'"),
        (["x", 3], "clip 1 of split 'test' has the id 3, which is no text"),
        (["x", ""], "clip 1 of split 'test' has the id '', which is no text"),
    ],
)
def test_clips_that_ids_cannot_tell_apart_are_refused(
    ids: list[object], message: str, build: Callable[..., Builder]
) -> None:
    with pytest.raises(DataError) as raised:
        build(ids=ids).dataset()
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("left: flat,", "left: {use: flat, modality: lfet},", ComponentError, "reads lfet, but the data set has: left"),
        ("left: flat,", "left: {use: flat, modality: lfet},", ComponentError, "did you mean 'left'?"),
        ("attacks:", "evaluation: {split: tset}\nattacks:", DataError, "no split 'tset'; it has: train, test; did"),
        ("push: push", "push: {use: push, goal: class, target: d}", DataError, "aims at the class 'd', which the data"),
    ],
)
def test_what_the_data_set_does_not_have_is_said_before_anything_is_planned(
    old: str, new: str, error: type[AvrobustError], message: str, build: Callable[..., Builder]
) -> None:
    text = SPEC.replace(old, new).replace("{left: {eps: 0.1}, right", "{right")
    with pytest.raises(error) as raised:
        build(text).dataset()
    assert message in str(raised.value)


def test_a_model_that_no_cell_has_may_read_what_the_data_set_lacks(build: Callable[..., Builder]) -> None:
    text = SPEC.replace("left: flat,", "left: {use: flat, modality: depth},") + "exclude: [{model: left}]\n"
    build(text.replace("{left: {eps: 0.1}, right", "{right")).dataset()
