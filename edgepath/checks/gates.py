"""A gate on what an artifact lost against its full-precision model, in a figure of which more is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..recipes.recipe import Recipe

_FLOAT = 1e-9  # 0.97 - 0.96 is allowed where 0.01 is, though floating point says 0.010000000000000009


def loss_gate(figure: str, of: str, lost: float, allowed: float) -> dict[str, Any]:
    """Return the verdict on `figure` of `of`, JSON-able: it passes where no more was `lost` than is `allowed`."""
    return {"gate": figure, "of": of, "lost": lost, "allowed": allowed, "passed": lost <= allowed + _FLOAT}


SPEED_GATE = "p50 / full precision's"


def gates(recipe: Recipe, drift: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the measured drift against the recipe's `[accept]`.

    The artifact is judged where it ran; where it could not run here, the quantized program is, and `of` says so.
    """
    of = "total" if drift["total"] else "quantization"
    measured = drift[of]
    return [
        {"gate": key, "of": of, "measured": measured[key], "required": required, "passed": measured[key] >= required}
        for key in ("cosine_mean", "cosine_p01")
        for required in [recipe.to_json()["accept"][key]]
    ]


def parts_gate(differing: Sequence[str]) -> dict[str, Any]:
    """Return the gate that an artifact is its program, part by part: `measured` is how many parts are not."""
    return {"gate": "other parts", "of": "lowering", "measured": len(differing), "required": 0, "passed": not differing}


def speed_gate(recipe: Recipe, measured: float, of: str = "latency") -> dict[str, Any]:
    """Hold a ratio, p50 of INT8 over full precision's at batch 1, against `accept.latency.of_full_precision`."""
    required = recipe.accept.latency.of_full_precision
    return {"gate": SPEED_GATE, "of": of, "measured": measured, "required": required, "passed": measured <= required}
