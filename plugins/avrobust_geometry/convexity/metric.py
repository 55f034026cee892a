"""Convexity as a metric of a study: of a model's regions at several places, and of its embeddings' graphs."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core import AvrobustError, Latents, LayerKind, Measurement, Metric, Subject, Wanted, first_of
from avrobust_geometry.configs import ConvexityConfig
from avrobust_geometry.convexity.classified import Amounts, Classified, measure_segments
from avrobust_geometry.convexity.graph import measure_graph
from avrobust_geometry.convexity.levels import FusedLevel, InputLevel, Level, TokensLevel
from avrobust_geometry.convexity.pairs import Identities
from avrobust_geometry.convexity.rules import AtLeast, Highest, Rule, best_thresholds
from avrobust_geometry.convexity.summary import Summary
from avrobust_geometry.density.arrays import averaged
from avrobust_geometry.density.summaries import members_of

_KINDS: dict[str, frozenset[LayerKind]] = {
    "input": frozenset(),
    "tokens": frozenset({"tokens", "pooled"}),
    "fused": frozenset({"fused"}),
    "graph": frozenset({"pooled", "fused"}),
}
"""The layers that each level reads."""


class Convexity(Metric):
    """How often a point between two clips of a class is of that class, too.

    A model takes a point for a class if its logit exceeds all others (single-label; a tie does not), or reaches the
    class's threshold (several labels): the one with the best F1 on the split `calibration`.

    A segment joins two clips of a class that the model takes for it; pairs are drawn uniformly, and on each one point,
    uniformly; both depend on the clips' ids and the class alone, and are the same at all levels. The level says what is
    interpolated: "input", raw clips; "tokens", what the encoders return, tokens and pooled embedding alike; "fused",
    what the head reads, where a linear head makes every region convex, so that the score is 1 and says nothing.

    | value | what it is |
    |---|---|
    | recall | share of a class's clips that the model takes for it: the ends that there are |
    | conditional/LEVEL | share of the points that are of the class of the two ends |
    | margin/LEVEL | the smallest margin at the point and the two ends, in logits; so not below that of the segment |
    | conditional/LEVEL/MODALITY | one modality moves from one clip to the other, the rest is held at the one, then at \
the other; of the segments whose far end, too, is of the class, the share of points that are |
    | margin/LEVEL/MODALITY | the smallest margin of those segments at the point and both ends |
    | swapped/LEVEL/MODALITY | share of the far ends that are of the class: clips with that modality of another clip |
    | euclidean/LEVEL | share of ten equidistant points, between any clips of the class (Tetkova et al. 2025) |
    | reference/LEVEL | share of points at which the class's probability is at least 0.1, between the first clips of a \
class and others, 2,000 ordered pairs in the order of the ids: as the reference's notebook did, for comparison |
    | graph/LAYER | share of the inner clips of shortest paths in the graph of neighbours that have the ends' class |
    | graph-permuted/LAYER | the same with the clips' labels permuted: what chance gives |

    Each is the mean over the classes that have pairs; NAME-micro/... is the mean over pairs, except of recall and
    margin. Intervals allow for pairs that share clips (`avrobust_geometry.convexity.intervals`); that of recall is by
    bootstrap over clips. Per class, and per clip: the mean over the pairs that it is in. With one modality there is
    nothing to hold, and no value by modality. The details name the classes without pairs, and tell how many clips were
    put through and how far from the nearer end points failed.

    Without a model, for bare embeddings, the graph is measured whatever the levels are, and nothing else.

    Args:
        config: what to measure.
    """

    predictions = False

    def __init__(self, config: ConvexityConfig) -> None:
        self.config = config
        self._levels = tuple(dict.fromkeys(config.levels))
        self.probes = any(level != "graph" for level in self._levels)
        kinds = frozenset[LayerKind]().union(*(_KINDS[level] for level in self._levels))
        wanted = [Wanted(None, kinds)] if kinds else []
        if self.probes and config.calibration is not None:
            wanted.append(Wanted(config.calibration, frozenset({"fused"})))
        self.latents = tuple(wanted)

    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject.

        Raises:
            AvrobustError: if logits or embeddings are not finite.
        """
        config = self.config
        summary = Summary(len(subject.ids), subject.classes, subject.confidence, subject.groups)
        identities = Identities(subject.ids, subject.seed)
        own = np.asarray(subject.targets > 0.5) if subject.task == "multi-label" else subject.targets.astype(np.int64)
        members = members_of(own, len(subject.classes))
        latents = subject.latents.get(subject.split)
        levels = list(self._probed(subject, latents))
        if subject.probe is None and self.probes:
            summary.details["left_out"] = {
                level: "there is no model to put points through" for level in self._levels if level != "graph"
            }
        if subject.logits.shape[1] and self.probes:
            _require_finite(subject)
            rule = self._rule(subject, own, summary)
            clips = Classified.by_rule(identities, subject.logits, members, rule)
            summary.add_recall(members, clips.inside, resamples=subject.resamples, seed=subject.seed)
            amounts = Amounts(config.pairs, config.euclidean_pairs, config.apart)
            measure_segments(summary, levels, config.methods, clips, amounts, softmax=subject.task == "single-label")
        if latents is not None and ("graph" in self._levels or subject.probe is None):
            for layer, values in latents.layers.items():
                if layer.split("/")[0] != "tokens":
                    self._graph(summary, layer, values, own, identities)
        return summary.measurement()

    def _graph(
        self, summary: Summary, layer: str, values: NDArray[Any], labels: NDArray[Any], identities: Identities
    ) -> None:
        config = self.config
        try:
            points = averaged(values, layer)
            measure_graph(
                summary, layer, points, labels, identities, k=config.k, pairs=config.graph_pairs, exact=config.exact
            )
        except ValueError as error:
            raise AvrobustError(f"metric 'convexity': graph of {layer}: {error}") from error

    def _probed(self, subject: Subject, latents: Latents | None) -> Iterator[Level]:
        if subject.probe is None:
            return
        layers = {} if latents is None else latents.layers
        for name in self._levels:
            if name == "input":
                yield InputLevel(subject.probe, subject.split)
            elif name == "tokens":
                yield TokensLevel(subject.probe, layers)
            elif name == "fused":
                yield FusedLevel(subject.probe, layers)

    def _rule(self, subject: Subject, own: NDArray[Any], summary: Summary) -> Rule:
        """When a point is of a class; the details say where thresholds come from."""
        if subject.task == "single-label":
            return Highest()
        split = self.config.calibration
        known = None if split is None else subject.latents.get(split)
        if known is None or known.logits.shape[1] != len(subject.classes) or known.ids == subject.ids:
            split, logits, labels = subject.split, subject.logits, own
        else:
            logits, labels = known.logits, np.asarray(known.targets > 0.5)
        thresholds = best_thresholds(logits, labels)
        undefined = [name for name, each in zip(subject.classes, thresholds, strict=True) if np.isnan(each)]
        summary.details["thresholds"] = {"rule": "best F1", "split": split, "classes_without": undefined}
        return AtLeast(thresholds)


def _require_finite(subject: Subject) -> None:
    broken = np.flatnonzero(~np.isfinite(subject.logits).all(axis=1))
    if len(broken):
        names = first_of(subject.ids[i] for i in broken)
        raise AvrobustError(
            f"metric 'convexity': the model's logits are not finite for {names}; "
            "look at the model's training (did its loss become NaN?) or at these clips"
        )
