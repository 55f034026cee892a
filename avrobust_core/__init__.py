"""avrobust: the adversarial robustness of multi-modal models, measured and improved.

Each public name is imported on first use: `import avrobust_core` loads neither torch nor pydantic, so that
`avrobust plugins` answers at once. The names stand once, in `__init__.pyi`, where type checkers look for them too.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_HOME: dict[str, str] = {
    alias.name: statement.module
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom) and statement.module is not None
    for alias in statement.names
}
"""Each public name, and the module that defines it."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'avrobust_core' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
