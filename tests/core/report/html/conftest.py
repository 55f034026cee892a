"""A made run in a folder: two models, two seeds, two attacks, every section that a result can have."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from avrobust_core import MediaSpec
from avrobust_core.files import file_hash, write_json
from avrobust_core.report.exported import Row, Written
from avrobust_core.report.media_files import PICTURES, SOUND, Coding, Form, Writer

CLASSES = ("dog", "cat", "owl")
EVIL = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"


def estimate(value: float, half: float = 0.1) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": 12, "method": "bootstrap", "groups": None}


def across(value: float) -> dict[str, Any]:
    return {"across_fits": {"low": value - 0.2, "high": value + 0.2, "degrees": 4.0}}


class MadeRun:
    """The parts of a run; every name and text begins with `prefix`."""

    def __init__(self, folder: Path, prefix: str = "") -> None:
        self.folder = folder
        self.prefix = prefix
        self.result: dict[str, Any] = {}

    def name(self, text: str) -> str:
        return self.prefix + text

    def cell(self, model: str, seed: int, robust: float) -> dict[str, Any]:
        name = self.name
        attacked = estimate(robust) | {
            "attacked": [name("audio")],
            "bounded": True,
            "queries": 20.0,
            "norms": {name("audio"): 0.002},
            "no_gradient": {},
        }
        metric = {"metric": name("density"), "attack": None, "threat": None, "per_class": {}}
        metric |= {"details": {"notes": [name("n")]}}
        clip = {"audit": {"verdict": "passed", "checks": [], "contradictions": [], "left_out": 0}}
        clip["audit"] |= {"passes": 10, "attack_passes": 100, "share": 0.1}
        point = {"direction": {name("audio"): 1.0, name("video"): 0.5}, "median_size": estimate(robust)}
        return {
            "id": f"{model}{seed}",
            "model": name(model),
            "training": name("plain"),
            "seed": seed,
            "clips": 12,
            "clean_accuracy": estimate(0.8),
            "robust_accuracy": {
                name("pgd"): {name("both"): dict(attacked)},
                name("fmn"): {name("both"): dict(attacked)},
            },
            "attack_success_rate": {name("pgd"): {name("both"): estimate(0.3)}},
            "worst_case": {name("both"): estimate(robust)},
            "curves": {name("pgd"): {name("both"): [{"factor": f} | estimate(robust / f) for f in (1.0, 2.0)]}},
            "smallest_perturbation": {name("fmn"): {name("both"): {"median_size": estimate(robust)}}},
            "fronts": {
                name("fmn"): {
                    name("both"): [
                        point | {"budget": {name("audio"): robust, name("video"): robust / 2}},
                        point | {"budget": {name("audio"): robust / 2, name("video"): robust}},
                    ]
                }
            },
            "caveats": [],
            **clip,
            "metrics": [
                metric | {"values": {name("ratio/fused"): estimate(robust)}, "details": {"notes": [name("n")]}}
            ],
            "failures": [],
            "fit": {"clip_forwards": 1000 + seed, "clip_backwards": 1000, "seconds": 3.0, "parameters": 99},
            "made_otherwise": [],
            "files": {},
        }

    def write(self, seeds: tuple[int, ...] = (0, 1), *, finished: bool = True) -> Path:
        name = self.name
        cells = [self.cell(model, seed, robust) for model, robust in (("x", 0.5), ("y", 0.4)) for seed in seeds]
        pooled = [
            cell | {"seeds": list(seeds), "clean_accuracy": estimate(0.75) | across(0.75)}
            for cell in cells
            if cell["seed"] == seeds[0]
        ]
        pair = {"first": {"model": name("x"), "training": name("plain")}}
        pair |= {"second": {"model": name("y"), "training": name("plain")}}
        compared = [
            {
                "entry": 0,
                "question": name("Is x better than y?"),
                **pair,
                "attack": attack,
                "threat": threat,
                "only_first": 3,
                "only_second": 1,
                "difference": estimate(0.2),
                "p_holm": p,
                "across_fits": {"left_out": name("one fit")},
            }
            for attack, threat, p in ((None, None, 0.5), (name("pgd"), name("both"), 0.01))
        ]
        correlation = {
            "level": "clip",
            "robustness": name("pgd/both"),
            "metric": name("density"),
            "predictor": name("r"),
        }
        own = {"modality": name("audio"), "fused": pair["first"], "own": pair["second"], "attack": name("pgd")}
        shares = {"only_fused": estimate(0.2), "only_own": estimate(0.1), "both_right": 9, "p_holm": 0.2}
        self.result = {
            "format": 1,
            "name": name("made"),
            "seed": list(seeds) if len(seeds) > 1 else seeds[0],
            "confidence": 0.95,
            "cells": cells,
            "pooled": pooled if len(seeds) > 1 else [],
            "comparisons": compared,
            "overturned": [own | {"threat": name("both"), "seeds": list(seeds)} | shares],
            "correlations": [correlation | {"beyond_margin": estimate(0.2)} | estimate(0.3)],
            "problems": [{"step": name("pooled"), "message": name("broke"), "traceback": name("Traceback")}],
            "skipped": {},
            "constant": {},
            "data": {"summary": name("made data")},
            "notes": [name("a note")],
        }
        for cell in cells:
            cell["files"]["samples.parquet"] = self._samples(cell)
            write_json(self.folder / "cells" / cell["id"] / "result.json", cell)
        (self.folder / "spec.yaml").write_text(f"# {self.prefix}\nversion: 1\n")
        settings = {"name": name("made"), "threats": {name("both"): {name("audio"): {"norm": "linf", "eps": 0.002}}}}
        (self.folder / "resolved.yaml").write_text(json.dumps(settings))
        write_json(self.folder / "lock.json", {"avrobust": name("0.1.0"), "device": "cpu"})
        if finished:
            self.save()
        return self.folder

    def save(self) -> None:
        write_json(self.folder / "result.json", self.result)

    def _samples(self, cell: dict[str, Any]) -> str:
        """Four clips of each class: all right clean but one dog; under attack all other dogs are taken for cats."""
        rows = []
        for attack in (None, "pgd", "fmn"):
            for i in range(12):
                true = CLASSES[i // 4]
                taken = "cat" if true == "dog" and (attack is None) == (i == 0) else true
                rows.append(
                    {
                        "id": f"clip-{i}",
                        "attack": attack and self.name(attack),
                        "threat": attack and self.name("both"),
                        "labels": [self.name(true)],
                        "prediction": self.name(taken),
                        "correct": taken == true,
                    }
                )
        path = self.folder / "cells" / str(cell["id"]) / "samples.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        return file_hash(path)


class MadeExport:
    """The export of a made run: of each clip the clean version, and one attacked on behalf of each of some cells."""

    media = {  # noqa: RUF012
        "audio": MediaSpec(kind="audio", shape=(1, 4000), rate=4000, bounds=(-1, 1), time_axis=1),
        "video": MediaSpec(kind="video", shape=(3, 8, 16, 16), rate=8, bounds=(0, 1), time_axis=1),
    }
    classes = CLASSES
    task = "single-label"
    split = "test"

    def __init__(self, made: MadeRun) -> None:
        self.made = made
        self.folder = made.folder / "export"
        form = Form.of(self.media)
        self.writer = Writer(form, Coding.of("pcm16", SOUND), Coding.of("ffv1", PICTURES))
        self.findings: dict[str, Any] = {}

    def clip(self, number: int) -> dict[str, Tensor]:
        """A tone of amplitude 0.5 that silence follows; frames that get lighter, on the grid of 8 bits."""
        time = torch.arange(4000) / 4000
        heard = 0.5 * torch.sin(2 * torch.pi * 500 * (number + 1) * time) * (time < 0.5)
        seen = torch.arange(8.0)[:, None, None].expand(3, 8, 16, 16) * 16 / 255 + 0.25098039
        return {"audio": heard[None], "video": seen.clone()}

    def attacked(self, number: int) -> dict[str, Tensor]:
        """Every sample moved by 1/256, every pixel of the left half by 4/255."""
        clip = self.clip(number)
        clip["audio"] += 1 / 256
        clip["video"][..., :8] += 4 / 255
        return clip

    def write(self, cells: tuple[str, ...] = ("x0", "y0"), clips: int = 2) -> Path:
        name = self.made.name
        written = Written(self.folder, self.writer.form, self)

        def row(version: str, number: int, inputs: dict[str, Tensor]) -> Row:
            files = self.writer.write(inputs, self.folder / version, f"clip-{number}")
            paths = {kind: f"{version}/{file}" if file else "" for kind, file in files.items()}
            label = CLASSES[number % 3]
            return Row(f"{version}/clip-{number}", f"clip-{number}", [label], f"clip-{number}", paths, version)

        clean = [row("clean", number, self.clip(number)) for number in range(clips)]
        written.rows.extend(clean)
        found = []
        for cell in cells:
            rows = [row(f"{cell}/pgd", number, self.attacked(number)) for number in range(clips)]
            written.rows.extend(rows)
            entries = [
                {
                    "id": name(f"clip-{number}"),
                    "path": each.files["path"],
                    "fooled": number > 0,
                    "fooled_saved": number > 1,
                    "radius": {name("audio"): 0.004},
                    "norm_saved": {name("audio"): 0.0039},
                    "logits": [0.0, 3.0, 0.0],
                    "logits_saved": [0.0, 2.0, 0.0],
                }
                for number, each in enumerate(rows)
            ]
            found.append(
                {"id": cell, "model": name(cell[0]), "training": name("plain"), "seed": int(cell[1:])}
                | {"clips": [name(f"clip-{number}") for number in range(clips)]}
                | {
                    "clean": {
                        "paths": [each.files["path"] for each in clean],
                        "logits_saved": [[2.0, 0.0, 0.0]] * clips,
                    }
                }
                | {"attacks": [{"attack": name("pgd"), "threat": name("both"), "clips": entries}]}
            )
        written.write_manifest()
        about = {"format": 1, "chosen": name("as told"), "sound": "pcm16", "pictures": "ffv1", "split": "test"}
        self.findings = about | {"cells": found}
        written.write_rest(Path("elsewhere"), self.findings)  # as where it was made, and not where it is now
        return self.folder

    def save(self) -> None:
        write_json(self.folder / "export.json", self.findings)


@pytest.fixture
def made_export() -> Callable[[MadeRun], MadeExport]:
    """The export of a made run; its files are written by `write`."""
    return MadeExport


@pytest.fixture
def made_run(tmp_path: Path) -> Callable[..., MadeRun]:
    """A new made run; its files are written by `write`."""

    def make(prefix: str = "") -> MadeRun:
        folder = tmp_path / "made"
        folder.mkdir()
        return MadeRun(folder, prefix)

    return make


@pytest.fixture
def evil() -> str:
    """A text that is an attack wherever it is taken for markup."""
    return EVIL
