"""Margin: in logits, and to first order in the radii of a threat; how fast the loss rises inside them."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avrobust_core import (
    AvrobustError,
    Ball,
    Estimate,
    Measurement,
    Metric,
    Probe,
    Subject,
    ThreatModel,
    bootstrap,
    classification_loss,
    joint_gradient,
    leaves_of,
    make_ball,
    margin,
    not_finite,
    refuse_not_finite,
    share,
)
from avrobust_metrics.calibration import robust_estimate
from avrobust_metrics.configs import MarginConfig
from avrobust_metrics.predictions import own_classes

JOINT = "joint"
"""In place of a modality: all of the threat's at once."""


class Margin(Metric):
    """How far clips are from being taken for another class, of clean clips and their gradients alone.

    The first-order distance of a clip is the factor of the threat's radii at which a linear model with the same logits
    and gradients would change its answer: the margin to a rival class over the most that it falls within one radius,
    the least of all rivals (Hein and Andriushchenko 2017; the step of DeepFool, Moosavi-Dezfooli et al. 2016). It is 0
    where the clip is misclassified already, and infinite where no gradient arrives, which is masking, not robustness.
    Bounds of the media are left aside; padding, which no attack may change, has no part in it.

    | value | what it is |
    |---|---|
    | margin | mean logit margin: the best of the clip's own classes minus the best of the others |
    | distance/MODALITY, distance/joint | mean first-order distance, in radii; above `cap` it counts as `cap` |
    | withstands/MODALITY, withstands/joint | share of clips whose first-order distance is above 1 |
    | loss-rise/MODALITY, loss-rise/joint | mean first-order rise of the loss over one radius: its gradient's norm |
    | robust-estimate | withstands/joint with an interval of prediction for robust accuracy under a strong attack |

    `robust-estimate` is there for a threat on several modalities, where clips have one label: it is no attack, and says
    nothing where gradients are masked (`avrobust_metrics.calibration`). Each but the first and the last also per clip.
    A modality of the threat that the model does not read is left out.

    Args:
        config: threat, rivals and cap.
    """

    probes = True

    def __init__(self, config: MarginConfig) -> None:
        self.config = config

    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject.

        Raises:
            AvrobustError: if there is no model, a gradient is not finite, or the model reads nothing of the threat.
        """
        if subject.probe is None:
            raise AvrobustError("metric 'margin' needs the model: it cannot be had for embeddings or predictions alone")
        config = self.config
        parts = list(self._batches(subject, subject.probe))
        per_clip = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
        values = {"margin": _mean(_margins(subject), subject)}
        for name, found in per_clip.items():
            if name.startswith("distance/"):
                values[name] = _mean(np.minimum(found, config.cap), subject)
                values[name.replace("distance", "withstands")] = share(
                    found > 1, confidence=subject.confidence, groups=subject.groups
                )
            else:
                values[name] = _mean(found, subject)
        if f"withstands/{JOINT}" in values and subject.task == "single-label":
            values["robust-estimate"] = robust_estimate(values[f"withstands/{JOINT}"], subject.confidence)
        rivals = self._rivals(subject)
        details = {
            "threat": config.threat.model_dump(mode="json", exclude_none=True),
            "cap": config.cap,
            "forwards_per_clip": 1,
            "backwards_per_clip": rivals + 1,
        }
        return Measurement(dict(sorted(values.items())), per_clip=per_clip, details=details)

    def _rivals(self, subject: Subject) -> int:
        return min(self.config.rivals, len(subject.classes) - 1)

    def _batches(self, subject: Subject, probe: Probe) -> Iterator[dict[str, Tensor]]:
        """What is found per clip, by name, each (B,) float64."""
        for first in range(0, len(subject.ids), probe.batch_size):
            rows = range(first, min(first + probe.batch_size, len(subject.ids)))
            yield self._measure(subject, probe, list(rows))

    @torch.enable_grad()
    def _measure(self, subject: Subject, probe: Probe, rows: list[int]) -> dict[str, Tensor]:
        inputs = probe.read(subject.split, rows)
        read = getattr(probe.model, "modalities", tuple(inputs))
        threat = self.config.threat.restricted([name for name in read if name in inputs])
        if threat is None:
            raise AvrobustError(
                f"metric 'margin': the threat is on {', '.join(self.config.threat.modalities)}, but the model reads: "
                f"{', '.join(sorted(read))}"
            )
        balls = {
            name: make_ball(inputs[name], budget, None, *_time(subject, probe, rows, name))
            for name, budget in threat.items()
        }
        leaves = leaves_of({name: inputs[name] for name in balls})
        targets = torch.as_tensor(subject.targets[rows], device=probe.device)
        own = torch.as_tensor(own_classes(subject)[rows], device=probe.device)
        logits = probe.differentiable({**inputs, **leaves})
        ids = [subject.ids[row] for row in rows]
        loss = classification_loss(logits, targets, subject.task)
        rise = partial(_rises, threat=threat, balls=balls, leaves=leaves, ids=ids)
        found = {f"loss-rise/{name}": each for name, each in rise(loss).items()}
        best = logits.masked_fill(~own, -torch.inf).argmax(dim=1, keepdim=True)
        others = logits.masked_fill(own, -torch.inf).topk(self._rivals(subject), dim=1)
        rivalled = others.values.isfinite()  # a clip that has nearly every class has fewer rivals
        lead = logits.gather(1, best) - logits.gather(1, others.indices)
        distance: dict[str, Tensor] = {}
        for number in range(lead.shape[1]):
            for name, fall in rise(lead[:, number]).items():
                ahead = lead[:, number].detach().double()
                to_rival = torch.where(rivalled[:, number], ahead / fall, torch.inf)
                distance[name] = to_rival if name not in distance else torch.minimum(distance[name], to_rival)
        right = margin(logits.detach(), targets, subject.task) > 0
        return found | {f"distance/{name}": torch.where(right, each, 0.0) for name, each in distance.items()}


def _time(subject: Subject, probe: Probe, rows: list[int], name: str) -> tuple[int | None, tuple[float, ...]]:
    """The axis of a modality that is time, and how much of each clip's is padding."""
    media = probe.media.get(name)
    return None if media is None else media.time_axis, probe.padding(subject.split, rows, name)


