"""What docs/verdicts.md says of simulations is what was simulated, and its promises are kept by it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def simulation(checkout: Path) -> Any:
    spec = importlib.util.spec_from_file_location("verdicts", checkout / "benchmarks/verdicts.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_kept_figures(simulation: Any, checkout: Path) -> None:
    rows = json.loads(simulation.KEPT.read_text())
    page = (checkout / "docs/verdicts.md").read_text()
    for line in simulation.table(rows).splitlines():
        assert line in page
    at_bound = [row for row in rows if row["lost"] in ("loss = margin", "all of it")]
    for verdict in ("inferior", "non-inferior"):
        assert f"{max(row[verdict] for row in at_bound):.1%}".replace("%", " %") in page
        assert max(row[verdict] for row in at_bound) <= 0.05
    without = [row["inferior"] for row in rows if row["lost"] == "no loss"]
    assert max(without) <= 0.05
    assert f"{max(without):.1%}".replace("%", " %") in page


def test_the_kept_figures_come_again(simulation: Any) -> None:
    rows = json.loads(simulation.KEPT.read_text())
    (kept,) = [row for row in rows if (row["what"], row["n"], row["lost"]) == ("mean drift", 32, "all of it")]
    again = simulation.drift(32, 1.0, 1)
    assert {key: kept[key] for key in again} == pytest.approx(again, abs=0.005)  # sums in another order
