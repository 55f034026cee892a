"""Configurations that the clips do not go with."""

from collections.abc import Iterable

from avrobust_core import Batch, DataError, TrainingStep


def refuse_missing(names: Iterable[str], batch: Batch, where: str) -> None:
    """Refuse modalities that the clips do not have.

    Args:
        names: of modalities.
        batch: the clips.
        where: they are named, like "noise: scale".

    Raises:
        DataError: names them.
    """
    missing = sorted(set(names) - set(batch.inputs))
    if missing:
        raise DataError(f"{where} names {', '.join(missing)}; the clips have {', '.join(sorted(batch.inputs))}")


def time_axis(name: str, step: TrainingStep, who: str, so: str) -> int:
    """The axis of a modality's clips that is time.

    Args:
        name: of the modality.
        step: knows the media.
        who: needs it.
        so: ends the error's sentence.

    Raises:
        DataError: if the data set does not say.
    """
    spec = step.media.get(name)
    if spec is None or spec.time_axis is None:
        raise DataError(
            f"{who}: the data set does not say which axis of {name} is time (time_axis of its MediaSpec){so}"
        )
    return spec.time_axis
