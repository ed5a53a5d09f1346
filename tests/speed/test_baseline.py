"""A result is held against an earlier one of the same machine, threads and batches, and against no other."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.checks.verdicts import Verdict
from edgepath.errors import UsageError
from edgepath.reports.tables.speed import baseline_table
from edgepath.speed.baseline import Elsewhere, compare, read_result


def row(name: str, batch: int, p50: float, ratio: float | None) -> dict[str, Any]:
    held = None if ratio is None else {"against": "FP32 (OpenVINO)", "p50": ratio, "same_run": True}
    latency = {"latency_ms": {"p50": p50}, "ratio": held, "ratios": [held] if held else []}
    return {"name": name, "batch": batch, "threads": 2, **latency}


def result(ratio: float | None = 0.5, p50: float = 80.0) -> dict[str, Any]:
    return {
        "schema": 1,
        "bundles": [{"name": "a", "bundle": "0" * 64}],
        "results": [row("a", 1, p50, ratio), row("FP32 (OpenVINO)", 1, 160.0, None)],
        "machine": {"cpu": "A CPU", "cpu_features": ["avx2"], "cores": 2},
    }


def before(found: dict[str, Any]) -> Elsewhere:
    return Elsewhere(Path("baseline.json"), found)


@pytest.mark.parametrize(("now", "passed"), [(0.5, True), (0.55, True), (0.551, False), (0.2, True)])
def test_ratios_are_compared_where_both_have_one(now: float, passed: bool) -> None:
    found = compare(result(now, p50=500.0), before(result(0.5)), 1.10)  # slower in ms: the machine was, not the bundle
    assert found["passed"] is passed
    (only,) = found["rows"]
    assert (only["of"], only["baseline"], only["now"]) == ("FP32 (OpenVINO)", 0.5, now)
    shown = baseline_table(found)
    (row,) = shown.rows
    assert len(row) == len(shown.header)
    assert (row[6], row[-1]) == ("<= 1.1", passed)


def with_samples(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    found = result(ratio=sorted(ours)[len(ours) // 2] / theirs[0])
    for row, samples in zip(found["results"], (ours, theirs), strict=True):
        row["samples_ms"] = samples
    return found


@pytest.mark.parametrize(
    ("now", "rounds", "verdict"),
    [
        (80.0, 40, "non-inferior"),
        (100.0, 40, "inferior"),
        (88.5, 40, "inconclusive"),  # 1.106 times, of medians that are known to 1 %
        (100.0, 5, "inconclusive"),
        (80.0, 3, "inconclusive"),
    ],
)
def test_rounds_say_how_sure_a_comparison_is(now: float, rounds: int, verdict: str) -> None:
    rng = np.random.default_rng(0)
    noise = np.sort(rng.normal(1, 0.02, rounds))
    found = compare(
        with_samples((now * noise).tolist(), [160.0] * rounds),
        before(with_samples((80.0 * noise).tolist(), [160.0] * rounds)),
        1.10,
    )
    assert found["verdict"] == verdict
    assert found["passed"] is (verdict != "inferior")
    (row,) = found["rows"]
    assert (row["verdict"], row["n"]) == (verdict, rounds)
    assert baseline_table(found).rows[0][-1] == Verdict(verdict)


@pytest.mark.parametrize(("p50", "passed"), [(87.0, True), (89.0, False)])
def test_latencies_are_compared_where_one_has_no_ratio(p50: float, passed: bool) -> None:
    found = compare(result(None, p50), before(result(0.5)), 1.10)
    assert found["rows"][0]["of"] == "p50 ms"
    assert found["passed"] is passed


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("machine.cpu", "Another", "measured on cpu Another, this is A CPU; measure a baseline here"),
        ("machine.cpu_features", ["avx2", "avx_vnni"], "measured on cpu_features avx2, avx_vnni, this is avx2"),
        ("machine.cores", 64, "measured on cores 64, this is 2"),
        ("results.0.threads", 4, "measured with threads 2, 4, this run with 2; give the same"),
        ("results.0.batch", 4, "measured with batch 1, 4, this run with 1; give the same"),
        ("results.0.name", "b", "has no a; it has FP32 (OpenVINO), b"),
    ],
)
def test_another_machine_or_way_is_refused(path: str, value: Any, said: str) -> None:
    other: Any = copy.deepcopy(result())
    at = other
    *parents, last = path.split(".")
    for key in parents:
        at = at[int(key) if key.isdigit() else key]
    at[last] = value
    with pytest.raises(UsageError) as refused:
        compare(result(), before(other), 1.10)
    assert str(refused.value).startswith("bench: baseline.json")
    assert said in str(refused.value)


def test_what_a_file_cannot_say_of_a_run_is_said() -> None:
    file = before(result() | {"model": "h0-mini"})
    assert file.notes({"h0-mini"}, (1,)) == before(result()).notes({"demo"}, (1,)) == []
    assert file.notes({"demo", "h0-mini"}, (1, 2, 4)) == [
        "baseline.json is of the model h0-mini, not of demo.",
        "baseline.json has nothing at batch 2, 4: only at 1.",
    ]


def test_a_ratio_that_allows_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="worse 0"):
        compare(result(), before(result()), 0.0)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"results": [{"name": "a"}]},
        {"results": None},
        {"machine": {}},
        {"results": [row("a", 1, 80.0, None) | {"ratio": {"p50": "x"}}]},
        {"results": [row("a", 1, 10**400, None)]},  # larger than any float
    ],
    ids=str,
)
def test_a_file_that_is_no_result_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(result()))
    assert read_result(path).device == "A CPU"
    path.write_text(json.dumps(result() | change))
    with pytest.raises(UsageError, match=r"r\.json: cannot be read as a result of bench .*; give a file of --out"):
        read_result(path)


def test_no_file_and_no_json_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[")
    for name in ("r.json", "none.json"):
        with pytest.raises(UsageError, match=f"{name}: cannot be read"):
            read_result(tmp_path / name)
