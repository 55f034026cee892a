"""Checks of recorded results, clip by clip: they cost no pass."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from avrobust_core.attacks.verification import NORM_TOLERANCE
from avrobust_core.audit.case import Case, Standing
from avrobust_core.audit.checks import Check, judged, not_applicable
from avrobust_core.evaluation.outcomes import Outcome
from avrobust_core.evaluation.predictions import Predictions
from avrobust_core.models import answers
from avrobust_core.naming import first_of
from avrobust_core.randomness import derive_seed
from avrobust_core.threats.budgets import Budget, Snr, ThreatModel

TOLERATED_SHARE = 0.01
"""Clips that a weaker attack alone breaks, as a share of all, before the stronger one is blamed."""

TOLERATED_CLIPS = 2
"""The same as a number, for small evaluations: one or two clips are chance."""

PERMUTED_GAIN = 0.1
"""The least gain in accuracy by another order of the classes, on clips that did not help to find it."""

FEWEST_BROKEN = 5
"""Broken clips from which on it tells something that none of them was moved in one modality."""


def recorded_checks(case: Case) -> Iterator[Check]:
    """All checks that need no pass of the model."""
    yield probabilities(case)
    yield class_order(case)
    for standing in case.standings:
        if standing.void:
            continue
        yield from budget(case, standing)
        yield from comparisons(case, standing)
        for outcome in standing.outcomes:
            yield from switches(case, outcome)
    yield from nestings(case)


def probabilities(case: Case) -> Check:
    """Check for probabilities as outputs: losses saturate, and gradients vanish where the model is sure."""
    how = "sum to 1" if case.victim.task == "single-label" else "lie between 0 and 1"
    return judged(
        "probabilities",
        answers.probabilities(case.clean.logits, case.victim.task),
        f"the outputs {how} for every clip: they are probabilities, not logits, and hide from "
        "an attack how far a clip is from the boundary",
        "the outputs are no probabilities",
    )


def class_order(case: Case) -> Check:
    """Check for another order of the classes that explains the targets far better than the one given."""
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import binomtest

    clean = case.clean
    predicted = clean.logits.argmax(axis=1)
    classes = clean.logits.shape[1]
    own = clean.own
    fold = np.array([derive_seed("audit/class-order", clip_id) % 2 for clip_id in clean.ids])
    hit = np.zeros(len(clean.ids), dtype=bool)
    for half in (0, 1):  # the order found on one half of the clips is tried on the other
        counts = np.zeros((classes, classes))
        np.add.at(counts, predicted[fold != half], own[fold != half].astype(float))
        counts += 1e-3 * np.eye(classes)  # what no clip tells of stays as it is
        _, order = linear_sum_assignment(counts, maximize=True)  # of a square table: its rows in order
        mine = fold == half
        hit[mine] = own[mine, order[predicted[mine]]]
    right = own[np.arange(len(clean.ids)), predicted]
    gained, lost = int((hit & ~right).sum()), int((right & ~hit).sum())
    figures = {"accuracy": float(right.mean()), "in_another_order": float(hit.mean())}
    certain = gained + lost > 0 and binomtest(gained, gained + lost, alternative="greater").pvalue < 1e-4
    return judged(
        "class-order",
        certain and figures["in_another_order"] - figures["accuracy"] > PERMUTED_GAIN,
        f"{100 * figures['accuracy']:.1f} % of the clips are right, and "
        f"{100 * figures['in_another_order']:.1f} % would be if the outputs stood in another order, found on "
        "other clips: the model's classes and the targets are not in the same order",
        "no other order of the classes fits better",
        figures=figures,
    )


def budget(case: Case, standing: Standing) -> Iterator[Check]:
    """Check that the norms, measured in float64, lie inside the threat's radii."""
    for outcome in standing.outcomes:
        if not outcome.bounded:
            yield not_applicable("budget", "the attack takes no notice of the radius", **outcome.where)
            continue
        beyond = np.zeros(len(case.clean.ids), dtype=bool)
        for name, norms in outcome.predictions.norms.items():
            eps = standing.threat[name].eps
            if isinstance(eps, float):  # a ratio to the clip was held against each clip's own radius at the attack
                beyond |= norms > eps * (1 + NORM_TOLERANCE)
        ids = case.ids(np.flatnonzero(beyond))
        yield judged(
            "budget",
            bool(ids),
            f"{len(ids)} clips lie outside the radii ({first_of(ids)})",
            "every perturbation, measured in float64, lies inside its radius and the bounds",
            clips=ids,
            **outcome.where,
        )


def comparisons(case: Case, standing: Standing) -> Iterator[Check]:
    """Check that attacks under one threat are as strong as weaker ones: steps as one step, gradients as none."""
    kinds: defaultdict[str | None, list[Outcome]] = defaultdict(list)
    for outcome in standing.worst:
        kinds[kind_of(outcome.predictions, case)].append(outcome)
    for check, weaker, wording in (
        ("single-step", "single", "a single step"),
        ("black-box", "black", "an attack without gradients"),
    ):
        for strong, weak in product(kinds["iterative"], kinds[weaker]):
            by_strong, by_weak = broken(case, strong.predictions), broken(case, weak.predictions)
            ids = case.ids(np.flatnonzero(by_weak & ~by_strong))
            reverse = int((by_strong & ~by_weak).sum())
            failed = _too_many(case, len(ids) - (reverse if check == "black-box" else 0))
            yield Check(
                check=check,
                status="failed" if failed else "passed",
                message=f"{weak.attack}, {wording}, breaks {len(ids)} of {len(by_weak)} clips that {strong.attack} "
                f"leaves{f' ({first_of(ids)})' if ids else ''}, and the reverse holds for {reverse}",
                **strong.where,
                clips=ids if failed else (),
                figures={"clips": len(ids), "reverse": reverse},
            )


