"""The parts of the page as plain data: sections of text, lists, tables and charts. Templates turn them into HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from avrobust_core.report.html.charts import Drawing


@dataclass(frozen=True, slots=True)
class Value:
    """A cell of a table.

    Attributes:
        text: what it shows.
        sort: what it is sorted by; None: its text.
        below: a second line, such as an interval for the method.
        notes: what must be known beside it: a mark, a word or two, a colon, and the whole of it.
        tone: "good", "bad", "doubt", or "heat0" to "heat9"; empty for none.
    """

    text: str
    sort: float | None = None
    below: str = ""
    notes: tuple[str, ...] = ()
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; numbers stand right."""

    heading: str
    number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names the row.

    Attributes:
        title: its caption.
        columns: C of them.
        rows: of C values each.
        note: a sentence below the caption.
        tools: True if it can be sorted and filtered.
    """

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    tools: bool = True


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; `tone` as of a value."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Items:
    """A list of sentences; `tone` as of a value."""

    kind: ClassVar[str] = "items"
    items: Sequence[str]
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Code:
    """Text that is shown as it is."""

    kind: ClassVar[str] = "code"
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts side by side, under one legend."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Drawing]
    legend: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or a sound, inside the page.

    Attributes:
        type: "image" or "sound".
        data: a data URI, in base64: nothing in it is escaped or shortened.
        label: what stands below it.
        about: what it is, for those who do not see it.
    """

    type: str
    data: str
    label: str
    about: str


@dataclass(frozen=True, slots=True)
class Version:
    """A clip after an attack, with what is known of it."""

    title: str
    facts: Mapping[str, str]
    media: Sequence[Media]


@dataclass(frozen=True, slots=True)
class ShownClip:
    """A clip with its class, as it was, and its versions."""

    title: str
    label: str
    media: Sequence[Media]
    versions: list[Version]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Clips, clean and attacked."""

    kind: ClassVar[str] = "gallery"
    clips: Sequence[ShownClip]


@dataclass(frozen=True, slots=True)
class Fold:
    """Parts that are shown when asked for; or, if open, until they are put away."""

    kind: ClassVar[str] = "fold"
    title: str
    parts: Sequence["Part"]
    open: bool = False


Part = Table | Text | Items | Facts | Code | Charts | Gallery | Fold


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page, with its name in addresses."""

    name: str
    title: str
    parts: Sequence[Part] = field(default=())


@dataclass(frozen=True, slots=True)
class Page:
    """All that the page says."""

    title: str
    subtitle: str
    sections: Sequence[Section]


MOST_ROWS = 3000
"""The most rows of a table, so that a page stays small enough to be opened."""


def table(
    title: str, left: Sequence[str], right: Sequence[str], rows: Sequence[Sequence[Value]], note: str = ""
) -> Table:
    """A table with columns of text under the left headings, of numbers under the right ones."""
    columns = [Column(heading) for heading in left] + [Column(heading, number=True) for heading in right]
    if len(rows) > MOST_ROWS:
        note = f"{note} The first {MOST_ROWS} of {len(rows)} rows; result.json has all.".strip()
    return Table(title, columns, rows[:MOST_ROWS], note)
