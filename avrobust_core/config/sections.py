"""The base of every part of a spec."""

from pydantic import ConfigDict

from avrobust_core.config.field_docs import Described


class Section(Described):
    """Base of every part of a spec: frozen, no unknown fields, every field described."""

    model_config = ConfigDict(populate_by_name=True)
