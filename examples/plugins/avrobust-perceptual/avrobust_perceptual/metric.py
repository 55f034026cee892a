"""The metric `perceptual-size`: how audible and how visible what an attack does is."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import (
    Attack,
    AttackRun,
    AvrobustError,
    Batch,
    Estimate,
    Measurement,
    Metric,
    Probe,
    Subject,
    ThreatModel,
    Victim,
    attack_batch,
    bootstrap,
    where_clips,
)
from avrobust_perceptual.configs import PerceptualSizeConfig
from avrobust_perceptual.limiting import masking_of, rate_of
from avrobust_perceptual.pictures import flicker, ssim

PICTURES = 5
"""The rank of a batch of pictures (B, C, T, H, W); everything else is sound (B, C, T)."""


class PerceptualSize(Metric):
    """How audible and how visible the perturbations of an attack are, over the clips that it breaks.

    A metric is shown clean clips, and a run keeps no perturbations: the metric carries the attack out by itself, on the
    clips that are evaluated. A clip that the attack does not break is left as it was and has no size: its numbers are
    NaN. A clip that the model gets wrong clean is "broken" without a change, and has none either.

    | value | what it is |
    |---|---|
    | broken | share of clips that the attack changes and breaks: those that all other values are over |
    | excess/MODALITY | of sound: mean over bins of what is above the masking threshold, in dB (Qin et al. 2019) |
    | peak-excess/MODALITY | of sound: the bin that is furthest above the threshold, in dB; up to 0 nothing is heard |
    | audible/MODALITY | of sound: share of the perturbation's energy above the threshold; 0 to 1 |
    | audible-db/MODALITY | the same in dB: 10 log10 of that share, of all clips' mean |
    | ssim/MODALITY | of pictures: structural similarity with the clean clip, mean over frames |
    | flicker/MODALITY | of pictures: change of the perturbation from frame to frame, RMS, in 8-bit steps |

    Args:
        config: attack, threat, sample rate.

    Raises:
        AvrobustError: if the attack must see clips first.
    """

    probes = True

    def __init__(self, config: PerceptualSizeConfig) -> None:
        self.config = config
        self.attack: Attack = config.attack.build()
        if self.attack.preparation is not None:
            raise AvrobustError(
                f"perceptual-size cannot carry out {config.attack.use!r}, which must see a whole set of clips first; "
                "name another attack"
            )
        features = [name for name, budget in config.threat.items() if budget.space != "input"]
        if features:
            raise AvrobustError(
                f"perceptual-size: the threat attacks features of {', '.join(features)}, which nobody hears or sees"
            )

    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject.

        Raises:
            AvrobustError: if there is no model, it reads nothing of the threat, or the sample rate is not known.
        """
        if subject.probe is None:
            raise AvrobustError("metric 'perceptual-size' needs the model: it cannot be had for embeddings alone")
        parts = list(self._batches(subject, subject.probe))
        per_clip = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
        broken = per_clip.pop("broken").astype(np.float64)
        values = {"broken": _mean(broken, subject)}
        for name, found in per_clip.items():
            values[name] = _mean(found, subject)
            kind, _, modality = name.partition("/")
            if kind == "audible":
                values[f"audible-db/{modality}"] = _in_decibels(found, subject)
        details = {
            "attack": self.config.attack.identity(),
            "threat": self.config.threat.model_dump(mode="json", exclude_none=True),
            "clips_measured": int(broken.sum()),
        }
        return Measurement(dict(sorted(values.items())), per_clip=per_clip, details=details)

    def _batches(self, subject: Subject, probe: Probe) -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(subject.ids), probe.batch_size):
            yield self._measure(subject, probe, range(first, min(first + probe.batch_size, len(subject.ids))))

    def _measure(self, subject: Subject, probe: Probe, rows: range) -> dict[str, Tensor]:
        """What is found of each clip, by name, (B,) float64; NaN where it is not changed and broken."""
        clean = probe.read(subject.split, rows)
        threat = self._threat(probe, clean)
        targets = torch.as_tensor(np.array(subject.targets[rows.start : rows.stop]), device=probe.device)
        batch = Batch(clean, targets, subject.ids[rows.start : rows.stop])
        victim = Victim(probe.model, media=probe.media, task=subject.task, seed=self.config.seed)
        with victim.frozen(), torch.enable_grad():
            found = attack_batch(victim, batch, AttackRun(self.config.attack.use, self.attack, threat))
        moved = torch.stack([norm > 0 for norm in found.norms.values()]).any(dim=0)
        measured = moved & found.success
        sizes = {"broken": measured.double()}
        for name in threat.modalities:
            # Clips that are left out are measured too, as they are: their numbers are not kept.
            attacked = where_clips(measured, {name: found.inputs[name]}, {name: clean[name]})[name]
            for size, value in self._sizes(probe, name, clean[name], attacked).items():
                sizes[f"{size}/{name}"] = torch.where(measured, value, torch.nan)
        return sizes

    def _threat(self, probe: Probe, clean: dict[str, Tensor]) -> ThreatModel:
        read = getattr(probe.model, "modalities", tuple(clean))
        threat = self.config.threat.restricted([name for name in read if name in clean])
        if threat is None:
            raise AvrobustError(
                f"metric 'perceptual-size': the threat is on {', '.join(self.config.threat.modalities)}, but the model "
                f"reads: {', '.join(sorted(read))}"
            )
        return threat

    def _sizes(self, probe: Probe, name: str, clean: Tensor, attacked: Tensor) -> dict[str, Tensor]:
        change = attacked.double() - clean.double()
        if clean.dim() == PICTURES:
            return {"ssim": ssim(clean, attacked), "flicker": flicker(change)}
        masking = masking_of(name, rate_of(probe.media, name, self.config.rate))
        threshold = masking.threshold(clean)
        return {
            "excess": masking.mean_excess(change, threshold),
            "peak-excess": masking.peak_excess(change, threshold),
            "audible": masking.audible_share(change, threshold),
        }


def _mean(values: NDArray[np.float64], subject: Subject) -> Estimate:
    """The mean of the finite ones of a number per clip, with its interval."""
    return _over(values, subject, lambda mean: mean)


def _in_decibels(shares: NDArray[np.float64], subject: Subject) -> Estimate:
    """10 log10 of the mean share; NaN where that is 0: no finite number says that nothing is heard."""

    def decibels(mean: NDArray[np.float64]) -> NDArray[np.float64]:
        return 10 * np.log10(mean, out=np.full_like(mean, np.nan), where=mean > 0)

    return _over(shares, subject, decibels)


def _over(
    values: NDArray[np.float64], subject: Subject, of: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Estimate:
    known = np.isfinite(values)
    finite = np.where(known, values, 0.0)

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total = weights @ known
        return of(np.divide(weights @ finite, total, out=np.full(len(weights), np.nan), where=total > 0))

    return bootstrap(
        statistic,
        len(values),
        confidence=subject.confidence,
        resamples=subject.resamples,
        seed=subject.seed,
        groups=subject.groups,
    )
