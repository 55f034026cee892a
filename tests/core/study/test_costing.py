"""What a study is foretold to cost: passes equal those counted in a real run, or bound them and say so."""

import json
import re

import pyarrow.parquet as pq
import pytest

from avrobust_core.attacks.passes import Passes
from avrobust_core.cli import cost, main
from avrobust_core.naming import bytes_named
from avrobust_core.registry.registry import Registry
from avrobust_core.spec.loading import load_spec
from avrobust_core.study import calibrating
from avrobust_core.study.building import Builder
from avrobust_core.study.calibrating import Calibration
from avrobust_core.study.costing import Costing, Sizes
from avrobust_core.study.plan import plan
from avrobust_core.study.runner import carry_out

SPEC = """\
version: 1
name: costs
data:
  use: toy-av
  with: {classes: 4, labels_per_clip: %d, train: 26, val: 6, test: 10, sample_rate: 1000, frames: 4, size: 8}
encoders:
  audio: {use: cnn, with: {channels: [4], n_mels: 16}}
models: {heard: {encoders: [audio]}}
training:
  standard: {epochs: 2, batch_size: 8}
  fast:
    epochs: 1
    batch_size: 8
    select: robust
    against: noise/audio
    augment: [{use: fast-at, with: {threats: [{audio: {eps: 0.01}}]}}]
threats: {audio: {audio: {eps: 0.01}}}
attacks:
  pgd: {use: pgd, with: {steps: 3, restarts: 2}, curve: [0.5]}
  mim: {use: mim, with: {steps: 2}, goal: runner-up}
  noise: {use: noise, with: {draws: 3}}
  square: {use: square, with: {queries: 6}}
  universal: {use: universal, with: {epochs: 2}}
  fmn: {use: fmn, with: {steps: 4, trim: 2}}
exclude: [{training: fast, attack: "[a-oq-z]*"}]
metrics: [accuracy, density]
audit: off
evaluation: {resamples: 100}
engine: {batch_size: 4, accelerator: cpu}
"""


class Planned:
    def __init__(self, folder, labels):
        file = folder / "spec.yaml"
        file.write_text(SPEC % labels)
        registry = Registry.discover()
        self.loaded = load_spec(str(file), registry, [])
        self.builder = Builder(self.loaded.spec, registry)
        self.dataset = self.builder.dataset()
        self.root = folder / "run"
        self.cells = plan(self.builder, self.dataset, self.root)
        self.calibration = Calibration(self.builder, self.dataset)

    def costs(self, sizes=None, devices=1):
        costing = Costing(self.builder, self.dataset, self.calibration, sizes or Sizes(), devices)
        return [costing.cost(cell) for cell in self.cells]


@pytest.fixture(scope="module", params=[1, 2], ids=["one label", "several"])
def carried_out(request, tmp_path_factory):
    """A study of clips with one label or several, carried out, and what it was foretold to cost before."""
    planned = Planned(tmp_path_factory.mktemp("costs"), request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrating, "SECONDS", 0)
        before = planned.costs()
    result = carry_out(planned.loaded, planned.builder.registry, out=planned.root, silent=True)
    assert not result["failed"]
    return planned, before, request.param


