"""Is INT8 faster than full precision in the same runtime, on this machine, in this run?"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import find
from ..checks.results import Speed
from ..errors import UsageError
from ..machine.scratch import scratch
from ..recipes.recipe import Recipe
from .contenders import build_full_precision, file_contender
from .pinning import pinned
from .timing import in_turn, percentiles

SECONDS = 20.0


def check_measurable(recipe: Recipe) -> None:
    """Raise UsageError unless an export can measure its artifact's speed: INT8, and in a runtime of this machine."""
    if not recipe.int8:
        raise UsageError(f"export {recipe.target}: --speed holds INT8 against full precision; give an INT8 target")
    if not find(recipe.backend).can_compare_full_precision:
        raise UsageError(
            f"export {recipe.target}: its speed shows on its device only, its graph in another runtime says nothing "
            "of it; leave out --speed, and run kit/check.py on the device"
        )


def measure_speed(recipe: Recipe, artifact: Path, net: Any, tiles: np.ndarray) -> Speed:
    """Time an INT8 artifact and `net`, its folded full-precision model, in turn at batch 1; all cores.

    Returns the `ratios` of both in every round and `ratio`, their median; the percentiles of both in milliseconds, `n`
    and how threads were set.
    """
    with pinned() as pinning, scratch("fp32") as folder, ExitStack() as stack:
        other = build_full_precision(net, recipe, folder)
        runners = {
            name: file_contender(name, "bundle", recipe.backend, path, pinning.threads, stack).run
            for name, path in (("int8", artifact), ("full", other))
        }
        tile = tiles[:1]
        times = in_turn({name: partial(run, tile) for name, run in runners.items()}, seconds=SECONDS)
    ratios = times["int8"] / times["full"]
    return {
        "ratio": float(np.median(ratios)),
        "ratios": ratios.tolist(),
        "int8_ms": percentiles(times["int8"]),
        "full_precision_ms": percentiles(times["full"]),
        "n": len(times["int8"]),
        "threads": pinning.threads,
        "pinned": pinning.how,
    }
