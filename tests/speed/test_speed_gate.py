"""An export that measures its speed carries the gate; one that does not says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.errors import UsageError
from edgepath.exporting import export
from edgepath.recipes.recipe import find_recipe
from edgepath.reports.tables.drift import fact_table, gate_table
from edgepath.speed.gate import check_measurable


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("openvino-fp16", "--speed holds INT8 against full precision; give an INT8 target"),
        ("jetson-int8", "its speed shows on its device only"),
        ("coreml-int8", "its speed shows on its device only"),
    ],
)
def test_what_cannot_be_measured_here_is_refused_at_once(target: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        export(target, speed=True, out=tmp_path)
    assert said in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_int8_of_this_machines_runtimes_can_be_measured() -> None:
    for target in ("openvino-int8", "onnx-int8"):
        check_measurable(find_recipe(target))


def test_export_measures_and_judges(known_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepath.speed.gate.SECONDS", 0.5)
    options = {"model": "tiny", "calibration": "synthetic:32", "calibration_tiles": 16, "device": "cpu"}
    done = export("onnx-int8", speed=True, out=tmp_path, **options)  # type: ignore[arg-type]
    report = done.report
    speed = report["speed"]
    assert speed["ratio"] > 0
    assert speed["n"] >= 3
    gate = report["gates"][-1]
    assert (gate["kind"], gate["of"], gate["measured"], gate["required"]) == ("speed", "latency", speed["ratio"], 1)
    assert len(speed["ratios"]) == gate["n"] == speed["n"]
    assert speed["ratio"] == np.median(speed["ratios"])
    assert gate["passed"] == (gate["verdict"] != "inferior")
    assert done.passed == all(one["passed"] for one in report["gates"])
    assert report["cost"]["seconds"]["speed"] > 0
    assert gate_table([gate]).rows[0][3] == "<= 1.0"
    known = dict(fact_table(report).rows)
    assert known["speed"].endswith(f"(batch 1, {speed['threads']} threads, n = {speed['n']} in turn)")


def test_a_recipe_may_ask_for_less_or_more(known_tiny: Any, exports: Any, tmp_path: Path) -> None:
    report = exports("onnx-int8").report
    assert report["speed"] is None
    assert dict(fact_table(report).rows)["speed"] == "not measured"
    assert "speed" not in [gate["kind"] for gate in report["gates"]]
    assert "speed" not in dict(fact_table(exports("onnx-fp32").report).rows)