def test_foretold_passes_are_those_counted_or_bound_them_and_say_so(carried_out):
    planned, costs, labels = carried_out
    exact = set()
    for cell, found in zip(planned.cells, costs, strict=True):
        parts = {part.name: part for part in found.parts}
        fit = json.loads((cell.folder / "fit.json").read_text())
        assert parts["fit"].backwards == fit["clip_backwards"]
        if cell.training == "standard":
            assert parts["fit"].known == "exactly"
            assert parts["fit"].forwards == fit["clip_forwards"] == 2 * (24 + 6)
        else:  # two passes over 24 clips, a look at 6 more, and an attack of 4 passes on those of them that are correct
            assert parts["fit"].known == "at most"
            assert 54 <= fit["clip_forwards"] <= 54 + 6 * 4 == parts["fit"].forwards
        for evaluation in cell.evaluations[1:]:
            part = parts[evaluation.label]
            table = pq.read_table(evaluation.folder / "predictions.parquet").to_pydict()
            for stated, counted in ((part.forwards, table["queries"]), (part.backwards, table["backwards"])):
                if part.known == "exactly":
                    assert set(counted) == {stated // part.clips}, evaluation.label
                else:
                    assert part.known == "at most"
                    assert max(counted) * part.clips <= stated, evaluation.label
            exact |= {evaluation.attack} if part.known == "exactly" else set()
    # Of several labels no clip is ever done; only searches for the smallest perturbation depend on what they find.
    assert exact == ({"universal"} if labels == 1 else {"pgd", "mim", "noise", "square", "universal"})


def test_what_is_done_costs_nothing_more_and_other_numbers_of_clips_count_anew(carried_out):
    planned, before, _ = carried_out
    assert all(part.known == "unknown" or part.seconds > 0 for cost in before for part in cost.parts)
    after = planned.costs()
    assert all(part.done for found in after for part in found.parts if part.name in ("fit", "clean", "pgd/audio"))
    assert all(found.seconds < each.seconds for found, each in zip(after, before, strict=True))
    many, shared = planned.costs(Sizes(26_000, 1000)), planned.costs(Sizes(26_000, 1000), devices=4)
    parts = {part.name: part for part in many[0].parts}
    assert parts["fit"].forwards == 2 * (26_000 + 6)
    assert parts["pgd/audio"].forwards == 100 * {part.name: part for part in before[0].parts}["pgd/audio"].forwards
    assert parts["embeddings of train"].clips == 26_000
    assert not any(part.done for part in many[0].parts)
    for part, spread in zip(many[0].parts, shared[0].parts, strict=True):
        if part.name == "universal/audio":  # every process prepares it by itself
            assert part.seconds / 4 < spread.seconds < part.seconds
        else:
            share = 1 if part.name == "density" else 4  # measured in the first process
            assert spread.seconds == pytest.approx(part.seconds / share)


def test_the_command_tells_each_cell_and_all_of_them(carried_out, capsys, monkeypatch):
    planned = carried_out[0]
    monkeypatch.setattr(calibrating, "Calibration", lambda builder, dataset: planned.calibration)
    arguments = ["plan", str(planned.root.parent / "spec.yaml"), "--out", str(planned.root), "--cost"]
    assert main([*arguments, "--clips", "2000000", "--devices", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["cost"]
    assert [cell["model"] for cell in told["cells"]] == ["heard", "heard"]
    assert told["devices"] == 8
    assert told["seconds"] == pytest.approx(sum(cell["seconds"] for cell in told["cells"]), abs=0.01)
    assert told["disk"] > 2_000_000 * 4
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert re.search(r"pgd/audio +10 +(<= )?[\d,]+ +(<= )?[\d,]+ ", text)
    assert re.search(r"all that is left: (at most )?[\d.]+ .* on 1 x cpu", text)
    assert main([*arguments[:-1], "--clips", "7"]) == 2
    assert "--cost" in capsys.readouterr().err
    assert main([*arguments, "--devices", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_what_an_attack_does_not_state_is_left_out_and_said(carried_out, monkeypatch):
    planned = carried_out[0]
    monkeypatch.setattr("avrobust_attacks.blackbox.square.Square.passes", lambda self, occasion: None)
    parts = {part.name: part for part in planned.costs()[0].parts}
    assert (parts["square/audio"].known, parts["square/audio"].seconds) == ("unknown", None)
    assert parts["pgd/audio"].seconds > 0


def test_passes_add_up_and_a_sum_is_exact_only_if_all_of_it_is():
    assert Passes(2, 1) + Passes(3, 0) == Passes(5, 1)
    assert (Passes(2, 1) + Passes(3, 0, exact=False)).exact is False
    assert Passes(2, 1, exact=False).times(3) == Passes(6, 3, exact=False)


def test_durations_and_sizes_are_in_units_that_can_be_read():
    assert [cost.duration(seconds) for seconds in (0.5, 90, 7200, 86400 * 400)] == [
        "0.5 s",
        "1.5 min",
        "2 h",
        "1.1 years",
    ]
    assert [bytes_named(count) for count in (12, 2048, 1023 * 2**10, 3 * 2**30)] == [
        "12 bytes",
        "2 KiB",
        "1023 KiB",
        "3 GiB",
    ]
