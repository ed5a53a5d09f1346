"""Curves and intervals: well-formed SVG, points where their values are."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from edgepath.reports.page.lines import Curve, Interval, Intervals, Line
from edgepath.reports.page.rendering import templates

SVG: Any = templates().get_template("svg.html.j2").module


def test_points_lie_where_their_values_are() -> None:
    drawn = ElementTree.fromstring(
        SVG.curve(Curve("a <b>", "degree & unit", [0, 1, 2], [Line("cosine full", [1.0, 0.75, 0.5])], 0.5))
    )
    (line,) = drawn.findall("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    (left, top), (middle, half), (right, bottom) = points
    assert middle - left == pytest.approx(right - middle)
    assert half - top == pytest.approx(bottom - half)
    heights = {float(grid.attrib["y1"]) for grid in drawn.findall("line")}
    assert {top, half, bottom} == heights
    assert drawn.attrib["aria-label"] == "a <b>: degree & unit 0 to 2"


def test_values_below_the_axis_stay_on_it() -> None:
    drawn = ElementTree.fromstring(SVG.curve(Curve("a", "b", [0, 1], [Line("c", [-1.0, 2.0])], 0.5)))
    points = drawn.find("polyline").attrib["points"].split()  # type: ignore[union-attr]
    low, high = (float(point.split(",")[1]) for point in points)
    assert (high, low) == (24.0, 122.0)


def test_an_interval_is_a_dot_between_two_ends() -> None:
    rows = [Interval("full <x>", "full", 0.75, 0.7, 0.8), Interval("artifact", "artifact", 1.0, 0.5, 1.0)]
    drawn = ElementTree.fromstring(SVG.intervals(Intervals("AUROC", rows, 0.5)))
    first, second = [line for line in drawn.findall("line") if line.attrib["class"] != "grid"]
    dots = [float(dot.attrib["cx"]) for dot in drawn.findall("circle")]
    assert float(first.attrib["x1"]) < dots[0] < float(first.attrib["x2"])
    assert dots[1] == float(second.attrib["x2"]) > float(second.attrib["x1"])
    assert "full <x>" in [text.text for text in drawn.findall("text")]


def test_key_shows_each_line_as_it_is_drawn() -> None:
    html = SVG.key({"cosine full": "cosine, <full>", "own artifact": "own"})
    assert html.count("<svg") == 2
    assert "cosine, &lt;full&gt;" in html
