"""Results that were measured before, or on another machine: read, and held against."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks.results import Facts
from ..errors import UsageError
from .results import SCHEMA, Bench, Compared, Held, Ratio, Timed

_LARGEST = 64 << 20
FULL = "torch FP32"
"""The row of a reference suite that others are shown relative to."""


@dataclass(frozen=True)
class Elsewhere:
    """A result file of `bench` or `bench --reference`."""

    path: Path
    result: Bench

    def ratios(self, name: str, batch: int, p50: float) -> list[Ratio]:
        """Return p50 over what the file has at this batch: of the same name, or of the reference suite's FP32.

        Not of the same run, so what machines do to it is in it.
        """
        wanted = (name, FULL)
        return [
            {
                "kind": "earlier",
                "against": f"{row['name']} of {self.path.name}, {self.device}",
                "p50": round(p50 / row["latency_ms"]["p50"], 4),
                "same_run": False,
            }
            for row in self.result["results"]
            if row["name"] in wanted and row["batch"] == batch
        ]

    def notes(self, models: Iterable[str], batches: Sequence[int]) -> list[str]:
        """Say where this file has nothing to hold against, and where what it has is another model's."""
        of, has = self.result.get("model"), {row["batch"] for row in self.result["results"]}
        others = sorted(set(models) - {of})
        missing = [str(batch) for batch in batches if batch not in has]
        said = [f"{self.path.name} is of the model {of}, not of {', '.join(others)}."] if of and others else []
        if missing:
            there = ", ".join(map(str, sorted(has)))
            said.append(f"{self.path.name} has nothing at batch {', '.join(missing)}: only at {there}.")
        return said

    @property
    def device(self) -> str:
        found = self.result["machine"]
        return str(found.get("device") or found["cpu"])


def read_result(path: Path) -> Elsewhere:
    """Read a result file. Raises UsageError for what `bench` did not write."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large")
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise ValueError(f"schema {found['schema']}; this edgepath reads {SCHEMA}")
        for row in found["results"]:
            str(row["name"]), int(row["batch"]), int(row["threads"])
            for one in (row["latency_ms"], *_ratios(row)):
                if not isinstance(one["p50"], (int, float)) or not 0 < one["p50"] < math.inf:
                    raise ValueError(f"p50 = {one['p50']!r}")
            for one in _ratios(row):
                str(one["against"])
        str(found["machine"]["cpu"]), list(found["machine"]["cpu_features"]), found["machine"]["cores"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: cannot be read as a result of bench ({why}); give a file of --out") from None
    return Elsewhere(path, found)


def compare(result: Bench, baseline: Elsewhere, worse: float) -> Compared:
    """Hold a result against an earlier one of the same machine kind: is a ratio worse than `worse` times what it was?

    Where both have a ratio against the same rival in the same run, that is compared, for it does not depend on what
    else the machine did; else the p50 latencies are, and `of` says so. `passed` is the verdict.

    Raises UsageError where machine, threads, batches or bundles are not the same.
    """
    if not worse > 0:
        raise UsageError(f"bench: worse {worse}; give a ratio such as 1.10")
    _check_same(result, baseline)
    before = {(row["name"], row["batch"]): row for row in baseline.result["results"]}
    rows = [
        line
        for row in result["results"]
        if row["name"] in _judged(result)
        for line in _compared(row, before[row["name"], row["batch"]], worse)
    ]
    return {
        "baseline": baseline.path.name,
        "worse": worse,
        "rows": rows,
        "passed": all(row["passed"] for row in rows),
    }


def _compared(now: Timed, before: Timed, worse: float) -> list[Held]:
    """Return a row for every rival that both were held against, or one for the latency where there is none."""
    known = {one["against"]: one["p50"] for one in _ratios(before)}
    pairs = [(one["against"], one["p50"]) for one in now["ratios"] if one["against"] in known and one["same_run"]]
    if not pairs:
        pairs, known = [("p50 ms", now["latency_ms"]["p50"])], {"p50 ms": before["latency_ms"]["p50"]}
    return [
        {
            "name": now["name"],
            "batch": now["batch"],
            "of": of,
            "baseline": known[of],
            "now": value,
            "times": round(value / known[of], 4),
            "passed": value / known[of] <= worse,
        }
        for of, value in pairs
    ]


def _ratios(row: Timed) -> list[Ratio]:
    ratios: Sequence[Ratio | None] = row.get("ratios") or [row["ratio"]]
    return [one for one in ratios if one]


def check_machine(about: Facts, baseline: Elsewhere) -> None:
    """Raise UsageError unless `about`, a result's `machine`, is of the kind that a baseline was measured on."""
    for key in ("cpu", "cpu_features", "cores", "device"):
        ours, theirs = about.get(key), baseline.result["machine"].get(key)
        if key in about and ours != theirs:
            found = f"measured on {key} {_said(theirs)}, this is {_said(ours)}"
            raise UsageError(f"bench: {baseline.path}: {found}; measure a baseline here")


def _check_same(result: Bench, baseline: Elsewhere) -> None:
    who, old = f"bench: {baseline.path}", baseline.result
    check_machine(result["machine"], baseline)
    for key in ("threads", "batch"):
        now, before = ({row[key] for row in found["results"]} for found in (result, old))
        if now != before:
            raise UsageError(
                f"{who}: measured with {key} {_said(sorted(before))}, this run with {_said(sorted(now))}; give the same"
            )
    names, wanted = {row["name"] for row in old["results"]}, _judged(result)
    if missing := wanted - names:
        raise UsageError(f"{who}: has no {_said(sorted(missing))}; it has {_said(sorted(names))}")


def _judged(result: Bench) -> set[str]:
    """Return what is held against a baseline: bundles, not their rivals; of a reference suite all."""
    return {one["name"] for one in result["bundles"]} or {row["name"] for row in result["results"]}


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
