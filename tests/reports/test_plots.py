"""Pictures: a line over another hides nothing of it, axes say their numbers, the same figures are the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from edgepath.errors import UsageError
from edgepath.reports.plots import BLUE, VERMILION, Line, Panel, draw_panels, picture, plain_numbers

LINE = [0.1, 0.4, 0.3]
TWO = Panel("two", "steps", "nats", [0, 1, 2], [Line("one", LINE, broad=True), Line("other", LINE)])


def test_equal_lines_are_both_seen(tmp_path: Path) -> None:
    drawn = tmp_path / "plot.png"
    draw_panels([TWO, Panel("a place", "step", "nats", [5], [Line("one", [2.0])])], drawn, heading="a bundle, $x_1$")
    pixels = np.asarray(Image.open(drawn).convert("RGB")).astype(int)
    pale = 0.35 * np.array(ImageColor.getrgb(BLUE)) + 0.65 * 255
    for colour in (pale, ImageColor.getrgb(VERMILION)):
        assert (np.abs(pixels - colour).max(-1) <= 2).sum() > 100


def test_the_same_figures_are_the_same_bytes(tmp_path: Path) -> None:
    for kind in ("png", "svg"):
        for name in "ab":
            with picture(tmp_path / f"{name}.{kind}", 3, 2) as figure:
                figure.subplots().plot([0, 1], [0, 1])
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_axes_write_their_numbers_out(tmp_path: Path) -> None:
    with picture(tmp_path / "a.svg", 3, 2) as figure:
        ax = figure.subplots()
        ax.plot([100001, 100002], [0.9999991, 0.9999999])
        plain_numbers(ax.xaxis)
        plain_numbers(ax.yaxis)
    text = (tmp_path / "a.svg").read_text()
    assert ">100001<" in text
    assert ">0.999999<" in text


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"plot .* cannot be written"):
        draw_panels([TWO], tmp_path / "none" / "plot.png")


def test_without_matplotlib_the_extra_is_named_before_any_work(checkout: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        f"sys.argv = ['edgepath', 'debug', 'nowhere', '--plot', {str(tmp_path / 'p.png')!r}]\n"
        "from edgepath.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=checkout, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines() == ["edgepath: matplotlib not installed; pip install 'edgepath[plots]'"]


def test_drawing_touches_no_figures_of_others(checkout: Path, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom edgepath.reports.plots import Line, Panel, draw_panels\n"
        f"draw_panels([Panel('a', 'b', 'c', [0, 1], [Line('d', [0, 1])])], Path({str(tmp_path / 'p.png')!r}))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=checkout, check=True)
