"""The base of every part of a spec."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every part of a spec: frozen, no unknown fields, every field described."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True)
