"""An audit's verdict in words, for what a person reads."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any


def verdict_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """An audit (as JSON data) in a line or two: its outcome, its cost, and what contradicts a number.

    In a study the cost is given by the clock, too. The caveats say what failed, with the clips and what to do about it.
    """
    if found["verdict"] in ("off", "not done"):
        yield f"audit: {found['verdict']}{': ' + found['reason'] if found.get('reason') else ''}"
        return
    checks = found["checks"]
    count = Counter(check["status"] for check in checks)
    names = dict.fromkeys(check["check"] for check in checks if check["status"] == "failed")
    clock = f", {found['seconds']:.1f} s beside their {found['attack_seconds']:.1f}" if "seconds" in found else ""
    yield (
        f"audit: {found['verdict']}: {count['passed']} checks passed, {count['failed']} failed"
        f"{' (' + ', '.join(names) + ')' if names else ''}, {count['not applicable']} not applicable; "
        f"{found['passes']} passes, {100 * found['share']:.1f} % of the attacks' {found['attack_passes']}{clock}"
    )
    if found.get("left_out"):
        yield f"audit: {found['left_out']} clips of other shapes than most were not looked at"
    for each in found["contradictions"]:
        yield (
            f"audit: the robust accuracy under {each['threat']} is contradicted: {100 * each['robust_accuracy']:.1f} % "
            f"by the attacks, at most {100 * each['at_most']:.1f} % by the audit ({each['probe']}: {each['broken']} of "
            f"{each['probed']} clips left robust are broken)"
        )
