"""A study's audit: kept and reused, switched off, printed beside the numbers, and an exit status of its own."""

import json
from pathlib import Path

import pytest

from avrobust_core.cli import main
from avrobust_core.cli.run import CONTRADICTED

DATA = {"train": 12, "val": 0, "test": 120, "sample_rate": 4000, "seconds": 0.5, "frames": 8, "size": 32}
SPEC = """\
training:
  none: {epochs: 0}
threats:
  both: {audio: {eps: 0.02}, video: {eps: 8/255}}
attacks:
  noise: {use: noise, with: {draws: 60}}
evaluation: {resamples: 200}
engine: {batch_size: 16}
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, small_spec) -> Path:
    path = tmp_path_factory.mktemp("audited") / "spec.yaml"
    path.write_text(small_spec(SPEC, name="audited", models=["concat"], **DATA))
    return path


@pytest.fixture(scope="module")
def run(spec: Path) -> tuple[int, Path]:
    """The exit status of a study whose only attack is random noise, and its folder."""
    out = spec.parent / "run"
    return main(["run", str(spec), "--out", str(out), "--quiet"]), out


def result_of(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def test_a_robust_accuracy_that_the_audit_contradicts_is_an_exit_status_of_its_own(run):
    status, out = run
    assert status == CONTRADICTED == 3
    result = result_of(out)
    assert (result["failed"], result["contradicted"]) == (0, 1)
    (cell,) = result["cells"]
    (found,) = cell["audit"]["contradictions"]
    assert found["threat"] == "both"
    assert found["at_most"] < cell["worst_case"]["both"]["low"]
    assert any(caveat["check"] == "convergence" for caveat in cell["caveats"])


def test_an_audit_costs_at_most_its_share_of_the_attacks_passes(run):
    (cell,) = result_of(run[1])["cells"]
    audit = cell["audit"]
    assert audit["attack_passes"] > 0
    assert 0 < audit["passes"] <= 0.25 * audit["attack_passes"]
    assert audit["share"] == pytest.approx(audit["passes"] / audit["attack_passes"])


def test_an_audit_is_kept_reused_and_made_again_when_damaged(run, spec, monkeypatch, capsys):
    _, out = run
    before = result_of(out)["cells"][0]["audit"]

    def again(*_: object) -> None:
        raise AssertionError("a kept audit is made again")

    with monkeypatch.context() as patch:
        patch.setattr("avrobust_core.study.auditing.auditing.guarded", again)
        assert main(["run", str(spec), "--out", str(out), "--quiet"]) == CONTRADICTED
    assert result_of(out)["cells"][0]["audit"] == before
    printed = capsys.readouterr().out
    assert "? " in printed
    assert "audit: failed" in printed
    assert "is contradicted" in printed
    (path,) = (out / "cells").glob("*/audits/*.json")
    path.write_text(path.read_text().replace('"failed"', '"passed"'))
    main(["run", str(spec), "--out", str(out), "--quiet"])
    remade = result_of(out)["cells"][0]["audit"]
    assert remade | {"seconds": 0} == before | {"seconds": 0}


def test_an_audit_is_switched_off_or_bounded_in_the_spec(run, spec):
    _, out = run
    assert main(["run", str(spec), "--out", str(out), "--quiet", "--set", "audit=off"]) == 0
    result = result_of(out)
    assert result["cells"][0]["audit"] == {"verdict": "off"}
    assert result["reused"] == 1, "an audit is no part of what decides a cell"
    main(["run", str(spec), "--out", str(out), "--quiet", "--set", "audit.share=0.05"])
    audit = result_of(out)["cells"][0]["audit"]
    assert audit["passes"] <= 0.05 * audit["attack_passes"]


@pytest.mark.parametrize("wrong", ["audit=on", "audit.share=0", "audit.clips=0", "audit.hops=3"])
def test_what_an_audit_cannot_be_is_refused(spec, wrong, capsys):
    assert main(["validate", str(spec), "--set", wrong]) == 2
    assert "audit" in capsys.readouterr().err


def test_a_study_whose_audit_fails_keeps_its_results(spec, tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise MemoryError("planted")

    monkeypatch.setattr("avrobust_core.audit.auditing.audit", fails)
    assert main(["run", str(spec), "--out", str(tmp_path), "--quiet"]) == 0
    (cell,) = result_of(tmp_path)["cells"]
    assert cell["audit"]["verdict"] == "not done"
    assert "planted" in cell["audit"]["reason"]
    assert cell["robust_accuracy"]["noise"]["both"]["n"] == 120
    assert not list(tmp_path.glob("cells/*/audits/*")), "it is tried again the next time"
