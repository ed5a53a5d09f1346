"""One call of each contender after the other, again and again: what a noisy machine does, it does to all of them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..machine.progress import Advance
from .results import Kind, Percentiles, Ratio, Timed

PERCENTILES = (50, 90, 95, 99)
FEWEST = 3  # rounds, whatever they take
SETTLED_S = 0.05
"""A shorter call would be timed in the caches of the contender before it."""
_REST_S = 0.05
_FEWEST_FOR_TAILS = 100  # samples; of fewer, the 95th and 99th percentile are the largest few


def in_turn(
    runs: Mapping[Any, Callable[[], object]],
    *,
    rounds: int = 40,
    seconds: float = math.inf,
    warm_up: int = 5,
    advance: Advance | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, np.ndarray]:
    """Time one call of each of `runs`, then of each again: milliseconds, float64 (n,) by name, the same n for all.

    Every sample is kept. There are at most `rounds` rounds, fewer when `seconds` for each contender are used up, and at
    least three; each has an order of its own, the same in every run. Before, each is called `warm_up` times, fewer when
    that takes a fifth of its seconds. Before a timed call come a rest of 50 ms, in which the threads of the contender
    before it stop spinning (ONNX Runtime's go on after a call, and slow what is timed beside them by up to a quarter),
    and an untimed call of the same where that takes under 50 ms.
    """
    settle = {name: _warm_up(run, warm_up, seconds / 5, clock) < SETTLED_S for name, run in runs.items()}
    times: dict[Any, list[float]] = {name: [] for name in runs}
    begun, limit, order, shuffle = clock(), seconds * len(runs), list(runs), random.Random(0).shuffle
    for done in range(rounds):
        started = clock()
        shuffle(order)
        for name in order:
            run = runs[name]
            time.sleep(_REST_S)
            if settle[name]:
                run()
            start = clock()
            run()
            times[name].append((clock() - start) * 1e3)
        ended = clock()
        if advance is not None:
            advance(1)
        if done + 1 >= FEWEST and ended - begun + (ended - started) > limit:
            break
    if advance is not None:
        advance(rounds - done - 1)
    return {name: np.array(values) for name, values in times.items()}


def percentiles(samples: np.ndarray) -> Percentiles:
    """Return p50, p90, p95 and p99 of milliseconds; of fewer than 100 samples the last two are None."""
    values = [round(float(value), 4) for value in np.percentile(samples, PERCENTILES)]
    p50, p90, p95, p99 = values
    enough = len(samples) >= _FEWEST_FOR_TAILS
    return {"p50": p50, "p90": p90, "p95": p95 if enough else None, "p99": p99 if enough else None}


def ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the median over rounds of ours / theirs of the same round."""
    return float(np.median(ours / theirs))


def timed(name: str, kind: Kind, batch: int, threads: int, samples: np.ndarray, ratios: list[Ratio]) -> Timed:
    """Return what samples of calls, milliseconds (n,), say of a contender; the first of `ratios` is the one to show."""
    latency = percentiles(samples)
    return {
        "name": name,
        "kind": kind,
        "batch": batch,
        "threads": threads,
        "n": len(samples),
        "latency_ms": latency,
        "samples_ms": [round(float(sample), 4) for sample in samples],
        "tiles_per_s": round(batch / latency["p50"] * 1e3, 3),
        "ratio": ratios[0] if ratios else None,
        "ratios": ratios,
    }


def _warm_up(run: Callable[[], object], calls: int, seconds: float, clock: Callable[[], float]) -> float:
    """Call at least once; return what the last call took, in seconds."""
    begun = ended = clock()
    took = 0.0
    for _ in range(max(1, calls)):
        run()
        now = clock()
        took, ended = now - ended, now
        if ended - begun > seconds:
            break
    return took
