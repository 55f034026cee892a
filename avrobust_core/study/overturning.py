"""Theorem 1 in a study: does one modality overturn the fusion where its own classifier withstands the same attack?"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from avrobust_core.evaluation.outcomes import Intervals
from avrobust_core.spec.cells import modality_of
from avrobust_core.spec.model import Spec
from avrobust_core.statistics.intervals import holm, sign_flip_p
from avrobust_core.study.pooling import CellKey, ClipOutcomes, on_common_clips, right_by_seed


def overturned(spec: Spec, outcomes: Mapping[CellKey, ClipOutcomes], intervals: Intervals) -> list[dict[str, Any]]:
    """How often an attack on one modality breaks the fused model alone, or that modality's own classifier alone.

    Theorem 1 of Li et al. (ICASSP 2022, arXiv 2203.12122): a perturbation of one modality that is too small to flip
    that modality's own classifier can flip the fused model. The own classifier is a model of the study that reads the
    modality alone, through the fused model's own encoder, fitted in the same regime from the same seed. Both meet the
    same attack under the same threat, which touches no other modality of the fused model; `attack` is "worst_case" for
    all attacks under a threat that keep to its radii, where there are several. Only clips that both get right clean
    count: elsewhere the theorem is about errors that need no attack (its case s < t).

    A share is of these networks as the attacks left them, and bounds nothing: what an attack missed on the own
    classifier makes `only_fused` too large, what it missed on the fused model makes it too small. With several seeds a
    clip counts once in each; intervals and `p` are over clips, or their groups, each with all of its seeds. `p` is
    that of `sign_flip_p`: chance decides which of the two is broken.

    Args:
        spec: the study.
        outcomes: of each cell that did not fail.
        intervals: how they are made.

    Returns:
        One entry per fused model, own classifier, regime, attack and threat: `modality`, `fused` and `own` (`model`,
        `training`), `attack`, `threat`, `seeds`, `clips` that all cells have, `left_out_clips`, `both_right` (right
        clean in both, counted over seeds), the shares `only_fused` and `only_own` of these, and `p`, bare and after
        Holm's correction over all entries (`p_holm`). None for a pair without a seed that is done in both.
    """
    found: list[dict[str, Any]] = []
    for fused, own, modality in _pairs(spec):
        for training in spec.training:
            seeds = [seed for seed in spec.seeds if all((model, training, seed) in outcomes for model in (fused, own))]
            if not seeds:
                continue
            names = {
                "modality": modality,
                "fused": {"model": fused, "training": training},
                "own": {"model": own, "training": training},
                "seeds": seeds,
            }
            cells = [outcomes[model, training, seed] for model in (fused, own) for seed in seeds]
            conditions = _conditions(spec, fused, modality, cells)
            found += [names | entry for entry in _entries(cells, conditions, intervals)]
    for entry, corrected in zip(found, holm([entry["p"] for entry in found]), strict=True):
        entry["p_holm"] = corrected
    return found


def _pairs(spec: Spec) -> Iterator[tuple[str, str, str]]:
    """Each fused model, each model of one of its encoders alone, and the modality that this one reads."""
    for fused, entry in spec.models.items():
        for encoder in entry.encoders if len(entry.encoders) > 1 else ():
            for own, other in spec.models.items():
                if other.encoders == [encoder]:
                    yield fused, own, modality_of(spec, encoder)


def _conditions(
    spec: Spec, fused: str, modality: str, cells: Sequence[ClipOutcomes]
) -> Iterator[tuple[str, str, Sequence[str]]]:
    """The attacks, and worst cases over several, under threats that of the fused model touch this modality alone."""
    read = [modality_of(spec, encoder) for encoder in spec.models[fused].encoders]
    for name, threat in spec.threats.items():
        touched = threat.restricted(read)
        if touched is None or touched.modalities != (modality,):
            continue
        attacks = [attack for attack in cells[0].attacks(name) if all((attack, name) in each.right for each in cells)]
        for attack in attacks:
            yield attack, name, [attack]
        if len(attacks) > 1 and not any(("worst_case", name) in each.failed for each in cells):
            yield "worst_case", name, attacks


def _entries(
    cells: Sequence[ClipOutcomes], conditions: Iterable[tuple[str, str, Sequence[str]]], intervals: Intervals
) -> Iterator[dict[str, Any]]:
    """An entry for each condition; the cells are the fused model's by seed, then the own classifier's."""
    cells, left_out = on_common_clips(cells)
    ids, seeds = cells[0].ids, len(cells) // 2

    def right(attacks: Sequence[str | None], threat: str | None) -> NDArray[np.bool_]:
        """Which clips none of these attacks broke: (2, S, N), the fused model first."""
        return right_by_seed(cells, attacks, threat).reshape(2, seeds, len(ids))

    both_right = np.logical_and(*right([None], None))
    clips = [ids[i] for i in both_right.nonzero()[1]]
    over = intervals.over(clips)
    if over.groups is None and seeds > 1:
        over = replace(over, groups=tuple(clips))  # all seeds of a clip were drawn with it

    def share(broken: NDArray[np.bool_]) -> dict[str, Any]:
        estimate = over.mean(broken)
        return (estimate if intervals.grouping else replace(estimate, groups=None)).to_json()

    for attack, threat, attacks in conditions:
        fused_kept, own_kept = right(attacks, threat)[:, both_right]
        only_fused, only_own = own_kept & ~fused_kept, fused_kept & ~own_kept
        yield {
            "attack": attack,
            "threat": threat,
            "clips": len(ids),
            "left_out_clips": left_out,
            "both_right": len(clips),
            "only_fused": share(only_fused),
            "only_own": share(only_own),
            "p": sign_flip_p(only_own.astype(np.int64) - only_fused, groups=over.groups),
        }
