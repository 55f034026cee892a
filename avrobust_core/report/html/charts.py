"""Charts as geometry: points with intervals in rows, and lines or points over two axes. Templates write them as SVG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 420
"""Of every drawing, in its own units: narrow, so that its text can be read on a phone."""

SHAPES: Final = ("circle", "square", "triangle", "diamond", "cross", "ring")
SERIES: Final = 8
"""Colours; with `SHAPES`, 24 series look different."""

MANY_ROWS: Final = 5
"""Rows that are drawn in two halves."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 42
_ROW, _STEP = 20, 13


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a chart.

    Attributes:
        x, y: its place. In a chart of rows only x counts.
        low, high: ends of its interval, along x in rows and along y else; None for none.
        label: said when it is pointed at.
    """

    x: float
    y: float = 0.0
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A stroke; `css` names its looks."""

    points: Sequence[tuple[float, float]]
    css: str

    @property
    def path(self) -> str:
        """As SVG's points."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True, slots=True)
class Mark:
    """A marked point; its series decides shape and colour."""

    x: float
    y: float
    series: int
    label: str

    @property
    def shape(self) -> str:
        """One of `SHAPES`."""
        return SHAPES[self.series % len(SHAPES)]

    @property
    def css(self) -> str:
        """The class of its colour."""
        return f"s{self.series % SERIES}"


@dataclass(frozen=True, slots=True)
class Label:
    """Text; `anchor` is start, middle or end, and `turned` text reads upwards."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    css: str = "tick"
    turned: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart, with a sentence for those who do not see it."""

    title: str
    about: str
    height: float
    lines: Sequence[Line]
    marks: Sequence[Mark]
    labels: Sequence[Label]
    width: float = WIDTH


def rows_chart(
    title: str,
    about: str,
    rows: Sequence[tuple[str, Sequence[Point | None]]],
    axis: str,
    span: tuple[float, float] | None = None,
    zero: bool = False,
) -> Drawing:
    """Points with intervals, one group of them for each row.

    Args:
        title: of the chart.
        about: what it shows, in words.
        rows: the name of each, and its points by series; None where it has none.
        axis: what x is.
        span: of x; by default that of the points.
        zero: True to draw a line at 0.
    """
    low, high = span or _span_of_rows(rows, zero)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    to_x = _scale(low, high, _RIGHT, WIDTH - _RIGHT)
    lines, marks, labels, y = [], [], [], 8.0
    for name, found in rows:
        labels.append(Label(_RIGHT, y + _ROW - 7, _short(name, 62), "start", "row"))
        y += _ROW
        for series, point in enumerate(found):
            if point is None:
                continue
            y += _STEP
            centre = y - _STEP / 2
            if point.low is not None and point.high is not None:
                ends = [(to_x(max(point.low, low)), centre), (to_x(min(point.high, high)), centre)]
                lines.append(Line(ends, f"interval s{series % SERIES}"))
            marks.append(Mark(to_x(point.x), centre, series, point.label))
        y += 4
    grid = [Line([(to_x(tick), 4), (to_x(tick), y)], "grid") for tick in ticks]
    if zero:
        grid.append(Line([(to_x(0.0), 4), (to_x(0.0), y)], "zero"))
    labels += [Label(to_x(tick), y + 14, _number(tick), _towards(tick, ticks)) for tick in ticks]
    labels.append(Label(WIDTH / 2, y + 31, axis, css="axis"))
    return Drawing(title, about, y + 38, [*grid, *lines], marks, labels)


def rows_charts(
    title: str,
    about: str,
    rows: Sequence[tuple[str, Sequence[Point | None]]],
    axis: str,
    span: tuple[float, float] | None = None,
    zero: bool = False,
) -> list[Drawing]:
    """The same, of many rows in two halves over one span."""
    if len(rows) < MANY_ROWS:
        return [rows_chart(title, about, rows, axis, span, zero)]
    half = (len(rows) + 1) // 2
    span = span or _span_of_rows(rows, zero)
    parts = ((title, rows[:half]), (f"{title}, continued", rows[half:]))
    return [rows_chart(name, about, part, axis, span, zero) for name, part in parts]


def plane(
    title: str,
    about: str,
    series: Sequence[Sequence[Point]],
    axes: tuple[str, str],
    *,
    joined: bool = False,
    x_span: tuple[float, float] | None = None,
    y_span: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> Drawing:
    """Lines or points over two axes.

    Args:
        title: of the chart.
        about: what it shows, in words.
        series: the points of each; an empty one keeps its colour for later.
        axes: what x and y are.
        joined: True for lines.
        x_span: of x; by default that of the points.
        y_span: of y, likewise.
        logarithmic: True if x is drawn by its logarithm; then all x must be positive.
    """
    points = [point for found in series for point in found]
    scaled: Callable[[float], float] = math.log10 if logarithmic else float
    x_low, x_high = x_span or _span([scaled(point.x) for point in points])
    y_low, y_high = y_span or _span([y for p in points for y in (p.y, p.low, p.high) if y is not None])
    x_ticks = _powers(x_low, x_high) if logarithmic else [(tick, _number(tick)) for tick in _ticks(x_low, x_high)]
    y_ticks = _ticks(y_low, y_high)
    x_low, x_high = min(x_low, x_ticks[0][0]), max(x_high, x_ticks[-1][0])
    y_low, y_high = min(y_low, y_ticks[0]), max(y_high, y_ticks[-1])
    height = 280.0
    to_x = _scale(x_low, x_high, _LEFT + 6, WIDTH - _RIGHT)
    to_y = _scale(y_low, y_high, height - _BOTTOM, _TOP)
    lines = [Line([(_LEFT, to_y(tick)), (WIDTH - _RIGHT, to_y(tick))], "grid") for tick in y_ticks]
    lines.append(Line([(_LEFT, height - _BOTTOM), (WIDTH - _RIGHT, height - _BOTTOM)], "base"))
    labels = [Label(_LEFT - 5, to_y(tick) + 4, _number(tick), "end") for tick in y_ticks]
    labels += [Label(to_x(tick), height - _BOTTOM + 15, text) for tick, text in x_ticks]
    labels.append(Label((_LEFT + WIDTH - _RIGHT) / 2, height - 8, axes[0], css="axis"))
    labels.append(Label(12, (height - _BOTTOM + _TOP) / 2, axes[1], css="axis", turned=True))
    marks = []
    for number, found in enumerate(series):
        places = [(to_x(scaled(point.x)), to_y(point.y)) for point in found]
        if joined and len(places) > 1:
            lines.append(Line(places, f"curve s{number % SERIES}"))
        for point, (x, y) in zip(found, places, strict=True):
            if point.low is not None and point.high is not None:
                ends = [(x, to_y(max(point.low, y_low))), (x, to_y(min(point.high, y_high)))]
                lines.append(Line(ends, f"interval s{number % SERIES}"))
            marks.append(Mark(x, y, number, point.label))
    return Drawing(title, about, height, lines, marks, labels)


def _span_of_rows(rows: Sequence[tuple[str, Sequence[Point | None]]], zero: bool) -> tuple[float, float]:
    points = [point for _, found in rows for point in found if point is not None]
    return _span([x for p in points for x in (p.x, p.low, p.high) if x is not None] + [0.0] * zero)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    width = (high - low) or 1.0
    return lambda value: start + (value - low) / width * (end - start)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """The span of some values, a little wider; of none, 0 to 1."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers inside a span, about six."""
    rough = (high - low) / 6 or 1.0
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return ticks or [low, high]


def _powers(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers inside a span of logarithms: their places and their text."""
    for factors in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        found = [
            (math.log10(factor * 10.0**power), _number(factor * 10.0**power))
            for power in range(math.floor(low), math.ceil(high) + 1)
            for factor in factors
        ]
        inside = [(place, text) for place, text in found if low - 1e-9 <= place <= high + 1e-9]
        if len(inside) >= 3:
            return inside
    return inside or [(low, _number(10.0**low)), (high, _number(10.0**high))]


def _number(value: float) -> str:
    size = abs(value)
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if size >= unit * 10 or (size >= unit and unit > 1e3):
            return f"{value / unit:.3g}{name}"
    return f"{value:.10g}" if size >= 1e-3 or not value else f"{value:.1e}"


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _towards(tick: float, ticks: Sequence[float]) -> str:
    """The end ticks' text stays inside the drawing."""
    return "start" if tick == ticks[0] else "end" if tick == ticks[-1] else "middle"
