"""Results that were measured before, or on another machine: read, and held against."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checks.bounds import ALPHA, Bounds, QuantileBounds
from ..checks.gates import Gate, judge
from ..checks.verdicts import Verdict, overall
from ..errors import UsageError
from ..machine.hardware import Machine
from ..machine.tables import read_json, shown
from .results import SCHEMA, Bench, Compared, Held, Ratio, Timed

_LARGEST = 64 << 20
FULL = "torch FP32"
"""The row of a reference suite that others are shown relative to."""


@dataclass(frozen=True)
class Elsewhere:
    """A result file of `bench` or `bench reference`."""

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
        texts = [f"{self.path.name} is of the model {of}, not of {', '.join(others)}."] if of and others else []
        if missing:
            there = ", ".join(map(str, sorted(has)))
            texts.append(f"{self.path.name} has nothing at batch {', '.join(missing)}: only at {there}.")
        return texts

    @property
    def device(self) -> str:
        machine = self.result["machine"]
        return str(machine.get("device") or machine["cpu"])


def read_result(path: Path) -> Elsewhere:
    """Read a result file. Raises UsageError for what `bench` did not write."""
    try:
        result = read_json(path, _LARGEST)
        if result["schema"] != SCHEMA:
            raise ValueError(f"schema {shown(result['schema'])}; this edgepath reads {SCHEMA}")
        if not isinstance(result.get("model"), (str, type(None))):
            raise ValueError(f"model = {shown(result['model'])}")
        for row in result["results"]:
            str(row["name"]), int(row["batch"]), int(row["threads"])
            for figures in (row["latency_ms"], *_ratios(row)):
                if not isinstance(figures["p50"], (int, float)) or not 0 < float(figures["p50"]) < math.inf:
                    raise ValueError(f"p50 = {shown(figures['p50'])}")
            for rival in _ratios(row):
                str(rival["against"])
        str(result["machine"]["cpu"]), list(result["machine"]["cpu_features"]), result["machine"]["cores"]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"{path}: cannot be read as a result of bench ({why}); give a file of --out") from None
    return Elsewhere(path, result)


def compare(result: Bench, baseline: Elsewhere, worse: float) -> Compared:
    """Hold a result against an earlier one of the same machine kind: is a ratio worse than `worse` times what it was?

    Where both have a ratio against the same rival in the same run, that is compared, for it does not depend on what
    else the machine did; else the p50 latencies are, and `of` says so. `verdict` is that over all.

    Raises UsageError where machine, threads, batches or bundles are not the same.
    """
    if not worse > 0:
        raise UsageError(f"bench: --worse {worse}; give a ratio such as 1.10")
    _check_same(result, baseline)
    ours, theirs = (_by_name(bench) for bench in (result, baseline.result))
    rows = [
        line
        for name, batch in ours
        if name in _judged(result)
        for line in _compared(ours, theirs, (name, batch), worse)
    ]
    return {
        "baseline": baseline.path.name,
        "worse": worse,
        "rows": rows,
        "verdict": overall(Verdict(row["verdict"]) for row in rows).value,
        "passed": all(row["passed"] for row in rows),
    }


_Rows = Mapping[tuple[str, int], Timed]


def _by_name(result: Bench) -> _Rows:
    return {(row["name"], row["batch"]): row for row in result["results"]}


def _compared(ours: _Rows, theirs: _Rows, key: tuple[str, int], worse: float) -> list[Held]:
    """Return a row for every rival that both were held against, or one for the latency where there is none."""
    now, before = ours[key], theirs[key]
    known = {ratio["against"]: ratio["p50"] for ratio in _ratios(before)}
    pairs = [
        (ratio["against"], ratio["p50"]) for ratio in now["ratios"] if ratio["against"] in known and ratio["same_run"]
    ]
    rival = bool(pairs)
    if not pairs:
        pairs, known = [("p50 ms", now["latency_ms"]["p50"])], {"p50 ms": before["latency_ms"]["p50"]}
    compared: list[Held] = []
    for of, value in pairs:
        samples = [_samples(rows, key, of if rival else None) for rows in (ours, theirs)]
        gate = _gate(key[0], of, value / known[of], samples, worse)
        judged = gate.to_json()
        compared.append(
            {
                "name": key[0],
                "batch": key[1],
                "of": of,
                "baseline": known[of],
                "now": value,
                "times": round(gate.measured, 4),
                "verdict": judged["verdict"],
                "n": judged["n"],
                "interval": judged["interval"],
                "n_to_decide": judged["n_to_decide"],
                "passed": judged["passed"],
            }
        )
    return compared


def _gate(name: str, of: str, times: float, samples: Sequence[np.ndarray], worse: float) -> Gate:
    """Judge how many times its median of before the median of now is.

    Each median has bounds of its own, wrong in half as many cases, so that both hold at once. Files that kept no
    samples are judged by the medians alone.
    """
    if not all(map(len, samples)):
        verdict = Verdict.NON_INFERIOR if times <= worse else Verdict.INFERIOR
        return Gate("speed", of, name, times, worse, True, verdict)
    now, before = (QuantileBounds("rounds", 0.5, np.sort(values), ALPHA / 2) for values in samples)
    low = max(now.low, 0.0) / before.high
    high = now.high / before.low if before.low > 0 else math.inf
    return judge(
        "speed", of, name, Bounds(min(now.n, before.n), "rounds", times, low, high, (low, high)), worse, at_most=True
    )


def _samples(rows: _Rows, key: tuple[str, int], rival: str | None) -> np.ndarray:
    """Return what was measured in each round: milliseconds, or their ratio to the rival's; nothing if not kept."""
    own = np.array(rows[key].get("samples_ms", []), float)
    if rival is None:
        return own
    other = np.array(rows[rival, key[1]].get("samples_ms", []), float) if (rival, key[1]) in rows else own[:0]
    return own / other if len(own) == len(other) else own[:0]


def _ratios(row: Timed) -> list[Ratio]:
    ratios: Sequence[Ratio | None] = row.get("ratios") or [row["ratio"]]
    return [ratio for ratio in ratios if ratio]


def check_machine(about: Machine, baseline: Elsewhere) -> None:
    """Raise UsageError unless `about`, a result's `machine`, is of the kind that a baseline was measured on."""
    for key in ("cpu", "cpu_features", "cores", "device"):
        ours, theirs = about.get(key), baseline.result["machine"].get(key)
        if key in about and ours != theirs:
            difference = f"measured on {key} {_listed(theirs)}, this is {_listed(ours)}"
            raise UsageError(f"bench: {baseline.path}: {difference}; measure a baseline here")


def _check_same(result: Bench, baseline: Elsewhere) -> None:
    who, old = f"bench: {baseline.path}", baseline.result
    check_machine(result["machine"], baseline)
    for key in ("threads", "batch"):
        now, before = ({row[key] for row in bench["results"]} for bench in (result, old))
        if now != before:
            raise UsageError(
                f"{who}: measured with {key} {_listed(sorted(before))}, this run with {_listed(sorted(now))}; give "
                "the same"
            )
    names, wanted = {row["name"] for row in old["results"]}, _judged(result)
    if missing := wanted - names:
        raise UsageError(f"{who}: has no {_listed(sorted(missing))}; it has {_listed(sorted(names))}")


def _judged(result: Bench) -> set[str]:
    """Return what is held against a baseline: bundles, not their rivals; of a reference suite all."""
    return {bundle["name"] for bundle in result["bundles"]} or {row["name"] for row in result["results"]}


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
