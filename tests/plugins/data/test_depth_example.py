"""The example plugin of a third party: its own tests pass, and it leans on the core's public names alone."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "plugins" / "avrobust-depth"


def test_the_examples_own_tests_pass() -> None:
    path = os.pathsep.join([str(EXAMPLE), str(ROOT), str(ROOT / "plugins")])
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(EXAMPLE / "tests")],
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # Three of its own, and the kit's: each check of each component is a test.
    assert int(re.search(r"(\d+) passed", ran.stdout)[1]) > 20
    assert "failed" not in ran.stdout


def test_the_example_imports_nothing_of_avrobust_but_the_core_itself() -> None:
    modules = sorted((EXAMPLE / "avrobust_depth").glob("*.py"))
    assert len(modules) == 6
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("avrobust"):
                assert node.module == "avrobust_core" or node.module.startswith("avrobust_depth."), module
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("avrobust") for alias in node.names), module
