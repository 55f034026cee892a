"""The data sets of a study that stands in examples/: clips made on the spot, and a manifest of the caller's own."""

from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def sets_of(study: str, manifest: Path | None) -> dict[str, tuple[Path, list[str]]]:
    """By name, the spec and its overrides: `toy-av`, and `clips` where there is a manifest.

    Args:
        study: the name of a spec in examples/; the same on clips of one's own is `<study>_clips`.
        manifest: CSV of clips with the columns path, label and split.
    """
    found: dict[str, tuple[Path, list[str]]] = {"toy-av": (EXAMPLES / f"{study}.yaml", [])}
    if manifest is not None:
        found["clips"] = EXAMPLES / f"{study}_clips.yaml", [f"data.with.manifest={manifest.resolve()}"]
    return found