def _rises(
    value: Tensor, threat: ThreatModel, balls: dict[str, Ball], leaves: dict[str, Tensor], ids: list[str]
) -> dict[str, Tensor]:
    """The rise of a value (B,) over one radius, to first order: by modality, and jointly if there are several."""
    gradients = joint_gradient(value, leaves, more=True)
    refuse_not_finite(ids, not_finite(gradients.values()), "a logit's gradient")
    found = {name: ball.gain(gradients[name]).double() for name, ball in balls.items()}
    if len(found) > 1:
        each = torch.stack(list(found.values()))
        found[JOINT] = each.norm(dim=0) if threat.kind == "shared" else each.sum(dim=0)
    return found


def _margins(subject: Subject) -> NDArray[np.float64]:
    """The logit margin of each clip, (N,); infinite where it has every class or none."""
    found = margin(torch.tensor(subject.logits), torch.tensor(subject.targets), subject.task)
    return found.double().numpy()


def _mean(values: NDArray[Any], subject: Subject) -> Estimate:
    """The mean of the finite ones of a number per clip, with its interval."""
    known = np.isfinite(values)
    finite = np.where(known, values, 0.0).astype(np.float64)

    def mean(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        total = weights @ known
        return np.asarray(np.divide(weights @ finite, total, out=np.full(len(weights), np.nan), where=total > 0))

    return bootstrap(
        mean,
        len(values),
        confidence=subject.confidence,
        resamples=subject.resamples,
        seed=subject.seed,
        groups=subject.groups,
    )
