"""The page as Chromium shows it: everything in it loads without a network, and nothing in it runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from avrobust_core.cli import main

LOOK = Path(__file__).parents[4] / ".ci" / "look.py"


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="there is no Chromium here")
def test_a_browser_shows_all_of_the_page_at_any_width_and_runs_none_of_its_texts(made_run, made_export, evil) -> None:
    made = made_run(evil)
    made.write()
    made_export(made).write()
    assert main(["report", str(made.folder)]) == 0
    windows = ("1280-light", "375-dark")
    axe = [f"--axe={os.environ['AXE']}"] if "AXE" in os.environ else []  # axe.min.js of npm's axe-core
    ran = subprocess.run(
        [sys.executable, str(LOOK), str(made.folder / "report.html"), "--windows", *windows, *axe],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines() == [f"{window}: 20 images, 6 players; faults: 0" for window in windows]