def _too_many(case: Case, clips: int) -> bool:
    return clips > max(TOLERATED_CLIPS, TOLERATED_SHARE * len(case.clean.ids))


def kind_of(predictions: Predictions, case: Case) -> str | None:
    """The kind of an attack by the passes it has made: of one gradient step, of several, or of none."""
    if predictions.backwards is None:
        return None
    on_correct = case.clean.correct
    steps = predictions.backwards[on_correct] / case.victim.samples
    if not steps.size:
        return None
    if steps.max() == 0:
        return "black" if predictions.queries[on_correct].max() > case.victim.samples else None
    return "single" if steps.max() <= 1 else "iterative"


def broken(case: Case, predictions: Predictions) -> NDArray[np.bool_]:
    """The clips that an attack broke: correct clean, and not after it."""
    return np.asarray(case.clean.correct & ~predictions.correct)


def switches(case: Case, outcome: Outcome) -> Iterator[Check]:
    """Check that the clips that an attack broke were moved in every modality of its threat."""
    predictions = outcome.predictions
    won = broken(case, predictions)
    threat = case.threat(outcome)
    dense = [name for name, each in threat.items() if each.norm in ("linf", "l2") and each.eps != 0]
    if len(threat.modalities) < 2 or len(dense) < len(threat.modalities) or not outcome.bounded:
        return  # one modality alone is what `inert-attack` looks at; sparse norms may well leave one alone
    if won.sum() < FEWEST_BROKEN:
        why = f"the attack broke {int(won.sum())} clips, fewer than {FEWEST_BROKEN}"
        yield not_applicable("inert-switch", why, **outcome.where)
        return
    still = [name for name in dense if not predictions.norms[name][won].any()]
    yield judged(
        "inert-switch",
        bool(still),
        f"none of the {int(won.sum())} clips that the attack broke was moved in {', '.join(still)}, though the "
        "threat allows it: that modality was not attacked",
        f"the {int(won.sum())} broken clips were moved in every modality",
        clips=case.ids(np.flatnonzero(won)),
        **outcome.where,
    )


def nestings(case: Case) -> Iterator[Check]:
    """Check that a larger threat, of the same modalities or more, breaks what a smaller one breaks."""
    by_attack: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in case.attacked:
        if outcome.bounded and not outcome.goal.targeted and not _a_baseline(case, outcome):
            by_attack[outcome.attack].append(outcome)
    for outcomes in by_attack.values():
        for large in outcomes:
            threat = case.threat(large)
            inner = [o for o in outcomes if case.threat(o) != threat and holds(threat, case.threat(o))]
            for check, chosen in (
                ("monotone", [o for o in inner if case.threat(o).modalities == threat.modalities]),
                ("nesting", [o for o in inner if case.threat(o).modalities != threat.modalities]),
            ):
                if chosen:
                    yield _nested(case, check, large, chosen)


def _a_baseline(case: Case, outcome: Outcome) -> bool:
    """True if an attack asks for no gradient while another under its threat does: it claims no worst case."""
    others = (each for each in case.attacked if each.threat == outcome.threat and each.attack != outcome.attack)
    return kind_of(outcome.predictions, case) == "black" and any(
        kind_of(each.predictions, case) == "iterative" for each in others
    )


def _nested(case: Case, check: str, large: Outcome, smaller: list[Outcome]) -> Check:
    by_smaller = np.any([broken(case, outcome.predictions) for outcome in smaller], axis=0)
    missed = by_smaller & ~broken(case, large.predictions)
    ids = case.ids(np.flatnonzero(missed))
    robust = float((case.clean.correct & large.predictions.correct).mean())
    corrected = robust - len(ids) / len(missed)
    names = ", ".join(outcome.threat for outcome in smaller)
    return Check(
        check=check,
        status="failed" if _too_many(case, len(ids)) else "passed",
        message=f"{len(ids)} of {len(missed)} clips are broken under {names}"
        f"{f' ({first_of(ids)})' if ids else ''} and not under the larger {large.threat}: counted there too, "
        f"{100 * corrected:.1f} % are robust, not {100 * robust:.1f}",
        **large.where,
        clips=ids,
        figures={"clips": len(ids), "robust_accuracy": robust, "corrected": corrected},
    )


def holds(large: ThreatModel, small: ThreatModel) -> bool:
    """True if the large threat allows every perturbation that the small one allows."""
    if large.kind == "shared" and small.kind != "shared" and len(small.modalities) > 1:
        return False
    return all(name in large.budgets and _within(large[name], each) for name, each in small.items())


def _within(large: Budget, small: Budget) -> bool:
    alike = large.model_copy(update={"eps": small.eps}) == small
    if isinstance(large.eps, Snr) and isinstance(small.eps, Snr):
        return alike and large.eps.snr_db <= small.eps.snr_db
    if isinstance(large.eps, Snr) or isinstance(small.eps, Snr):
        return False
    return alike and large.eps >= small.eps
