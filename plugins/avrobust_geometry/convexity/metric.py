"""Convexity as a metric of a study: of a model's regions at several places, and of its embeddings' graphs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core import (
    AvrobustError,
    LatentRequest,
    LayerKind,
    Measurement,
    Metric,
    ModelError,
    Subject,
)
from avrobust_geometry.configs import PLACES, ConvexityConfig
from avrobust_geometry.convexity.classified import NO_BETWEEN, Classified, measure_segments
from avrobust_geometry.convexity.graph import measure_graph
from avrobust_geometry.convexity.levels import Level, fused_level, input_level, layers_level, tokens_level
from avrobust_geometry.convexity.pairs import Identities
from avrobust_geometry.convexity.rules import AtLeast, Highest, Rule, best_thresholds
from avrobust_geometry.convexity.summary import Summary
from avrobust_geometry.density.summaries import labels_of, members_of
from avrobust_geometry.inputs import averaged

_KINDS: dict[str, frozenset[LayerKind]] = {
    "input": frozenset(),
    "tokens": frozenset({"tokens", "pooled"}),
    "fused": frozenset({"fused"}),
    "graph": frozenset({"pooled", "fused"}),
}
"""The latents that each level reads; named layers read none."""


class Convexity(Metric):
    """The share of points between two clips of a class that are of that class, too.

    A model takes a point for a class if its logit exceeds all others (single-label; a tie does not), or reaches the
    class's threshold (several labels): the one with the best F1 on the split `calibration`.

    A segment joins two clips of a class that the model takes for it; pairs are drawn uniformly, and on each one point,
    uniformly; both depend on the clips' ids and the class alone, and are the same at all levels. The level says what is
    interpolated: "input", raw clips; "tokens", what the encoders return, tokens and pooled embedding alike; "fused",
    what the head reads; or a layer by its name in the model, or one of each encoder with + between: what it returns,
    through what comes after it, modalities without a layer being moved at their input. A layer around which something
    else of the clip gets to the logits, as a residual connection does, is left out, and so is one that the model does
    not have; the details and a note say so.

    Where all that comes after the level is linear every region is convex, so that `conditional` is 1 by construction
    and says nothing: at "fused" with a linear head, at "tokens" too if the fusion is linear, at a layer after which the
    encoder is.

    | value | what it is |
    |---|---|
    | recall | share of a class's clips that the model takes for it: the ends that there are |
    | conditional/LEVEL | share of the points that are of the class of the two ends |
    | failure-rate/LEVEL | per class, points that are not of it per unit of length: their number over the sum of their \
segments' lengths |
    | margin/LEVEL | the smallest margin at the point and the two ends, in logits; so not below that of the segment |
    | conditional/LEVEL/MODALITY | one modality moves from one clip to the other, the rest is held at the one, then at \
the other; of the segments whose far end, too, is of the class, the share of points that are |
    | failure-rate/LEVEL/MODALITY, margin/LEVEL/MODALITY | the same of those segments, the length being that of the \
modality |
    | swapped/LEVEL/MODALITY | share of the far ends that are of the class: clips with that modality of another clip |
    | kept/LEVEL | by `between`: the share of a segment, from a clip to one of another class, both of which the model \
takes for their own, up to where the first one's class is lost |
    | kept-length/LEVEL | the same as a length, in units |
    | third-class/LEVEL | share of those segments on which a third class comes up |
    | kept/LEVEL/MODALITY, kept-length/..., third-class/... | one modality moves, the rest is that of the first clip; \
