"""Charts as inline SVG, coloured by the page's own style sheet, so that they follow light and dark.

Drawn by hand: importing a plotting library takes longer than the rest of a report together, and its colours are fixed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from phiscale.report.scores import Bin

WIDTH, HEIGHT = 460, 290  # of the view box; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 50, 92, 30, 44
LINE = 15  # pixels between two labels

Point = tuple[float, float]
Format = Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points joined by a line with its name at the end.

    tone: a, b, c or d (colours of the style sheet); or grid or contour (thin, no dots; the first of `names` stands where the line begins)
    """

    label: str
    points: Sequence[Point]
    tone: str = "a"
    joined: bool = True
    names: Sequence[str] = ()  # written beside the points
    hints: Sequence[str] = ()  # shown when a point is pointed at
    spreads: Sequence[float] = ()  # half the height of a bar through each point: a standard deviation


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A shaded rectangle between two corners; share: 0 (palest) to 1."""

    low: Point
    high: Point
    share: float
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A range with its unit. Log axes need positive values."""

    label: str
    low: float
    high: float
    log: bool = False
    whole: bool = False  # ticks at whole numbers only
    form: Format = "{:g}".format

    def place(self, value: float) -> float:
        """0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers inside the range, at most eight."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for steps in ((1, 2, 5), (1, 3), (1,)):
                at = [step * 10.0**power for power in range(first, last + 1) for step in steps]
                at = [value for value in at if self.low * 0.999 <= value <= self.high * 1.001]
                if len(at) <= 8:
                    return at
            return at[:: -(-len(at) // 8)]
        span = self.high - self.low
        unit = 10.0 ** math.floor(math.log10(span))
        step = next(s * unit for s in (0.1, 0.2, 0.5, 1, 2) if span / (s * unit) <= 6)
        step = max(1.0, step) if self.whole else step
        return [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def around(values: Sequence[float], *, log: bool = False, least: float | None = None) -> tuple[float, float]:
    """A range a little wider than the finite `values`."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if log:
        return low / 1.15, high * 1.15
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 0.5
    return (low - margin if least is None else max(least, low - margin)), high + margin


