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


def test_every_contender_has_a_dot_at_its_median(plot: Any) -> None:
    ms = {
        "openvino-int8": {"p50": 50.0, "p95": 60.0},
        "onnx-fp32": {"p50": 100.0, "p95": 110.0},
        "torch eager & co": {"p50": 200.0, "p95": 400.0},
    }
    figures = {
        "model": "h0-mini, random weights",
        "machine": {"processor": "CPU", "with": "avx2", "threads": 2},
        "latency, batch 4": {"n": 3, "ms": {name: {p: 4 * v for p, v in of.items()} for name, of in ms.items()}},
        "latency, batch 1": {"n": 9, "ms": ms},
        "another figure": 1,
    }
    drawn = ElementTree.fromstring(plot.draw(figures))
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert texts[:3] == list(ms)
    assert [text for text in texts if text and text.startswith("batch")] == [
        "batch 1: ms a tile (n = 9)",
        "batch 4: ms a tile (n = 3)",
    ]
    assert texts.count("50") == texts.count("100") == texts.count("200") == 2  # four tiles take four times as long
    dots = [float(circle.get("cx", "nan")) for circle in drawn.iter(f"{SVG}circle")]
    assert (dots[2] - plot.LABELS) / (dots[0] - plot.LABELS) == pytest.approx(4, rel=0.01)
    assert [circle.get("fill") for circle in drawn.iter(f"{SVG}circle")][:3] == list(plot.KINDS.values())
    assert texts[-1] == "h0-mini, random weights; CPU (avx2), 2 threads; in turn"


def test_figures_without_latencies_are_refused(plot: Any) -> None:
    with pytest.raises(SystemExit, match="hold no latencies"):
        plot.draw({"model": "demo"})
