"""The model card of the shipped `demo` student, made of `figures.json`: what it is, from what, and what it can do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .scoring import HEADER, score_rows


def to_card(facts: Mapping[str, Any]) -> str:
    """Return the card, Markdown, of what `demo` wrote as `figures.json`; its words are those of card.md."""
    rows = [HEADER, ["---"] * len(HEADER), *score_rows(facts["figures"])]
    trained = facts["trained_on"]
    values = {
        "real": trained["count"] - trained["synthetic"],
        "synthetic": trained["synthetic"],
        "tested": facts["tested_on"]["count"],
        "oral": facts["figures"]["student"]["oral_oscc"]["knn"]["tiles"],
        "table": "\n".join("| " + " | ".join(row) + " |" for row in rows),
    }
    for name in ("teacher", "student"):
        values[f"{name}_steps"] = round(facts[name]["last"]["step"])
        values[f"{name}_minutes"] = f"{facts[name]['seconds'] / 60:.1f}"
        values |= {f"{name}_{key}": facts[name][key] for key in ("batch", "device")}
    return Path(__file__).with_name("card.md").read_text(encoding="utf-8").format(**values)
