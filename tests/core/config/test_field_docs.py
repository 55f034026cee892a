"""The docstrings below fields are their descriptions, as pydantic's own reading has them."""

import subprocess
import sys

import pytest
from pydantic import ConfigDict, Field

from avrobust_core import Config


class Inner(Config):
    """A part."""

    size: int = 1
    """How large,
    in metres."""


class Base(Config):
    """What others build on."""

    first: int = Field(default=1, ge=0)
    """The first."""
    second: str = "a"
    """The second, of the base."""


class Whole(Base):
    """All of it."""

    second: str = "b"
    """The second, of the whole."""
    inner: Inner = Inner()
    """A part."""
    named: int = Field(default=2, description="Said here.")
    """And not here."""
    bare: int = 0
    last: tuple[Inner, ...] = ()
    """Several parts."""


class Pydantics(Base):
    """The same, read by pydantic."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    second: str = "b"
    """The second, of the whole."""
    named: int = Field(default=2, description="Said here.")
    """And not here."""
    bare: int = 0


def test_descriptions_are_those_that_pydantic_reads() -> None:
    Whole.model_rebuild()
    Pydantics.model_rebuild()
    found = {name: field.description for name, field in Whole.model_fields.items()}
    assert found == {
        "first": "The first.",
        "second": "The second, of the whole.",
        "inner": "A part.",
        "named": "Said here.",
        "bare": None,
        "last": "Several parts.",
    }
    for name, field in Pydantics.model_fields.items():
        assert field.description == found[name]


def test_parts_are_described_in_the_schema_of_the_whole() -> None:
    schema = Whole.model_json_schema()
    assert schema["$defs"]["Inner"]["properties"]["size"]["description"] == "How large,\nin metres."


def test_a_class_inside_a_function_is_found() -> None:
    class Local(Config):
        depth: int = 0
        """How deep."""

    assert Local.model_json_schema()["properties"]["depth"]["description"] == "How deep."


@pytest.mark.parametrize("validate", ["Some()", "Some.model_validate({'x': 1})", "Some.model_json_schema()"])
def test_without_source_nothing_is_described_and_nothing_fails(validate: str) -> None:
    code = f"from avrobust_core import Config\nclass Some(Config):\n    x: int = 0\n    'Text.'\n{validate}\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
