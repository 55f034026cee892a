"""Clips of `evaluate` as media files: what is asked for, refused before anything is attacked, written at the end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from avrobust_core.api.reading import Reader, rebatched
from avrobust_core.api.requests import AttackRequest, validated
from avrobust_core.attacks.running import AttackRun
from avrobust_core.attacks.victim import Victim
from avrobust_core.blame import sentence
from avrobust_core.config.sections import Section
from avrobust_core.config.suggest import did_you_mean
from avrobust_core.data.batches import Batch
from avrobust_core.errors import DataError, RunError
from avrobust_core.evaluation.outcomes import Intervals, Outcome
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.models.answers import name_of
from avrobust_core.naming import first_of
from avrobust_core.registry.registry import Registry
from avrobust_core.report.export_jobs import (
    Job,
    JobAttack,
    Origin,
    first_right,
    how_chosen,
    refuse_features,
    refuse_taken,
)
from avrobust_core.report.exporting import write_export
from avrobust_core.report.media_files import PICTURES, SOUND, Coding, Form, Writer
from avrobust_core.study.console import Monitor


class ExportSection(Section):
    """What `evaluate` is asked to write; as the options of `avrobust export`."""

    out: Path
    """The folder to make."""
    clips: int = Field(default=8, ge=1)
    """So many clips that the model has right: the first by a hash of their ids."""
    ids: tuple[str, ...] | None = None
    """These clips instead, whether the model has them right or not."""
    sound: str = "pcm16"
    """pcm16, float32, aac:RATE or opus:RATE."""
    pictures: str = "ffv1"
    """ffv1, or h264:RATE."""
    png: bool = False
    """Whether each picture is written as a PNG file, too."""


class Exporting:
    """Writes clips of a loader, attacked and clean.

    Args:
        asked: a folder, or a map of the fields of `ExportSection`.
        read: the loader.
        requests: the attacks.
        ready: from the model and an attack's run to the same after the attack has seen the clips that it prepares from.
        registry: where the data set that reads the files is looked up.

    Raises:
        ComponentError: if a field is not as it must be.
        RunError: if the folder is not empty, no media file holds such clips, sound and pictures last differently long,
            or an attack is on features.
    """

    def __init__(
        self,
        asked: Any,
        read: Reader,
        requests: Sequence[AttackRequest],
        ready: Callable[[Victim, AttackRun], AttackRun],
        registry: Registry,
    ) -> None:
        given = {"out": asked} if isinstance(asked, (str, Path)) else asked
        self.section = validated(ExportSection, given, "export")
        sound, pictures = Coding.of(self.section.sound, SOUND), Coding.of(self.section.pictures, PICTURES)
        self.writer = Writer(Form.of(read.media), sound, pictures, self.section.png)
        _refuse_lengths(self.writer.form)
        if not requests:
            raise RunError("export: there is no attack of which clips could be exported; name one in `attacks`")
        for request in requests:
            refuse_features(f"{request.name}/{request.threat_name}", request.threat)
        refuse_taken(self.section.out)
        self.read = read
        self.ready = ready
        self.registry = registry
        self._clips: Batch | None = None

    def choose(self, clean: Predictions) -> None:
        """Choose the clips, and read them, before anything is attacked.

        Args:
            clean: the predictions on the clean clips.

        Raises:
            DataError: if there is no such clip, or the chosen ones are not of the shape that the media state.
            RunError: if none is classified correctly.
        """
        asked = self.section.ids
        for clip_id in asked or ():
            if clip_id not in clean.ids:
                near = did_you_mean(clip_id, clean.ids) or f"; it gives: {first_of(clean.ids)}"
                raise DataError(f"export: the loader gives no clip {clip_id!r}{near}")
        chosen = first_right(clean, self.section.clips) if asked is None else set(asked)
        if not chosen:
            raise RunError("export: the model classifies no clip correctly; name clips with `ids`")
        found: Batch | None = None
        for batch in self.read.batches():
            positions = [i for i, clip_id in enumerate(batch.ids) if clip_id in chosen]
            if not positions:
                continue
            part = batch.select(torch.tensor(positions, device=batch.targets.device)).to("cpu")
            for name, x in part.inputs.items():
                stated, there = self.writer.form.media[name].shape, tuple(x.shape[1:])
                if there != stated:
                    raise DataError(
                        f"export: the {name} of clip {part.ids[0]!r} is of shape {there}, and its media are of "
                        f"{stated}: all clips of an export are of one shape"
                    )
            found = part if found is None else found.join(part)
        assert found is not None  # the loader gives the same clips each time
        place = {clip_id: i for i, clip_id in enumerate(found.ids)}
        self._clips = found.select(torch.tensor([place[clip_id] for clip_id in clean.ids if clip_id in chosen]))

    def carry_out(
        self,
        victim: Victim,
        clean: Predictions,
        attacked: Sequence[tuple[str, str, AttackRun, Outcome]],
        rates: Mapping[str, Mapping[str, Any]],
        classes: Sequence[str],
        intervals: Intervals,
    ) -> dict[str, Any]:
        """Write the clips that were chosen.

        Args:
            victim: the model.
            clean: its predictions on the clean clips.
            attacked: attack, threat, what was run, and what came of it.
            rates: of success over all clips, by attack and threat.
            classes: their names.
            intervals: of the results.

        Returns:
            What export.json holds, and `out`; or `out` and why it `failed`, since what was measured stands.
        """
        clips, read, name = self._clips, self.read, name_of(victim.model)
        assert clips is not None
        origin = Origin(
            media=read.media,
            classes=classes,
            task=victim.task,
            split="test",
            intervals=intervals,
            registry=self.registry,
            device=read.device,
            batch_size=read.batch_size,
            monitor=Monitor(silent=True),
        )
        right = dict(zip(clean.ids, clean.correct.tolist(), strict=True))
        job = Job(
            label=name,
            names={"model": name},
            victim=victim,
            ids=clips.ids,
            correct=[right[clip_id] for clip_id in clips.ids],
            attacks=[
                JobAttack(
                    attack,
                    threat,
                    run,
                    success=dict(zip(clean.ids, outcome.predictions.success.tolist(), strict=True)),
                    rate=rates.get(attack, {}).get(threat),
                )
                for attack, threat, run, outcome in attacked
            ],
            batches=lambda label: rebatched([clips], read.batch_size),
            ready=lambda run: self.ready(victim, run),
        )
        out, about = self.section.out, {"chosen": how_chosen(self.section.clips, self.section.ids)}
        try:
            return write_export(out, origin, [job], self.writer, about)
        except (RunError, OSError) as error:
            return {"out": str(out), "failed": sentence(error)}


def _refuse_lengths(form: Form) -> None:
    """Refuse sound and pictures of which the stated rates make different lengths: one of the rates is wrong."""
    if form.sound is None or form.pictures is None:
        return
    heard, rate = float(form.seconds), form.media[form.pictures].rate or 0.0
    seen = form.frames / rate
    if abs(heard - seen) > 0.5 / rate:
        raise RunError(
            f"export: by the rates of their media {form.sound} lasts {heard:g} s and {form.pictures} {seen:g} s: state "
            "the rates of what the loader gives"
        )