def chart(
    name: str,
    *,
    title: str,
    about: str,
    x: Axis,
    y: Axis,
    lines: Sequence[Line],
    limit: tuple[float, str] | None = None,
    mark: tuple[Point, str] | None = None,
    rings: Sequence[tuple[Point, str]] = (),
    cells: Sequence[Cell] = (),
) -> Markup:
    """A line chart. `about` is what a reader who can't see it should know; `limit` a horizontal line; `mark` one special point.

    `rings` go around points that are nearly as special; `cells` shade the ground.
    `name` makes the ids unique in the page. Points that are not finite are left out.
    """
    parts = [_cell(x, y, cell) for cell in cells] + [_grid(x, y)]
    ends: list[tuple[float, str, str]] = []
    if limit:
        at = _y(y, limit[0])
        parts.append(Markup('<line class="limit" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, at, at))
        ends.append((at, limit[1], "limit-text"))
    for line in lines:
        points = [point for point in line.points if all(map(math.isfinite, point))]
        at = [(_x(x, px), _y(y, py)) for px, py in points]
        if not at:
            continue
        if line.joined and len(at) > 1:
            path = " ".join(f"{px},{py}" for px, py in at)
            parts.append(Markup('<polyline class="line {}" points="{}"/>').format(line.tone, path))
        if line.tone in ("grid", "contour"):
            below = 13 if at[0][1] < TOP + LINE else -4
            label = Markup('<text class="name" x="{}" y="{}">{}</text>')
            parts += [label.format(at[0][0] + 3, at[0][1] + below, text) for text in line.names[:1]]
        elif not line.joined or len(at) <= 40:
            names = [*line.names, *[""] * (len(at) - len(line.names))]
            hints = [*line.hints, *[""] * (len(at) - len(line.hints))]
            for (px, _), (_, vy), spread in zip(at, points, line.spreads, strict=False):
                ends_at = (_y(y, min(y.high, vy + spread)), _y(y, max(y.low, vy - spread)))
                parts.append(Markup('<line class="spread {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(line.tone, px, px, *ends_at))
            for (px, py), (vx, vy), text, hint in zip(at, points, names, hints, strict=True):
                said = f"{hint or text or line.label}: {x.form(vx)}, {y.form(vy)}"
                parts.append(
                    Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"><title>{}</title></circle>').format(line.tone, px, py, said)
                )
                if text:
                    parts.append(Markup('<text class="name" x="{}" y="{}">{}</text>').format(px + 6, py + 13, text))
        if line.label and line.joined:
            ends.append((at[-1][1], line.label, line.tone))
    for (vx, vy), text in rings:
        parts.append(Markup('<circle class="ring" cx="{}" cy="{}" r="6.5"><title>{}</title></circle>').format(_x(x, vx), _y(y, vy), text))
    if mark:
        (vx, vy), text = mark
        parts.append(Markup('<circle class="mark" cx="{}" cy="{}" r="6"><title>{}</title></circle>').format(_x(x, vx), _y(y, vy), text))
    for at, text, tone in _apart(ends):
        parts.append(Markup('<text class="end {}" x="{}" y="{}">{}</text>').format(tone, WIDTH - RIGHT + 8, at + 4, text))
    return frame(name, title, about, parts)


def reliability(name: str, *, bins: Sequence[Bin]) -> Markup:
    """How often the network is right (bars) at each confidence; the diagonal is perfect. Below: where its predictions lie."""
    x = Axis(label="confidence", low=0, high=1, form=_percent)
    y = Axis(label="right", low=0, high=1, form=_percent)
    parts = [_grid(x, y)]
    most = max((held.n for held in bins), default=1)
    for held in bins:
        left, width = _x(x, held.low) + 1, _x(x, held.high) - _x(x, held.low) - 2
        top = _y(y, held.accuracy)
        said = f"{held.n} images at {held.low:.0%} to {held.high:.0%} confidence (mean {held.confidence:.1%}): {held.accuracy:.1%} right"
        parts.append(
            Markup('<rect class="bar" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}" opacity="{:.2f}"><title>{}</title></rect>').format(
                left, top, width, max(1.5, _y(y, 0) - top), 0.25 + 0.75 * math.sqrt(held.n / most), said
            )
        )
    parts.append(Markup('<line class="ideal" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(_x(x, 0), _y(y, 0), _x(x, 1), _y(y, 1)))
    parts.append(Markup('<text class="end ideal-text" x="{}" y="{}">perfect</text>').format(_x(x, 1) + 8, _y(y, 1) + 4))
    about = "; ".join(f"{held.low:.0%} to {held.high:.0%}: {held.accuracy:.0%} right of {held.n}" for held in bins)
    return frame(name, "Reliability diagram", about, parts)


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _x(axis: Axis, value: float) -> float:
    return round(LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(axis: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM), 1)


def _cell(x: Axis, y: Axis, cell: Cell) -> Markup:
    left, right, top, under = _x(x, cell.low[0]), _x(x, cell.high[0]), _y(y, cell.high[1]), _y(y, cell.low[1])
    return Markup('<rect class="cell" x="{}" y="{}" width="{:.1f}" height="{:.1f}" opacity="{:.2f}"><title>{}</title></rect>').format(
        left, top, right - left, under - top, 0.06 + 0.5 * cell.share, cell.hint
    )


def _grid(x: Axis, y: Axis) -> Markup:
    parts: list[Markup] = []
    for value in y.ticks():
        at = _y(y, value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, at, at))
        parts.append(Markup('<text class="tick left" x="{}" y="{}">{}</text>').format(LEFT - 7, at + 4, y.form(value)))
    under = HEIGHT - BOTTOM + 17
    below = Markup('<text class="tick below" x="{}" y="{}">{}</text>')
    parts += [below.format(_x(x, value), under, x.form(value)) for value in x.ticks()]
    middle = (LEFT + WIDTH - RIGHT) / 2
    base = HEIGHT - BOTTOM
    parts.append(Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, base, base))
    parts.append(Markup('<text class="label" x="{}" y="{}">{}</text>').format(middle, HEIGHT - 8, x.label))
    parts.append(Markup('<text class="label start" x="{}" y="{}">{}</text>').format(LEFT, TOP - 14, y.label))
    return Markup("").join(parts)


def _apart(ends: Sequence[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """Labels moved up and down until none lies on another."""
    placed = sorted(ends)
    for _ in range(20):
        for number, (upper, lower) in enumerate(pairwise(placed)):
            overlap = LINE - (lower[0] - upper[0])
            if overlap > 0.01:
                placed[number] = (upper[0] - overlap / 2, *upper[1:])
                placed[number + 1] = (lower[0] + overlap / 2, *lower[1:])
    return placed


def side_by_side(charts: Sequence[tuple[str, Markup]], *, style: str) -> str:
    """Charts, each under its heading, as one SVG file with a style sheet of its own."""
    parts: list[Markup] = [Markup("<style>{}</style>").format(Markup(style))]
    for number, (heading, one) in enumerate(charts):
        inside = Markup(str(one).partition(">")[2].removesuffix("</svg>"))
        parts.append(Markup('<text class="heading" x="{}" y="{}">{}</text>').format(number * WIDTH + LEFT, LINE + 5, heading))
        parts.append(Markup('<g transform="translate({} {})">{}</g>').format(number * WIDTH, 2 * LINE, inside))
    head = '<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {} {}" style="max-width:none">'
    return str(Markup(head).format(WIDTH * len(charts), HEIGHT + 2 * LINE) + Markup("").join(parts) + Markup("</svg>")) + "\n"


def frame(name: str, title: str, about: str, parts: Sequence[Markup]) -> Markup:
    """The SVG element around `parts`, with what a reader who can't see it should know."""
    head = Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{n}-title {n}-about">'
        '<title id="{n}-title">{title}</title><desc id="{n}-about">{about}</desc>'
    ).format(w=WIDTH, h=HEIGHT, n=name, title=title, about=about)
    return head + Markup("").join(parts) + Markup("</svg>")
