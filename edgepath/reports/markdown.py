"""TODO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .tables import DRIFT_HEADER, DRIFT_LEGEND, GATE_HEADER, drift_rows, fact_rows, gate_rows


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return `report.md`: verdict first, then drift, gates, where everything came from."""
    lines = [f"# {report['name']}: {'passed' if report['passed'] else 'FAILED'}", ""]
    said = [*report["cautions"], *report["notes"]]
    lines += [f"> {text}" for text in said] + [""] * bool(said)
    lines += [*_markdown_table(DRIFT_HEADER, drift_rows(report["drift"])), DRIFT_LEGEND, ""]
    lines += _markdown_table(GATE_HEADER, gate_rows(report["gates"]))
    lines += _markdown_table(["", ""], fact_rows(report))
    if report["skipped"]:
        lines += _markdown_table(["tile left out", "why"], report["skipped"])
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (header, ["---"] * len(header), *rows)
    return ["| " + " | ".join(map(_cell, row)) + " |" for row in lines] + [""]


def _cell(text: str) -> str:
    """File names and messages may hold what would end a cell or a row."""
    return " ".join(text.replace("|", "\\|").split())
