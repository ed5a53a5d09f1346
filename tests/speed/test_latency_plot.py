"""The README's plot of latencies shows every contender that the suites timed, at every batch size."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def plot(checkout: Path) -> Any:
    spec = importlib.util.spec_from_file_location("latency_plot", checkout / "benchmarks/latency_plot.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moves(path: ElementTree.Element) -> list[tuple[float, float]]:
    """Return the points of a path, in the picture's units."""
    numbers = [float(word) for word in path.attrib["d"].split() if word not in "MLz"]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_every_contender_has_a_line_from_its_median(plot: Any, tmp_path: Path) -> None:
    ms = {
        "openvino-int8": {"p50": 51.0, "p90": 61.0},
        "onnx-fp32": {"p50": 102.0, "p90": 112.0},
        "torch eager & co": {"p50": 204.0, "p90": 404.0},
    }
    figures = {
        "model": "h0-mini, random weights",
        "machine": {"processor": "CPU", "with": "avx2", "threads": 2},
        "latency, batch 4": {"n": 3, "ms": {name: {p: 4 * v for p, v in of.items()} for name, of in ms.items()}},
        "latency, batch 1": {"n": 9, "ms": ms},
        "another figure": 1,
    }
    plot.draw(figures, tmp_path / "plot.svg")
    drawn = ElementTree.parse(tmp_path / "plot.svg")
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert [text for text in texts if text in ms] == list(ms)
    assert [text for text in texts if text and text.startswith("batch")] == ["batch 1 (n = 9)", "batch 4 (n = 3)"]
    assert texts.count("51") == texts.count("102") == texts.count("204") == 2  # four tiles take four times as long
    lines = {name: drawn.find(f".//{SVG}g[@id='1 {name}']/{SVG}path") for name in ms}
    (fast, fast_end), (mid, _), (slow, slow_end) = (moves(line) for line in lines.values() if line is not None)
    assert (slow[0] - fast[0]) / (mid[0] - fast[0]) == pytest.approx(3, rel=0.01)  # 51, 102 and 204 ms
    assert (slow_end[0] - slow[0]) / (fast_end[0] - fast[0]) == pytest.approx(20, rel=0.01)
    styles = [line.attrib["style"] for line in lines.values() if line is not None]
    assert [colour in style for colour, style in zip(plot.KINDS.values(), styles, strict=True)] == [True] * 3
    assert any(str(text).startswith("h0-mini, random weights; CPU (avx2), 2 threads; timed in turn") for text in texts)


def test_figures_without_latencies_are_refused(plot: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="hold no latencies"):
        plot.draw({"model": "demo"}, tmp_path / "plot.svg")
