"""An audit of one model: of its recorded results, of the model by itself, and of the clips left under each threat."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from avrobust_core.audit.case import Case, Standing, passes
from avrobust_core.audit.checks import Check
from avrobust_core.audit.drops import Drop
from avrobust_core.audit.exact import Exact
from avrobust_core.audit.look import Look
from avrobust_core.audit.meter import Meter
from avrobust_core.audit.model_checks import behaviour
from avrobust_core.audit.recorded import recorded_checks
from avrobust_core.audit.threat_checks import threat_checks
from avrobust_core.blame import sentence
from avrobust_core.caveats import Caveat
from avrobust_core.spec.model import AuditSection

VERSION = 4
"""To be raised when audits come out otherwise: kept ones of another version are made again."""


def audit(case: Case, clips: int, share: float) -> dict[str, Any]:
    """Audit a model, at the cost of at most a share of what its attacks have cost.

    Args:
        case: the model with its results.
        clips: how many clips each check may look at.
        share: of the attacks' forward and backward passes, counted by clip.

    Returns:
        As JSON data: `verdict` (passed or failed), `passes`, `attack_passes`, `share`, `left_out` (how many clips are
        of other shapes than most, and were not looked at), `checks`, and `contradictions`: the robust accuracies that a
        probe contradicts by more than their intervals.
    """
    checks = list(recorded_checks(case))
    meter = Meter(int(share * case.attack_passes))
    contradictions: list[dict[str, Any]] = []
    exact = Exact(case.victim.model)
    standings = [standing for standing in case.standings if not standing.void]
    costs = [passes(standing.outcomes) for standing in standings]
    with case.victim.frozen():
        known = behaviour(case, meter)
        checks += [each for check in known.checks for each in _by_threat(case, check)]
        for number, standing in enumerate(standings):
            part = meter.part(costs[number] / max(sum(costs[number:]), 1))
            look = Look(case, standing, known, exact, part, clips)
            for check in threat_checks(look):
                checks += [replace(check, threat=name) for name in ([check.threat] if check.threat else standing.names)]
            contradictions += _contradicted(case, standing, look.drops)
    return {
        "verdict": "failed" if any(check.status == "failed" for check in checks) else "passed",
        "passes": meter.spent,
        "attack_passes": case.attack_passes,
        "share": meter.spent / case.attack_passes if case.attack_passes else 0.0,
        "left_out": len(case.clean.ids) - len(case.order),
        "checks": [check.to_json() for check in checks],
        "contradictions": contradictions,
    }


def guarded(section: AuditSection | None, case: Callable[[], Case]) -> dict[str, Any]:
    """Audit a model; a failure of the audit itself loses no result.

    Args:
        section: how far it may go; None for no audit.
        case: the model with its results.

    Returns:
        As `audit`; or only the `verdict`, "off" or "not done", and its `reason`.
    """
    if section is None:
        return {"verdict": "off"}
    try:
        found = case()
        while True:
            try:
                return audit(found, section.clips, section.share)
            except torch.OutOfMemoryError:  # halve the batches until the device's memory holds them
                if found.batch_size == 1 and not found.victim.spare():
                    raise
            found = replace(found, batch_size=max(1, found.batch_size // 2))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is: the results must not be lost with it
        return {"verdict": "not done", "reason": sentence(error)}


def _contradicted(case: Case, standing: Standing, drops: Mapping[str, Drop]) -> list[dict[str, Any]]:
    """The probe that lowers a threat's robust accuracy most, if by more than the interval allows."""
    low = case.intervals.mean(standing.survived).low
    lowest = min(drops.items(), key=lambda item: item[1].at_most, default=None)
    if lowest is None or not lowest[1].contradicts(low):
        return []
    probe, drop = lowest
    return [{"threat": name, "probe": probe, "low": low} | drop.figures() for name in standing.names]


def _by_threat(case: Case, check: Check) -> list[Check]:
    """Attach the finding that the model ignores a modality to the threats that attack it, and to no other number."""
    if check.check != "modality-use" or check.status != "failed":
        return [check]
    attacking = [standing for standing in case.standings if check.modality in standing.threat.modalities]
    names = dict.fromkeys(name for standing in attacking for name in standing.names)
    return [replace(check, threat=name) for name in names] or [check]


def caveats_of(found: Mapping[str, Any]) -> list[Caveat]:
    """The caveats of an audit (as JSON data); an ignored modality that no threat attacks is not one."""
    return [
        Caveat(
            check=check["check"],
            message=f"audit: {check['message']}; {check['remedy']}",
            attack=check["attack"],
            threat=check["threat"],
        )
        for check in found.get("checks", ())
        if check["status"] == "failed" and (check["check"] != "modality-use" or check["threat"] is not None)
    ]
