"""`avrobust doctor`: what it finds amiss, what it leaves alone, and its exit status."""

import json
import sys
from collections import namedtuple

import numpy as np
import pytest

from avrobust_core.cli import doctor, main
from avrobust_core.cli.doctor import requirements

OFFER = """\
from avrobust_core import Component, Config, hookimpl

class Nothing(Config):
    pass

@hookimpl
def avrobust_attacks():
    return [Component(name="gone", summary="Gone.", config=Nothing, build="no_such_module:Attack", extras=("fast",))]
"""


def test_a_sound_installation_has_nothing_amiss(capsys) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "nothing is amiss" in text
    for check in (
        "requirements of avrobust",
        "plugin avrobust:attacks",
        "disk, here",
        "libavcodec",
        "processors",
        "torch",
    ):
        assert check in text


def test_versions_that_do_not_fit_are_named_and_extras_count_where_components_need_them(fake_distribution) -> None:
    info = fake_distribution("picky", "2.0", {}, {}) / "picky-2.0.dist-info" / "METADATA"
    lines = ["numpy<1", "pluggy", "no-such-library>=3", "rich<1; extra == 'fast'", "pyyaml<1; extra == 'other'"]
    lines += ["not-there-either; extra == 'fast'", "scipy<1; python_version < '3'"]
    info.write_text(info.read_text() + "Requires-Python: >=3.99\n" + "".join(f"Requires-Dist: {x}\n" for x in lines))
    found = [(finding.status, finding.message) for finding in requirements("picky", {"fast"})]
    version = sys.version.split()[0]
    assert found[0] == ("failed", f"Python {version} does not fit >=3.99")
    assert found[1] == ("failed", f"numpy {np.__version__} does not fit numpy<1: pip install 'numpy<1'")
    assert found[2] == ("failed", "no-such-library is not installed: pip install 'no-such-library>=3'")
    assert found[3][1].endswith("does not fit rich<1: pip install 'rich<1'")
    assert len(found) == 4
    assert [finding.status for finding in requirements("avrobust", set())] == ["ok"]


def test_entry_points_that_lead_nowhere_full_disks_and_a_torch_that_does_not_load_fail(
    fake_distribution, monkeypatch, capsys
) -> None:
    points = {
        "avrobust_v1": {"stale": "not_a_module", "hollow": "hollow_plugin"},
        "avrobust_v0": {"old": "hollow_plugin"},
    }
    fake_distribution("leftover", "1.0", points, {"hollow_plugin.py": OFFER})
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**20))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    failed = {finding["check"]: finding["message"] for finding in told["findings"] if finding["status"] == "failed"}
    assert told["failed"] == len([finding for finding in told["findings"] if finding["status"] == "failed"])
    assert "No module named 'not_a_module'" in failed["plugin leftover:stale"]
    assert "gone (no_such_module:Attack)" in failed["plugin leftover:hollow"]
    assert "written for avrobust_v0" in failed["plugin leftover:old"]
    assert failed["disk, here"].startswith("0.0 GiB free")
    assert failed["torch"].startswith("cannot be imported")
    assert not any(check.startswith("plugin avrobust:") for check in failed)


def test_code_that_is_not_what_is_installed_is_told_of(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "__version__", "9.9")
    (found,) = doctor._own_version()
    assert found.status == "failed"
    assert "the code is of version 9.9, but installed is 0.1.0" in found.message


@pytest.mark.parametrize("broken", [True, False])
def test_decoders_that_are_missing_are_noted_and_a_library_that_does_not_load_fails(monkeypatch, broken: bool) -> None:
    if broken:
        monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(doctor, "CODECS", ("h264", "no-such-codec"))
    found = doctor._decoding()
    assert found.status == ("failed" if broken else "note")
    assert ("cannot be imported" if broken else "cannot decode no-such-codec;") in found.message