a class that is not lost is kept to the end |
    | euclidean/LEVEL | share of ten equidistant points, between any clips of the class (Tetkova et al. 2025) |
    | reference/LEVEL | share of points at which the class's probability is at least 0.1, between the first clips of a \
class and others, 2,000 ordered pairs in the order of the ids: as the reference's notebook did, for comparison |
    | graph/LAYER | share of the inner clips of shortest paths in the graph of neighbours that have the ends' class |
    | graph-permuted/LAYER | the same with the clips' labels permuted: what chance gives |

    Each is the mean over the classes that have pairs; NAME-micro/... is the mean over pairs, except of recall, margin,
    failure-rate and kept-length. Lengths are Euclidean at the level. Their unit is, for each modality, the mean
    length of the segments inside a class, averaged over classes; the length of a segment on which several move is the
    root of the mean square of theirs, in units, so that neither a space's scale nor a modality's matters.

    `between` looks at ten points of a segment, evenly apart with one offset per segment, at random. `kept` is the share
    of points before the first that is not of the class: without bias where a segment leaves the class once. It is not
    defined for several labels per clip.

    Intervals allow for pairs that share clips (`avrobust_geometry.convexity.intervals`); that of recall is by bootstrap
    over clips. Per class, and per clip: the mean over the pairs that it is in, and of `kept` over those that begin at
    it. With one modality there is nothing to hold, and no value by modality. The details name the classes without
    pairs, and tell how many clips and points were put through, the units, and how points failed by how far from the
    nearer end they lie ("failures_by_nearness") and by the segment's length in units ("failures_by_length").

    Without a model, for bare embeddings, the graph is measured whatever the levels are, and nothing else.

    Args:
        config: what to measure.
    """

    predictions = False

    def __init__(self, config: ConvexityConfig) -> None:
        self.config = config
        self._levels = tuple(dict.fromkeys(config.levels))
        self.probes = any(level != "graph" for level in self._levels)
        self.layers = [layer for level in self._levels if level not in PLACES for layer in level.split("+")]
        kinds = frozenset[LayerKind]().union(*(_KINDS.get(level, frozenset()) for level in self._levels))
        wanted = [LatentRequest(None, kinds)] if kinds else []
        if self.probes and config.calibration is not None:
            wanted.append(LatentRequest(config.calibration, frozenset({"fused"})))
        self.latents = tuple(wanted)

    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject.

        Raises:
            AvrobustError: if logits between clips are not finite, or embeddings cannot be compared.
        """
        config = self.config
        summary = Summary(len(subject.ids), subject.classes, subject.confidence, subject.groups)
        identities = Identities(subject.ids, subject.seed)
        own = labels_of(subject.task, subject.targets)
        members = members_of(own, len(subject.classes))
        latents = subject.latents.get(subject.split)
        left_out: dict[str, str] = {}
        if subject.probe is None and self.probes:
            left_out = {level: "there is no model to put points through" for level in self._levels if level != "graph"}
        if subject.logits.shape[1] and self.probes:
            rule = self._rule(subject, own, summary)
            clips = Classified(identities, subject.logits, members, rule)
            summary.add_recall(members, clips.inside, resamples=subject.resamples, seed=subject.seed)
            methods = dict.fromkeys(config.methods)
            if subject.task == "multi-label" and "between" in methods:
                left_out["between"] = NO_BETWEEN
                summary.details["notes"] = [f"between is left out: {NO_BETWEEN}"]
                del methods["between"]
            levels = self._probed(subject, left_out, summary)
            drawn = {"pairs": config.pairs, "euclidean_pairs": config.euclidean_pairs}
            measure_segments(summary, levels, methods, clips, **drawn, apart=config.apart)
        if left_out:
            summary.details["left_out"] = left_out
        if latents is not None and ("graph" in self._levels or subject.probe is None):
            for layer, values in latents.layers.items():
                if layer.split("/")[0] == "tokens":
                    continue
                try:
                    points, k, pairs = averaged(values, layer), config.k, config.graph_pairs
                    measure_graph(summary, layer, points, own, identities, k=k, pairs=pairs, exact=config.exact)
                except ValueError as error:
                    raise AvrobustError(f"metric 'convexity': graph of {layer}: {error}") from error
        return summary.measurement()

    def _rule(self, subject: Subject, own: NDArray[Any], summary: Summary) -> Rule:
        """When a point is of a class; the details say where thresholds come from."""
        if subject.task == "single-label":
            return Highest()
        split = self.config.calibration
        known = None if split is None else subject.latents.get(split)
        if known is None or known.logits.shape[1] != len(subject.classes) or known.ids == subject.ids:
            split, logits, labels = subject.split, subject.logits, own
        else:
            logits, labels = known.logits, labels_of(subject.task, known.targets)
        thresholds = best_thresholds(logits, labels)
        undefined = [name for name, each in zip(subject.classes, thresholds, strict=True) if np.isnan(each)]
        summary.details["thresholds"] = {"rule": "best F1", "split": split, "classes_without": undefined}
        return AtLeast(thresholds)

    def _probed(self, subject: Subject, left_out: dict[str, str], summary: Summary) -> list[Level]:
        """The levels at which points are put through the model; tells which layers are left out, and why."""
        probe = subject.probe
        if probe is None:
            return []
        latents = subject.latents.get(subject.split)
        layers = {} if latents is None else latents.layers
        found: list[Level | None] = []
        for name in self._levels:
            match name:
                case "input":
                    found.append(input_level(probe, subject.split))
                case "tokens":
                    found.append(tokens_level(probe, layers))
                case "fused":
                    found.append(fused_level(probe, layers))
                case "graph":
                    pass
                case _:
                    try:
                        found.append(layers_level(probe, subject.split, name, len(subject.ids)))
                        if found[-1] is None:
                            left_out[name] = "the model does not read its modality"
                    except ModelError as error:
                        left_out[name] = str(error)
                        summary.details.setdefault("notes", []).append(f"{name} is left out: {error}")
        return [level for level in found if level is not None]
