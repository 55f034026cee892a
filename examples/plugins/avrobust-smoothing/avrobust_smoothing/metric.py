"""`certified-accuracy`: what randomised smoothing proves of a model, clip by clip."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import (
    AvrobustError,
    Estimate,
    Measurement,
    Metric,
    Probe,
    Subject,
    Task,
    bootstrap,
    make_ball,
    share,
)
from avrobust_smoothing.certificates import radius
from avrobust_smoothing.configs import CertifiedAccuracyConfig
from avrobust_smoothing.smoothing import Smoothed


class CertifiedAccuracy(Metric):
    """The accuracy that a smoothed model keeps under every change of a size, with a certificate for each clip.

    The smoothed model answers with the class that the model gives most often to the clip plus Gaussian noise, of a
    standard deviation `sigma` of its own on each modality (Cohen et al. 2019). A clip's radius R is certified, at
    confidence 1 - alpha: no change d with a sum over modalities of (|d|_2 / sigma)^2 below R^2 changes that class. It
    says nothing of the model without the noise, and nothing of changes of modalities without a sigma.

    | value | what it is |
    |---|---|
    | certified/R | share of clips classified right with a certified radius of R standard deviations at least |
    | certified/threat | share of clips classified right whose radius holds the whole of `threat` |
    | smoothed-accuracy | share of clips classified right and certified at any radius: the smoothed model's accuracy |
    | abstained | share of clips of which the draws do not tell the class surely |
    | mean-radius | mean certified radius, 0 where the class is wrong or not sure |

    The radius is per clip, too, as `certified-radius`. Intervals are over clips; that a certificate may be wrong, with
    probability alpha, is not in them.

    Args:
        config: noise, draws, radii.
    """

    shared = True
    tasks: ClassVar[frozenset[Task]] = frozenset({"single-label"})
    probes = True

    def __init__(self, config: CertifiedAccuracyConfig) -> None:
        self.config = config

    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject.

        Raises:
            AvrobustError: if there is no model, it reads none of the modalities that have a sigma, or its logits under
                noise are not finite.
        """
        if subject.probe is None:
            raise AvrobustError(
                "metric 'certified-accuracy' needs the model: it cannot be had for embeddings or predictions alone"
            )
        probe = subject.probe
        rows = range(len(subject.ids))[subject.shares.slice_of(len(subject.ids))]
        parts = subject.shares.together(lambda: subject.shares.gather([self._certify(subject, probe, i) for i in rows]))
        found = np.array([clip for part in parts for clip in part], dtype=np.float64).reshape(-1, 3)
        right, certified, needed = found.T
        sure = np.isfinite(certified)
        counted = np.where(sure & (right > 0), certified, 0.0)
        values = {
            "smoothed-accuracy": _share((right > 0) & sure, subject),
            "abstained": _share(~sure, subject),
            "mean-radius": _mean(counted, subject),
        }
        for size in self.config.radii:
            values[f"certified/{size:g}"] = _share(counted >= size, subject)
        if self.config.threat is not None:
            values["certified/threat"] = _share(counted > needed, subject)
        config = self.config
        most = float(radius(np.array([config.draws]), config.draws, config.alpha)[0])
        details: dict[str, Any] = {
            "sigma": dict(config.sigma),
            "first": config.first,
            "draws": config.draws,
            "alpha": config.alpha,
            "largest_radius": most if np.isfinite(most) else 0.0,
            "forwards_per_clip": config.first + config.draws,
        }
        if config.threat is not None:
            details["threat"] = config.threat.model_dump(mode="json", exclude_none=True)
        if config.radii[-1] > details["largest_radius"]:
            details["notes"] = [
                f"{config.draws} draws certify no radius above {details['largest_radius']:.2f} standard deviations, "
                "whatever the model: more draws do"
            ]
        return Measurement(dict(sorted(values.items())), per_clip={"certified-radius": counted}, details=details)

    def _certify(self, subject: Subject, probe: Probe, row: int) -> tuple[bool, float, float]:
        """Of one clip: is the chosen class right, its radius (NaN: abstained), and the radius that the threat takes."""
        inputs = probe.read(subject.split, [row])
        read = [name for name in getattr(probe.model, "modalities", tuple(inputs)) if name in inputs]
        sigma = {name: value for name, value in self.config.sigma.items() if name in read}
        if not sigma:
            raise AvrobustError(
                f"metric 'certified-accuracy': `sigma` is of {', '.join(sorted(self.config.sigma))}, but the model "
                f"reads: {', '.join(sorted(read))}"
            )
        smoothed = Smoothed(probe.forward, sigma, seed=subject.seed, batch_size=probe.batch_size)
        clip_id = subject.ids[row]
        chosen = int(smoothed.counts(inputs, clip_id, "certify/first", self.config.first).argmax())
        hits = int(smoothed.counts(inputs, clip_id, "certify/draws", self.config.draws)[chosen])
        size = float(radius(np.array([hits]), self.config.draws, self.config.alpha)[0])
        return chosen == int(subject.targets[row]), size, self._needed(inputs, sigma)

    def _needed(self, inputs: Mapping[str, Tensor], sigma: Mapping[str, float]) -> float:
        """The radius, in standard deviations, of the smallest ellipsoid that holds the threat around a clip.

        An l1 ball lies in the l2 ball of its radius, an linf ball of n samples in one of sqrt(n) times its radius.
        Balls side by side can all be filled at once: their squares add up. Of a shared ball one modality can have all.
        """
        threat = self.config.threat
        threat = None if threat is None else threat.restricted(list(sigma))
        if threat is None:
            return 0.0
        sizes = []
        for name, budget in threat.items():
            reach = make_ball(inputs[name], budget, None).radius.double()
            if budget.norm == "linf":
                reach = reach * inputs[name][0].numel() ** 0.5
            sizes.append(reach / sigma[name])
        each = torch.stack(sizes)
        return float(each.amax() if threat.kind == "shared" else each.norm())


def _share(values: NDArray[np.bool_], subject: Subject) -> Estimate:
    return share(values, confidence=subject.confidence, groups=subject.groups)


def _mean(values: NDArray[np.float64], subject: Subject) -> Estimate:
    def mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = weights @ values / weights.sum(axis=1)
        return found

    return bootstrap(
        mean,
        len(values),
        confidence=subject.confidence,
        resamples=subject.resamples,
        seed=subject.seed,
        groups=subject.groups,
    )
