"""Line charts: points where they belong, gaps left open, names escaped."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmor_fast.report import charts
from tmor_fast.report.charts import Line, Mark, line_chart


def drawing(figure: str) -> ET.Element:
    found = re.search(r'<svg class="chart".*?</svg>', figure, re.DOTALL)
    assert found
    return ET.fromstring(found[0])


def test_points_lie_where_the_axes_say():
    figure = line_chart("t", [Line("a", [(0, 0.0), (10, 100.0)])], x="epoch", y="%", zero=True)
    first, last = (circle for circle in drawing(figure).iter("circle"))
    assert float(first.get("cx", "")) == charts.LEFT
    assert float(last.get("cx", "")) == charts.WIDTH - charts.RIGHT
    assert float(first.get("cy", "")) == charts.HEIGHT - charts.BOTTOM
    # A twentieth above the largest value is left free.
    height = charts.HEIGHT - charts.BOTTOM - charts.TOP
    assert float(last.get("cy", "")) == pytest.approx(charts.TOP + height * 0.05 / 1.05, abs=0.1)
    assert [title.text for title in drawing(figure).iter("title")] == ["a: 0 at 0", "a: 100 at 10"]


def test_a_gap_is_not_bridged():
    figure = line_chart("t", [Line("a", [(1, 1.0), (2, math.nan), (3, 2.0), (4, 1.0)])], x="e", y="l")
    (path,) = (p.get("d", "") for p in drawing(figure).iter("path"))
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert "nan" not in figure.lower()


def test_a_level_mark_lies_at_its_value():
    marks = [Mark("eps", y=50.0), Mark("stage 2", x=5.0)]
    root = drawing(line_chart("t", [Line("a", [(0, 0.0), (10, 100.0)])], x="e", y="l", marks=marks, zero=True))
    level, upright = (line for line in root.iter("line") if line.get("class") == "mark")
    circles = [float(c.get("cy", "")) for c in root.iter("circle")]
    assert float(level.get("y1", "")) == pytest.approx(sum(circles) / 2, abs=0.1)
    assert upright.get("x1") == upright.get("x2")


def test_names_are_escaped_and_numbers_are_in_a_table():
    figure = line_chart("<t>", [Line("<a>", [(1, 0.125)]), Line("b", [(2, 3.0)])], x="<e>", y="&l")
    assert "<t>" not in figure
    assert "<a>" not in figure
    drawing(figure)
    assert "0.125" in figure.partition("<details>")[2]


def test_nothing_to_draw():
    assert line_chart("t", [], x="e", y="l") == ""
    assert line_chart("t", [Line("a", [(1, math.nan)])], x="e", y="l") == ""


def test_many_points_stay_small():
    figure = line_chart("t", [Line("a", [(i, math.sin(i)) for i in range(100_000)])], x="e", y="l")
    assert len(figure) < 60_000
    assert "<circle" not in figure


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=30), st.booleans())
def test_any_finite_values_stay_inside(values: list[float], zero: bool):
    root = drawing(line_chart("t", [Line("a", list(enumerate(values)))], x="e", y="l", zero=zero and min(values) >= 0))
    for circle in root.iter("circle"):
        assert -1 <= float(circle.get("cx", "")) <= charts.WIDTH + 1
        assert -1 <= float(circle.get("cy", "")) <= charts.HEIGHT + 1
    ticks = [t for t in root.iter("text") if t.get("class") == "tick"]
    assert 2 <= len(ticks) <= 40
