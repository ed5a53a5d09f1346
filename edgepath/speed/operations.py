"""Where an artifact's time goes, by kind of operation and the precision it was executed in, as its runtime tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..backends import every, find
from ..errors import UsageError
from .results import Operation, Operations

CALLS, WARM_UP = 5, 2


def operations(backend: str, artifact: Path, tiles: np.ndarray, threads: int) -> Operations:
    """Profile an artifact on `tiles`, uint8 (N, S, S, 3), and return its operations, the ones that take longest first.

    Each of `rows` has `type`, `precision`, `count`, `ms` (median over calls of the sum of that kind) and `share`.
    Profiling itself takes time, so the sum, `total_ms`, is above the latency. Raises UsageError for another runtime.
    """
    if (profile := find(backend).profile) is None:
        known = " and ".join(backend.title for backend in every() if backend.profile is not None)
        raise UsageError(f"bench: operations are told by {known}, not by {backend}")
    calls = [_by_kind(call) for call in profile(artifact, tiles, threads, CALLS, WARM_UP)]
    kinds = {kind for call in calls for kind in call}
    times = {kind: float(np.median([sum(call.get(kind, ())) for call in calls])) for kind in kinds}
    total = sum(times.values())
    rows: list[Operation] = [
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


_Call = Mapping[tuple[str, str], Sequence[float]]


def _by_kind(executed: Sequence[tuple[str, str, float]]) -> _Call:
    times: dict[tuple[str, str], list[float]] = {}
    for kind, precision, ms in executed:
        times.setdefault((kind, precision), []).append(ms)
    return times
