"""How a number changes over the steps of a run."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, start: float, end: float, warmup: int = 0) -> float:
    """Return the value at `step`: a line from 0 up to `start` over `warmup` steps, then half a cosine to `end`.

    The formula of DINO's `cosine_scheduler`; its warm-up begins at 0, and would waste the first step.
    """
    if step < warmup:
        return start * (step + 1) / warmup
    share = (step - warmup) / max(steps - warmup, 1)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))


def linear(step: int, start: float, end: float, warmup: int) -> float:
    """Return the value at `step`: a line from `start` to `end` over `warmup` steps, then `end`."""
    return end if step >= warmup else start + (end - start) * step / warmup
