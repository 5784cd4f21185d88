"""Line charts as inline SVG, readable on a phone, with their numbers in a table behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tmor_fast.report.html import clean, details, table, text

WIDTH, HEIGHT = 420, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 44
# More points than pixels add nothing.
MOST_POINTS, MOST_DOTS, MOST_ROWS = 400, 60, 400


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name: of the line.
        points: (x, y), x ascending; a y that is not finite leaves a gap.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A straight line across a chart, dashed: at `x` upright, at `y` level."""

    name: str
    x: float | None = None
    y: float | None = None


def line_chart(
    title: str, lines: Sequence[Line], *, x: str, y: str, marks: Sequence[Mark] = (), zero: bool = False
) -> str:
    """A figure with axes, legend and a table of its numbers; "" where no line has a finite point.

    Args:
        title: what it shows.
        lines: at most six, told apart by colour and dashes.
        x, y: what the axes show, with units.
        marks: straight lines across.
        zero: the y axis starts at 0.
    """
    kept = [Line(line.name, _thin(line.points)) for line in lines]
    finite = [(a, b) for line in kept for a, b in line.points if math.isfinite(a) and math.isfinite(b)]
    if not finite:
        return ""
    xs = [a for a, _ in finite] + [mark.x for mark in marks if mark.x is not None]
    ys = [b for _, b in finite] + [mark.y for mark in marks if mark.y is not None]
    across = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    whole = all(float(a).is_integer() for a in xs)
    up = _Axis(min(0.0, *ys) if zero else min(ys), max(ys), HEIGHT - BOTTOM, TOP, padding=0.05, zero=zero)
    parts = [_axes(across, up, x, y, whole)]
    parts += [_mark(mark, across, up) for mark in marks]
    parts += [_path(line, number, across, up) for number, line in enumerate(kept)]
    described = text(_in_words(title, kept), 400)
    opening = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}">'
    drawn = opening + "".join(parts) + "</svg>"
    numbers = details("Numbers", _numbers(title, kept, x))
    return f"<figure><figcaption>{text(title)}</figcaption>{_legend(kept, marks)}{drawn}{numbers}</figure>"


class _Axis:
    """From values to places on the drawing."""

    def __init__(
        self, low: float, high: float, start: float, end: float, *, padding: float = 0.0, zero: bool = False
    ) -> None:
        if high - low < 1e-12 * max(1.0, abs(high)):
            spare = abs(high) * 0.1 or 1.0
            low, high = low - spare, high + spare
        extra = (high - low) * padding
        self.low = low if zero else low - extra
        self.high, self.start, self.end = high + extra, start, end

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, whole: bool = False) -> list[float]:
        """About five round values within the axis."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
        if whole:
            step = max(1.0, round(step))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [count * step for count in range(first, last + 1)]


def number(value: float) -> str:
    """A number with four significant digits."""
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MOST_POINTS:
        return list(points)
    step = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(i * step)] for i in range(MOST_POINTS)]


def _axes(across: _Axis, up: _Axis, x: str, y: str, whole: bool) -> str:
    parts = []
    for tick in up.ticks():
        place = up(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place}" y2="{place}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{place + 4}" text-anchor="end">{number(tick)}</text>')
    base = HEIGHT - BOTTOM
    for tick in across.ticks(whole):
        parts.append(
            f'<text class="tick" x="{across(tick)}" y="{base + 18}" text-anchor="middle">{number(tick)}</text>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{text(x)}</text>'
    )
    middle = (TOP + base) / 2
    turned = f'transform="rotate(-90 13 {middle})"'
    parts.append(f'<text class="label" x="13" y="{middle}" text-anchor="middle" {turned}>{text(y)}</text>')
    return "".join(parts)


def _mark(mark: Mark, across: _Axis, up: _Axis) -> str:
    if mark.x is not None:
        place = across(mark.x)
        return f'<line class="mark" x1="{place}" x2="{place}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    assert mark.y is not None
    place = up(mark.y)
    return f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place}" y2="{place}"/>'


def _path(line: Line, style: int, across: _Axis, up: _Axis) -> str:
    steps, pen_down = [], False
    dots = []
    for a, b in line.points:
        if not math.isfinite(b):
            pen_down = False
            continue
        steps.append(f"{'L' if pen_down else 'M'}{across(a)} {up(b)}")
        pen_down = True
        if len(line.points) <= MOST_DOTS:
            told = text(f"{line.name}: {number(b)} at {number(a)}")
            dots.append(f'<circle cx="{across(a)}" cy="{up(b)}" r="2.6"><title>{told}</title></circle>')
    return f'<g class="line k{style}"><path d="{"".join(steps)}"/>{"".join(dots)}</g>'


def _legend(lines: Sequence[Line], marks: Sequence[Mark]) -> str:
    keys = [("k" + str(number), line.name) for number, line in enumerate(lines)]
    keys += [("mark", mark.name) for mark in marks]
    if len(keys) < 2:
        return ""
    sample = '<svg viewBox="0 0 28 8" width="28" height="8" aria-hidden="true"><path d="M1 4H27"/></svg>'
    return '<p class="legend">' + "".join(
        f'<span class="key line {style}">{sample}{text(name)}</span>' for style, name in keys
    ) + "</p>"  # fmt: skip


def _in_words(title: str, lines: Sequence[Line]) -> str:
    told = []
    for line in lines:
        finite = [(a, b) for a, b in line.points if math.isfinite(b)]
        if finite:
            (_, first), (_, last) = finite[0], finite[-1]
            told.append(f"{line.name} from {number(first)} to {number(last)}")
    return clean(f"{title}: {'; '.join(told)}", 400)


def _numbers(title: str, lines: Sequence[Line], x: str) -> str:
    places = sorted({a for line in lines for a, _ in line.points})
    # A longer table would outweigh the chart.
    step = -(-len(places) // MOST_ROWS)
    columns = [dict(line.points) for line in lines]
    rows = [
        (number(a), *(number(c[a]) if a in c and math.isfinite(c[a]) else None for c in columns))
        for a in places[::step]
    ]
    return table([x, *(line.name for line in lines)], rows, caption=title)
