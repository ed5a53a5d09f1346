"""Axes are marked at round numbers, and a line over another hides nothing of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from edgepath.errors import UsageError
from edgepath.reports import plots as plot
from edgepath.reports.plots import Panel, draw_panels


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_numbers_within_the_axis(low: float, span: float) -> None:
    ticks = plot._ticks(low, low + span)
    assert 2 <= len(ticks) <= 6
    assert low - 1e-5 * span <= ticks[0] < ticks[-1] <= low + span * (1 + 1e-5)
    step = ticks[1] - ticks[0]
    first = float(f"{step:.6e}"[0])
    assert first in (1, 2, 5) or step == pytest.approx(10.0 ** round(np.log10(step)), rel=1e-4)


def test_equal_lines_are_both_seen(tmp_path: Path) -> None:
    line = [0.1, 0.4, 0.3]
    panel = Panel("two", [0, 1, 2], [("one", line), ("other", line)], broad=(0,))
    draw_panels([panel, Panel("a place", [5], [("one", [2.0])])], tmp_path / "plot.png", heading="a bundle")
    pixels = np.asarray(Image.open(tmp_path / "plot.png"))[plot.HEAD + plot.TOP : plot.HEAD + plot.HEIGHT // 2]
    for colour in plot._COLOURS[:2]:
        assert (pixels == ImageColor.getrgb(colour)).all(-1).sum() > 100


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"plot .* cannot be written"):
        draw_panels([Panel("a", [0, 1], [("x", [0.0, 1.0])])], tmp_path / "none" / "plot.png")
