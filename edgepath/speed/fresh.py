"""What only a fresh process shows: how long until the first embedding, and how much memory it takes.

This module is also that process: `python -m edgepath.speed.fresh JSON` prints what it measured as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np

from ..backends import find
from ..errors import MissingRuntime
from ..machine.fresh_process import run_module
from ..machine.progress import peak_bytes
from ..machine.scratch import scratch
from .results import ColdStart, Memory

_SECONDS = 900


def cold_starts(name: str, backend: str, artifact: Path, *, size: int, threads: int, times: int) -> list[ColdStart]:
    """Start `times` fresh processes that load an artifact and embed one tile; the same with a model cache, if it can.

    Returns an entry without and one with cache. Seconds: `import_s` (the runtime), `load_s`, `first_s` (the first
    inference), `total_s` = load + first, each the median; `samples_s` are the totals. Files are in the system's cache.
    """
    entries: list[ColdStart] = []
    for cached in (False, True)[: 1 + find(backend).model_cache]:
        starts = []
        with scratch("cache") as folder:
            options: dict[str, object] = {"threads": threads}
            if cached:
                options["cache"] = str(folder)
                _start(backend, artifact, size, 1, options)  # fills it
            for _ in range(times):
                starts.append(_start(backend, artifact, size, 1, options))
        totals = [start["load_s"] + start["first_s"] for start in starts]
        medians = {key: round(float(np.median([start[key] for start in starts])), 4) for key in _SECONDS_OF}
        total = {"total_s": round(float(np.median(totals)), 4), "samples_s": [round(total, 4) for total in totals]}
        entries.append(cast(ColdStart, {"name": name, "cache": cached, "n": times, **medians, **total}))
    return entries


_SECONDS_OF = ("import_s", "load_s", "first_s")


def peak_memory(
    name: str, backend: str, artifact: Path, *, size: int, threads: int, batches: Sequence[int]
) -> list[Memory]:
    """Return the largest resident set of a fresh process that only loads an artifact and embeds one batch, by batch.

    `start_bytes` of it were there before the artifact was loaded: Python, NumPy, the runtime's libraries.
    """
    entries: list[Memory] = []
    for batch in batches:
        process = _start(backend, artifact, size, batch, {"threads": threads})
        peak, start = (int(process[key]) for key in ("peak_bytes", "start_bytes"))
        entries.append({"name": name, "batch": batch, "peak_bytes": peak, "start_bytes": start})
    return entries


def _start(backend: str, artifact: Path, size: int, batch: int, options: Mapping[str, object]) -> dict[str, float]:
    asked = {
        "backend": backend,
        "artifact": str(artifact.absolute()),
        "size": size,
        "batch": batch,
        "options": dict(options),
    }
    done = run_module(__name__, json.dumps(asked), seconds=_SECONDS)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise MissingRuntime(f"bench: a fresh process cannot run {artifact.name} ({reason})")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measure(backend: str, artifact: str, size: int, batch: int, options: Mapping[str, object]) -> dict[str, float]:
    tiles = np.zeros((batch, size, size, 3), np.uint8)
    runtime = find(backend)
    marks = [time.perf_counter()]
    import_module(runtime.package)
    start_bytes = peak_bytes()
    marks.append(time.perf_counter())
    with runtime.load_runner()(Path(artifact), **options) as runner:
        marks.append(time.perf_counter())
        runner(tiles)
        marks.append(time.perf_counter())
    seconds = dict(zip(_SECONDS_OF, np.diff(marks).tolist(), strict=True))
    return {**seconds, "start_bytes": start_bytes, "peak_bytes": peak_bytes()}


if __name__ == "__main__":
    print(json.dumps(_measure(**json.loads(sys.argv[1]))))
