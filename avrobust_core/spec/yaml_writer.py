"""Write data as YAML that the strict reader, and YAML 1.1 readers too, read back as the same data."""

from __future__ import annotations

import re
from typing import Any

import yaml

from avrobust_core.spec.yaml_reader import BOOL, FLOAT, INT, NULL


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or YAML 1.2 would take for something else; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    # PyYAML writes U+0085 and its like into single quotes, where they are read as line breaks and folded to spaces.
    style = None if value.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
for _tag, _pattern in {"null": NULL, "bool": BOOL, "int": INT, "float": FLOAT}.items():
    # Tried after PyYAML's own rules, and for any first character: text such as 1e-3 or 0o17, plain in YAML 1.1.
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern.pattern})\Z"), None)


def write_yaml(data: Any, *, flow: bool | None = None) -> str:
    """The YAML text of dicts with text keys, lists, text, numbers, booleans and None; keys keep their order.

    Args:
        data: what to write.
        flow: write lists and maps on one line, as [1, 2]; by default only those that hold no others.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow, width=120)
