"""Curves, fronts, targets, features, a shared ball, a universal perturbation: a spec that asks for all, as a user."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

SUITE = """\
training:
  standard: {epochs: 2, batch_size: 16}
threats:
  both: {audio: {eps: 0.02}, video: {eps: 8/255}}
  shared: {kind: shared, audio: {norm: l2, eps: 1}, video: {norm: l2, eps: 2}}
  log-mel: {audio: {eps: 2.0, space: features}}
  still: {video: {eps: 8/255, time_invariant: true}}
  two-frames: {video: {norm: l0, eps: 2, per: frame, cap: 0.2}}
  sparse: {audio: {norm: l1, eps: 5}}
attacks:
  pgd: {use: pgd, with: {steps: 3}, curve: [0.1, 0.5, 3]}
  aimed: {use: pgd, with: {steps: 3}, threats: [both], goal: runner-up}
  fmn: {use: fmn, with: {steps: 10}, threats: [both], front: 3, curve: [2]}
  universal: {use: universal, with: {epochs: 1}, threats: [both]}
  drop: {use: drop, with: {replace: other-clip}, threats: [both]}
  noise: {use: noise, threats: [both, shared]}
metrics: [accuracy, map]
evaluation: {resamples: 200}
engine: {batch_size: 8}
"""


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow) for n in (1, 2)],
    ids=["single-label", "multi-label"],
)
def ran(request, tmp_path_factory, run_command, small_spec):
    folder = tmp_path_factory.mktemp("suite")
    spec = folder / "suite.yaml"
    spec.write_text(small_spec(SUITE, name="suite", classes=4, labels_per_clip=request.param))
    return run_command("run", spec, "--out", folder / "out", "--json"), folder / "out", spec


def test_the_suite_runs_and_every_number_has_its_interval(ran, last_json) -> None:
    found, out, _ = ran
    assert found.returncode == 0, found.stderr
    for cell in last_json(found.stdout)["cells"]:
        for threats in (*cell["robust_accuracy"].values(), *cell["attack_success_rate"].values()):
            for estimate in threats.values():
                if estimate["value"] is not None:
                    assert estimate["low"] <= estimate["value"] <= estimate["high"]
        rows = pq.read_table(out / "cells" / cell["id"] / "samples.parquet").to_pylist()
        assert len(rows) == 24 * (1 + 6 + 1 + 1 + 1 + 1 + 2)


def test_curves_fall_and_the_whole_threat_is_the_headline(ran, last_json) -> None:
    found, _, _ = ran
    for cell in last_json(found.stdout)["cells"]:
        for attack, threats in cell["curves"].items():
            for threat, curve in threats.items():
                values = [point["value"] for point in curve]
                assert values == sorted(values, reverse=True), (attack, threat)
        if last_json(found.stdout)["task"] == "single-label":
            at_one = next(point for point in cell["curves"]["pgd"]["both"] if point["factor"] == 1.0)
            assert at_one["value"] == cell["robust_accuracy"]["pgd"]["both"]["value"]


def test_a_front_is_measured_where_two_modalities_are_attacked(ran, last_json) -> None:
    found, _, _ = ran
    audio, concat = last_json(found.stdout)["cells"]
    assert audio["fronts"] == {}
    front = concat["fronts"]["fmn"]["both"]
    assert [point["direction"]["video"] for point in front] == pytest.approx([0, 1, 1])
    assert [point["direction"]["audio"] for point in front] == pytest.approx([1, 1, 0])
    assert "smallest joint budgets" in found.stderr


def test_map_is_measured_under_each_attack(ran, last_json) -> None:
    found, _, _ = ran
    for cell in last_json(found.stdout)["cells"]:
        under = {entry["attack"] for entry in cell["metrics"] if entry["metric"] == "map"}
        assert under == {None, "pgd", "aimed", "fmn", "universal", "drop", "noise"}


def test_a_second_run_reuses_all_of_it(ran, run_command, last_json, comparable) -> None:
    found, out, spec = ran
    again = run_command("run", spec, "--out", out, "--json")
    assert again.returncode == 0, again.stderr
    assert last_json(again.stdout)["reused"] == 2
    assert comparable(last_json(again.stdout)) == comparable(last_json(found.stdout))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("attacks.aimed.goal=class", "belongs to `goal: class`"),
        ("attacks.pgd.front=3", "attack 'pgd' asks for a front, but pgd does not look for the smallest perturbation"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    override: str, message: str, tmp_path: Path, run_command, small_spec
) -> None:
    spec = tmp_path / "suite.yaml"
    spec.write_text(small_spec(SUITE, name="suite", classes=4))
    ran = run_command("run", spec, "--out", tmp_path / "out", "--set", override)
    assert ran.returncode != 0
    assert message in ran.stderr
    assert not list((tmp_path / "out").glob("cells/*/model.safetensors"))


def test_a_target_class_must_be_one_of_the_data_set(tmp_path: Path, run_command, small_spec) -> None:
    spec = tmp_path / "suite.yaml"
    suite = SUITE.replace("goal: runner-up", "goal: class, target: whistle")
    spec.write_text(small_spec(suite, name="suite", classes=4))
    ran = run_command("run", spec, "--out", tmp_path / "out")
    assert ran.returncode == 1
    assert "attack 'aimed' aims at the class 'whistle', which the data set does not have" in ran.stderr
