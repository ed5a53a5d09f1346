"""Figures that were kept of a machine of this kind, and whether one that was just measured is much worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

KEPT = {"VNNI": "epyc-vnni.json", "AVX2": "epyc-avx2.json"}
WORSE = 0.10
"""More than this share above a kept latency ratio, or below a kept ratio of throughputs, is a regression."""
_SMALLER_IS_BETTER = ("latency ratio",)
_LARGER_IS_BETTER = ("throughput ratio", "slides: tiles/s", "slides: two Ray workers")


def kind_of(instructions: str) -> str:
    """Return which kept file a CPU is compared with, by its instruction sets as `doctor` names them."""
    return "VNNI" if "vnni" in instructions else "AVX2"


def kept(instructions: str, results: Path) -> dict[str, Any]:
    """Return the figures kept of a CPU of this kind, empty where there are none."""
    path = results / KEPT[kind_of(instructions)]
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def regression(name: str, value: float, before: dict[str, Any]) -> str | None:
    """Return what is said of a figure that is more than 10 % worse than the one kept, None of every other."""
    known = before.get(name)
    if not isinstance(known, float):
        return None
    worse = name.startswith(_SMALLER_IS_BETTER) and value > known * (1 + WORSE)
    worse |= name.startswith(_LARGER_IS_BETTER) and value < known * (1 - WORSE)
    return f"{name}: {value}, kept of such a machine is {known}" if worse else None
