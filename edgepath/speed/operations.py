"""Where an artifact's time goes, by kind of operation and the precision it was executed in, as its runtime tells it."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.runners.openvino import Runner
from ..errors import UsageError
from .contenders import RUNTIMES

CALLS, WARM_UP = 5, 2
HEADER = ["operation", "precision", "how many", "ms", "share"]


def operations(backend: str, artifact: Path, tiles: np.ndarray, threads: int) -> dict[str, Any]:
    """Profile an artifact on `tiles`, uint8 (N, S, S, 3), and return its operations, the ones that take longest first.

    Each of `rows` has `type`, `precision`, `count`, `ms` (median over calls of the sum of that kind) and `share`.
    Profiling itself takes time, so the sum, `total_ms`, is above the latency. Raises UsageError for another runtime.
    """
    if backend not in RUNTIMES:
        raise UsageError(f"bench: operations are told by {' and '.join(RUNTIMES.values())}, not by {backend}")
    calls = (_openvino if backend == "openvino" else _onnxruntime)(artifact, tiles, threads)
    kinds = {kind for call in calls for kind in call}
    times = {kind: float(np.median([sum(call.get(kind, ())) for call in calls])) for kind in kinds}
    total = sum(times.values())
    rows = [
        {
            "type": kind[0],
            "precision": kind[1],
            "count": max(len(call.get(kind, ())) for call in calls),
            "ms": round(ms, 4),
            "share": round(ms / total, 4) if total else 0.0,
        }
        for kind, ms in sorted(times.items(), key=lambda item: -item[1])
    ]
    return {"batch": len(tiles), "calls": len(calls), "total_ms": round(total, 4), "rows": rows}


def operation_rows(found: Mapping[str, Any], shown: int = 12) -> list[list[str]]:
    """Return a row a kind of operation, the longest first, as `HEADER` names the columns; the rest in one row."""
    rows = [
        _cells(row["type"], row["precision"], row["count"], row["ms"], row["share"]) for row in found["rows"][:shown]
    ]
    rest = found["rows"][shown:]
    if rest:
        count, ms, share = (sum(row[key] for row in rest) for key in ("count", "ms", "share"))
        rows.append(_cells(f"{len(rest)} other kinds", "", count, ms, share))
    return rows


def _cells(kind: str, precision: str, count: int, ms: float, share: float) -> list[str]:
    return [kind, precision, str(count), f"{ms:.2f}", f"{100 * share:.1f} %"]


_Call = Mapping[tuple[str, str], Sequence[float]]


def _openvino(artifact: Path, tiles: np.ndarray, threads: int) -> list[_Call]:
    calls: list[_Call] = []
    with Runner(artifact, threads=threads, profile=True) as runner:
        for number in range(WARM_UP + CALLS):
            runner(tiles)
            if number >= WARM_UP:
                calls.append(_by_kind(runner.operations()))
    return calls


def _onnxruntime(artifact: Path, tiles: np.ndarray, threads: int) -> list[_Call]:
    """Read the profile that ONNX Runtime writes: an event a node and call; its precision is that of the first input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = threads, 3, True
    with tempfile.TemporaryDirectory(prefix="edgepath-profile-") as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(WARM_UP + CALLS):
            session.run(None, {name: tiles})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = [one for one in events if one.get("cat") == "Node" and one["name"].endswith("_kernel_time")]
    seen: Counter[str] = Counter()
    calls: list[list[tuple[str, str, float]]] = [[] for _ in range(WARM_UP + CALLS)]
    for node in nodes:
        about = node["args"]
        given = next((kind for one in about["input_type_shape"] for kind in one), "")
        calls[seen[node["name"]]].append((about["op_name"], given, node["dur"] / 1e3))
        seen[node["name"]] += 1
    return [_by_kind(call) for call in calls[WARM_UP:]]


def _by_kind(executed: Sequence[tuple[str, str, float]]) -> _Call:
    found: dict[tuple[str, str], list[float]] = {}
    for kind, precision, ms in executed:
        found.setdefault((kind, precision), []).append(ms)
    return found
