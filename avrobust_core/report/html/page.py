"""The page of a run: its sections gathered, its templates rendered, one file written."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from avrobust_core._version import __version__
from avrobust_core.errors import RunError
from avrobust_core.files import write_text
from avrobust_core.plain_text import plain_lines
from avrobust_core.registry.registry import Registry
from avrobust_core.report.html.charts import SERIES, SHAPES
from avrobust_core.report.html.clips import clip_sections
from avrobust_core.report.html.gallery import gallery
from avrobust_core.report.html.predictors import cost, metrics
from avrobust_core.report.html.questions import overturned, questions
from avrobust_core.report.html.reading import Run, read_run
from avrobust_core.report.html.robustness import curves, every_accuracy
from avrobust_core.report.html.summary import summary
from avrobust_core.report.html.trust import again, audit, failures, provenance
from avrobust_core.report.html.view import Page

LONGEST_LINE = 20_000


def write_report(root: Path, out: Path, registry: Registry) -> list[str]:
    """Write the report of a run.

    Args:
        root: the run's folder.
        out: the file, written whole or not at all.
        registry: where the data set is looked up that reads exported clips.

    Returns:
        Sentences about what is missing in the run; the page has them, too.

    Raises:
        RunError: if the folder is no run's, or its results are damaged.
        OSError: if the file cannot be written.
    """
    run = read_run(root)
    text = render(gather(run, registry))
    write_text(out, text)
    return run.missing


def gather(run: Run, registry: Registry) -> Page:
    """All that the page says.

    Args:
        run: as read.
        registry: where the data set is looked up that reads exported clips.

    Raises:
        RunError: if the results are not as avrobust writes them.
    """
    try:
        rest = [
            questions(run),
            overturned(run),
            every_accuracy(run),
            curves(run),
            metrics(run),
            cost(run),
            *clip_sections(run),
            gallery(run, registry),
            audit(run),
            failures(run),
            provenance(run),
            again(run),
        ]
        first = summary(run)  # last, since reading the others finds what is missing
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run.root}: its results are not as avrobust writes them ({type(error).__name__}: {error}); run the study "
            "again to have result.json made anew"
        ) from error
    sections = [section for section in (first, *rest) if section.parts]
    return Page(str(run.result["name"]), f"avrobust {__version__}", sections)


def render(page: Page) -> str:
    """The page as HTML, without anything from outside of it: whatever text it is given stays text."""
    environment = Environment(
        autoescape=True,
        finalize=_finalized,
        loader=PackageLoader("avrobust_core.report.html"),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    folder = files("avrobust_core.report.html") / "templates"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html.jinja").render(
        page=page,
        shapes=SHAPES,
        series=SERIES,
        style=Markup(style),
        script=Markup(script),
        policy=(
            f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
            "media-src data:; base-uri 'none'; form-action 'none'"
        ),
    )


def _hash(text: str) -> str:
    """As a content security policy names what may run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _finalized(value: Any) -> Any:
    """Text without control characters and marks of direction; what is markup already stays."""
    return plain_lines(value, LONGEST_LINE) if isinstance(value, str) and not isinstance(value, Markup) else value
