"""The README's plot is drawn from results of one model on the same slides, and only from those."""

from __future__ import annotations

import copy
import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def plot(checkout: Path) -> Any:
    spec = importlib.util.spec_from_file_location("robustness_plot", checkout / "benchmarks/robustness_plot.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plot_shows_each_bundle_in_each_group(plot: Any, measured: dict[str, Any], tmp_path: Path) -> None:
    result = measured["robustness"]
    plot.draw([result, result], tmp_path / "plot.svg")
    drawn = ElementTree.parse(tmp_path / "plot.svg")
    names = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    for group in ("scanner only", "staining only", "both"):
        assert names.count(f"{group}, full precision") == 1  # both panels share the names
        assert names.count(f"{group}, onnx-int8") == 2
    assert any("3 locations on 4 slides" in str(name) and "paired" in str(name) for name in names)
    for title in plot.FIGURES.values():
        assert title in names
    for group in ("scanner", "both"):
        low, median, high = plot.quartiles(result["pairs"]["artifact"], group, "top1")
        assert median == result["figures"]["artifact"][group]["top1"]["median"]
        assert high - low == pytest.approx(result["figures"]["artifact"][group]["top1"]["iqr"])


def test_results_of_other_slides_are_refused(plot: Any, measured: dict[str, Any], tmp_path: Path) -> None:
    other = copy.deepcopy(measured["robustness"])
    other["slides"]["places"] += 1
    with pytest.raises(SystemExit, match="was not measured on the slides"):
        plot.draw([measured["robustness"], other], tmp_path / "plot.svg")
