"""A gate on what an artifact lost against its full-precision model, in a figure of which more is better."""

from __future__ import annotations

from typing import Any

_FLOAT = 1e-9  # 0.97 - 0.96 is allowed where 0.01 is, though floating point says 0.010000000000000009


def loss_gate(figure: str, of: str, lost: float, allowed: float) -> dict[str, Any]:
    """Return the verdict on `figure` of `of`, JSON-able: it passes where no more was `lost` than is `allowed`."""
    return {"gate": figure, "of": of, "lost": lost, "allowed": allowed, "passed": lost <= allowed + _FLOAT}
