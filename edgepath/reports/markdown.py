"""A report as the Markdown page of a bundle."""

from __future__ import annotations

from ..checks.results import Report
from ..checks.verdicts import Verdict
from .table import Table, table, words
from .tables.drift import DRIFT_LEGEND, GATE_LEGEND, drift_table, fact_table, gate_table


def to_markdown(report: Report) -> str:
    """Return `report.md`: verdict first, then drift, gates, where everything came from."""
    gates = gate_table(report["gates"])
    unsure = sum(row[-1] is Verdict.INCONCLUSIVE for row in gates.rows)
    inconclusive = f", {unsure} of {len(gates.rows)} gates inconclusive" if unsure else ""
    lines = [f"# {report['name']}: {'passed' if report['passed'] else 'FAILED'}{inconclusive}", ""]
    texts = [*report["cautions"], *report["notes"]]
    lines += [f"> {text}" for text in texts] + [""] * bool(texts)
    lines += [*_lines(drift_table(report["drift"])), DRIFT_LEGEND, ""]
    lines += [*_lines(gates), GATE_LEGEND, ""]
    lines += _lines(fact_table(report))
    if report["skipped"]:
        lines += _lines(table(["tile left out", "why"], report["skipped"]))
    return "\n".join(lines).rstrip() + "\n"


def _lines(shown: Table) -> list[str]:
    rows = [shown.header, ("---",) * len(shown.header), *(tuple(map(words, row)) for row in shown.rows)]
    return ["| " + " | ".join(map(_cell, row)) + " |" for row in rows] + [""]


def _cell(text: str) -> str:
    """File names and messages may hold what would end a cell or a row."""
    return " ".join(text.replace("|", "\\|").split())
