"""One file for a leaderboard: what a preset found of each model, with what it was found."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from avrobust_core.bench.presets import Preset
from avrobust_core.caveats import concerns, describe
from avrobust_core.config.errors import configuration_errors, location_text
from avrobust_core.errors import RunError
from avrobust_core.files import file_hash, read_json


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(_Part):
    """A share of clips, with its interval."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(ge=1, description="Clips, or groups of them, that the interval is over.")
    method: str
    doubts: list[str] = Field(description="What speaks against the number; empty if nothing does.")

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]{' ?' if self.doubts else ''}"


class BenchInfo(_Part):
    """The preset."""

    name: str
    version: int = Field(ge=1)
    digest: str = Field(description="A hash of the preset's file.")
    headline_attack: str | None
    headline_threat: str


class DataInfo(_Part):
    """What the models were evaluated on."""

    component: str
    fingerprint: str
    clips: int = Field(ge=1)
    whole: bool = Field(description="Whether all clips of the split were asked for.")
    unreadable: int = Field(ge=0)
    confidence: float = Field(gt=0, lt=1, description="Of the intervals.")


class ModelResult(_Part):
    """One fitted model."""

    model: str
    training: str
    seed: int
    modalities: list[str]
    parameters: int = Field(ge=0)
    weights: str = Field(description="A hash of the weights' file.")
    regime: dict[str, Any] = Field(description="How it was trained, as resolved.")
    clean: Number
    robust: dict[str, dict[str, Number]] = Field(description="By attack and threat, where it touches the model.")
    worst: dict[str, Number] = Field(description="By threat, the share that no attack broke.")
    audit: str = Field(description="The verdict: passed, failed, contradicted, off, ...")
    attack_passes: int | None
    seconds: float = Field(ge=0)

    @property
    def label(self) -> str:
        """For tables."""
        return f"{self.model}/{self.training}, seed {self.seed}"


class MadeWith(_Part):
    """The program."""

    avrobust: str
    python: str
    device: str
    libraries: dict[str, str]
    plugins: dict[str, str]


class BenchResult(_Part):
    """The whole file."""

    format: Literal["avrobust-bench/1"]
    bench: BenchInfo
    data: DataInfo
    made_with: MadeWith
    models: list[ModelResult] = Field(min_length=1)

    def headline(self, result: ModelResult) -> Number | None:
        """The number that stands for a model; None if it reads nothing of what is attacked."""
        attack, threat = self.bench.headline_attack, self.bench.headline_threat
        return (result.worst if attack is None else result.robust.get(attack, {})).get(threat)


def bench_result(preset: Preset, run: Path, resolved: Mapping[str, Any], *, whole: bool) -> BenchResult:
    """What a run of a preset found.

    Args:
        preset: which was carried out.
        run: the run's folder.
        resolved: its spec, as `LoadedSpec.resolved` gives it.
        whole: whether all clips of the split were asked for.

    Raises:
        RunError: if a cell failed: half a result is none.
    """
    result, lock = read_json(run / "result.json"), read_json(run / "lock.json")
    broken = [cell for cell in result["cells"] if "error" in cell or cell["failures"]]
    if broken:
        names = ", ".join(f"{cell['model']}/{cell['training']}" for cell in broken)
        raise RunError(f"{run}: {names} failed, so there is no bench result; the same command tries again")
    test = result["data"]["splits"].get("test", {})
    return BenchResult(
        format="avrobust-bench/1",
        bench=BenchInfo(
            name=preset.name,
            version=preset.version,
            digest=preset.digest,
            headline_attack=preset.headline["attack"],
            headline_threat=str(preset.headline["threat"]),
        ),
        data=DataInfo(
            component=resolved["data"]["use"],
            fingerprint=lock["data"],
            clips=max(cell["clips"] for cell in result["cells"]),
            whole=whole,
            unreadable=test.get("unreadable", 0),
            confidence=result["confidence"],
        ),
        made_with=MadeWith(
            avrobust=lock["avrobust"],
            python=lock["python"],
            device=lock["device"],
            libraries=lock["libraries"],
            plugins={name: plugin["version"] for name, plugin in lock["plugins"].items()},
        ),
        models=[_model(cell, run, resolved) for cell in result["cells"]],
    )


def _model(cell: Mapping[str, Any], run: Path, resolved: Mapping[str, Any]) -> ModelResult:
    caveats, audit = cell["caveats"], cell["audit"] or {}

    def number(found: Mapping[str, Any], about: Iterable[Mapping[str, Any]]) -> Number:
        kept = {name: found[name] for name in ("value", "low", "high", "n", "method")}
        return Number(**kept, doubts=[describe(each) for each in about])

    attacks: Mapping[str, Mapping[str, Any]] = cell["robust_accuracy"]
    return ModelResult(
        model=cell["model"],
        training=cell["training"],
        seed=cell["seed"],
        modalities=cell["modalities"],
        parameters=cell["fit"]["parameters"],
        weights=file_hash(run / "cells" / cell["id"] / "model.safetensors"),
        regime=resolved["training"][cell["training"]],
        clean=number(cell["clean_accuracy"], [each for each in caveats if concerns([each], None, None)]),
        robust={
            attack: {
                threat: number(found, [each for each in caveats if concerns([each], attack, threat)])
                for threat, found in threats.items()
                if found["attacked"]
            }
            for attack, threats in attacks.items()
        },
        worst={
            threat: number(found, [each for each in caveats if each["threat"] in (None, threat)])
            for threat, found in cell["worst_case"].items()
            if any(threats[threat]["attacked"] for threats in attacks.values() if threat in threats)
        },
        audit=audit.get("verdict", "off"),
        attack_passes=audit.get("attack_passes"),
        seconds=cell["evaluation_seconds"],
    )


def read_result(path: Path) -> BenchResult:
    """Read such a file.

    Raises:
        RunError: if it cannot be read, or is something else; says where it is wrong.
    """
    try:
        return BenchResult.model_validate(read_json(path))
    except ValidationError as error:
        faults = [f"{location_text(place)}: {text}" for place, text in configuration_errors(BenchResult, error)]
        raise RunError(f"{path} is no result of `avrobust bench`: {'; '.join(faults[:5])}") from error
