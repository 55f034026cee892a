"""Density as a metric of a study: each modality before fusion, and what the head reads."""

from collections.abc import Mapping, Sequence
from typing import cast, get_args

from avrobust_core import AvrobustError, LatentRequest, Latents, LayerKind, Measurement, Metric, Subject
from avrobust_geometry.configs import DensityConfig
from avrobust_geometry.density.choices import Choices
from avrobust_geometry.density.expected import search_seconds
from avrobust_geometry.density.space import Space
from avrobust_geometry.density.summaries import Findings, labels_of
from avrobust_geometry.inputs import averaged, own_rows


class Density(Metric):
    """Density of the latent space, layer by layer; `avrobust_geometry.density` defines the numbers.

    Names are those of `density`, then the layer: "class-ratio/fused", "log-knn/pooled/audio". A layer with positions,
    (N, L, F), is averaged over them. Neighbours are looked for in the reference split. The details have an entry for
    each layer, with its intrinsic dimension `m` in it.

    Args:
        config: what to compute, of which layers, among which clips.
    """

    shared = True  # the search for neighbours is

    def __init__(self, config: DensityConfig) -> None:
        self.config = config
        self.predictions = False
        kinds = _kinds(config.layers)
        self.latents = [LatentRequest(None, kinds)]
        if config.reference is not None:
            self.latents.append(LatentRequest(config.reference, kinds))

    def seconds(self, clips: Mapping[str, int], widths: Mapping[str, int], evaluated: str) -> float:
        """Searches in the reference: of the clips, of the clips by class, and of the reference in itself."""
        points = clips[evaluated]
        reference = points if self.config.reference is None else clips[self.config.reference]
        layers = self.config.layers or [name for name in widths if name.split("/")[0] != "tokens"]
        searches = (search_seconds(points, reference, widths[name], self.config) for name in layers if name in widths)
        return sum(searches)

    def measure(self, subject: Subject) -> Measurement:
        """Measure one subject.

        Raises:
            AvrobustError: if a layer is not there, or the reference has fewer than two clips.
        """
        config = self.config
        evaluated = subject.latents[subject.split]
        reference = evaluated if config.reference is None else subject.latents[config.reference]
        if len(reference) < 2:
            raise AvrobustError(
                f"metric 'density': the split {config.reference or subject.split!r} has fewer than two clips, so that "
                "there are no neighbours; name another as its reference"
            )
        itself = evaluated.ids == reference.ids
        own = None if itself else own_rows(subject.ids, reference.ids)
        predicted = subject.logits.argmax(axis=1) if subject.logits.shape[1] else None
        layers = self._layers(evaluated)
        findings = Findings()
        findings.details = {
            "reference": config.reference or subject.split,
            "averaged_over_positions": [layer for layer in layers if evaluated.layers[layer].ndim == 3],
        }
        choices = Choices(
            k=config.k,
            estimators=tuple(dict.fromkeys(config.estimators)),
            exact=config.exact,
            most=config.most,
            confidence=subject.confidence,
            resamples=subject.resamples,
            seed=subject.seed,
            groups=subject.groups,
            shares=subject.shares,
        )
        for layer in layers:
            found = Space(
                averaged(evaluated.layers[layer], layer),
                labels_of(subject.task, subject.targets),
                reference=None if itself else averaged(reference.layers[layer], layer),
                reference_labels=None if itself else labels_of(subject.task, reference.targets),
                own=own,
                predicted=predicted,
                classes=subject.classes,
                choices=choices,
            ).measure()
            findings.values |= {f"{name}/{layer}": value for name, value in found.values.items()}
            findings.per_class |= {f"{name}/{layer}": value for name, value in found.per_class.items()}
            findings.per_clip |= {f"{name}/{layer}": value for name, value in found.per_clip.items()}
            findings.details[layer] = found.details
        return findings.measurement()

    def _layers(self, latents: Latents) -> Sequence[str]:
        """The layers to measure: those asked for, or all but tokens, which another metric may have asked for."""
        if self.config.layers is None:
            return [name for name in latents.layers if name.split("/")[0] != "tokens"]
        missing = [name for name in self.config.layers if name not in latents.layers]
        if missing:
            raise AvrobustError(
                f"metric 'density': layers: there is no {', '.join(missing)}; there are: {', '.join(latents.layers)}"
            )
        return list(dict.fromkeys(self.config.layers))


def _kinds(layers: Sequence[str] | None) -> frozenset[LayerKind]:
    """The kinds of layers to ask for; of layers that are none of the model's, as bare embeddings have, the default."""
    named = {name.split("/")[0] for name in layers or ()} & set(get_args(LayerKind))
    return frozenset(cast(set[LayerKind], named)) or frozenset({"pooled", "fused"})
