"""The tables of a transfer: sources against targets, and what the mean of the others breaks of each."""

from collections.abc import Mapping
from typing import Any

from avrobust_core.evaluation.wording import MOST_COLUMNS, interval, percent
from avrobust_core.naming import first_of
from avrobust_core.report.comparison_tables import table_of
from avrobust_core.report.tables import results_console


def print_transfer(found: Mapping[str, Any]) -> None:
    """Print what `transfer` found."""
    console = results_console()
    labels = [cell["label"] for cell in found["cells"]]
    rates = {(each["source"], each["target"]): each for each in found["matrix"]}
    rates |= {("mean of all others", each["target"]): each for each in found["ensembles"]}
    console.print(f"{found['run']}: transfer of {found['attack']} under {found['threat']}, {found['clips']} clips")
    brackets = interval(found, [each["broken"] for each in rates.values()], methods=False)
    console.print(
        "clips that were attacked on one network (rows) and break another (columns), in % of those that it gets right "
        f"clean, {brackets}"
    )
    sources = list(dict.fromkeys(source for source, _ in rates))
    if len(labels) <= MOST_COLUMNS:
        table = table_of(("attacked on", ""), labels)
        for source in sources:
            table.add_row(source, "", *(_rate(rates.get((source, target))) for target in labels))
    else:
        table = table_of(("attacked on", "tried on"), ["broken"])
        for (source, target), each in rates.items():
            table.add_row(source, target, _rate(each))
    console.print(table)
    if any(each["untouched"] for each in rates.values()):
        console.print("= nothing was moved that this network reads")
    for source in labels:
        if source not in sources and source not in [each["source"] for each in found["failures"]]:
            console.print(f"no row of {source}: the threat touches nothing that it reads")
    for failure in found["failures"]:
        console.print(f"{failure['source']} failed: {failure['message']}", style="red", soft_wrap=True)
    for label in found["left_out"]:
        console.print(f"left out, since it is not fitted: {label}")
    if found["reused"]:
        console.print(f"{found['reused']} of the sources as an earlier call has left them")
    for entry in found["made_otherwise"]:
        made = f"{first_of(entry['records'])}: made with other versions: {first_of(entry['differences'], '; ')}"
        console.print(made, soft_wrap=True)


def _rate(each: Mapping[str, Any] | None) -> str:
    if each is None:
        return "-"
    return ("= " if each["untouched"] else "") + percent(each["broken"])
