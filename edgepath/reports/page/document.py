"""The page itself: verdict first, then drift, a section a measurement, the worst tiles, where everything came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from markupsafe import Markup

from ...checks.results import Facts, Report
from ..table import Table, table
from ..tables.drift import DRIFT_LEGEND, drift_table, fact_table, gate_table
from .rendering import render
from .tilestrip import Picture

NO_GATES = gate_table(())


@dataclass(frozen=True)
class Section:
    """One measurement: its `kind` (a key of `KINDS`), HTML, and its gates as a table."""

    kind: str
    title: str
    body: Markup
    gates: Table = NO_GATES
    notes: tuple[str, ...] = ()


KINDS = {
    "robustness": ("Robustness", "edgepath robustness BUNDLE --json > r.json"),
    "curves": ("Perturbation curves", "edgepath curves BUNDLE --json > c.json"),
    "tasks": ("Tasks", "edgepath probe BUNDLE --labelled DIR --json > p.json"),
    "genes": ("Gene expression", "edgepath probe BUNDLE --hest DIR --json > h.json"),
    "latency": ("Latency", "edgepath bench BUNDLE --json > bench.json"),
    "devices": (
        "Devices",
        "python3 kit/check.py, on the device; then edgepath report add BUNDLE device-report.json",
    ),
}
"""What can be measured besides drift, in the page's order: the title, and the command that measures it."""


_FAILED = ("failed gate", "of", "measured or lost", "asked for", "")
_GATES = {"cosine_mean": "cosine mean", "cosine_p01": "cosine p01"}


def to_html(report: Report, shown: Sequence[Picture], sections: Sequence[Section] = (), digest: str = "") -> str:
    """Return the page of a bundle's report, its worst tiles, and what else was measured of it.

    `digest` is the sha256 of `bundle.json`, empty in the page that lies in the bundle (and is hashed there itself).
    """
    everything = [_drift(report), *sections]
    gates = [row for one in everything for row in one.gates.rows]
    recipe = report["recipe"]
    page = render(
        "page.html.j2",
        name=report["name"],
        model=f"{report['model']['name']} for {recipe['target']}: {recipe['summary']}",
        passed=passed(report, sections),
        gates=gates,
        failed=table(_FAILED, [row for row in gates if not row[-1]]),
        counted=Counter(_word(one) for one in everything for _ in one.gates.rows),
        missing=[KINDS[kind][0].lower() for kind in unmeasured(everything)],
        remarks=list(dict.fromkeys([*report["cautions"], *(note for one in everything for note in one.notes)])),
        contents=[part for kind in ("drift", *KINDS) for part in _parts(kind, everything)],
        pictures=shown,
        tiles=len(report["held_out"]["keys"]),
        worst_of=report["worst"]["of"] if shown else "",
        **_provenance(report, digest),
    )
    return str(page)


def passed(report: Report, sections: Sequence[Section]) -> bool:
    """Tell whether every gate passed: the export's, and those of what else was measured."""
    return bool(report["passed"]) and all(row[-1] for one in sections for row in one.gates.rows)


def unmeasured(sections: Sequence[Section]) -> list[str]:
    """Return the kinds of which nothing was given."""
    return [kind for kind in KINDS if kind not in {one.kind for one in sections}]


def _word(section: Section) -> str:
    """What a section is called where gates are counted."""
    return (KINDS[section.kind][0] if section.kind in KINDS else section.title).lower()


def _drift(report: Report) -> Section:
    gates = gate_table(report["gates"], _GATES)
    shown = {"drift": drift_table(report["drift"]).turned(), "gates": gates, "legend": DRIFT_LEGEND}
    return Section("drift", "Drift", render("drift.html.j2", **shown), gates, tuple(report["notes"]))


def _parts(kind: str, everything: Sequence[Section]) -> list[dict[str, Any]]:
    """A kind's sections; where there is none, the one that says how to get it."""
    of = [one for one in everything if one.kind == kind]
    if not of:
        title, command = KINDS[kind]
        return [{"id": kind, "title": title, "section": None, "command": command}]
    names = [kind, *(f"{kind}-{number}" for number in range(2, len(of) + 1))]
    return [{"id": name, "title": one.title, "section": one} for name, one in zip(names, of, strict=True)]


def _provenance(report: Report, digest: str) -> dict[str, Any]:
    """Where everything came from: facts, machine, versions, hashes."""
    machine = report["machine"]
    features = ", ".join(machine["cpu_features"]) or "none named"
    here = f"{machine['cpu']} ({features}), {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
    return {
        "facts": table(["", ""], [*fact_table(report).rows, ("exported on", here)]),
        "skipped": table(["tile left out", "why"], report["skipped"]),
        "versions": [f"{name} {version}" for name, version in report["versions"].items()],
        "hashes": table(["", ""], _hashes(report, digest)),
        "digest": digest,
    }


def _hashes(report: Report, digest: str) -> list[tuple[str, str]]:
    files: Facts = cast(Facts, report).get("files", {})
    hashes = {
        "weights": report["weights"]["sha256"],
        "calibration tiles": (report["calibration"] or {}).get("sha256"),
        "golden tiles": report["held_out"].get("sha256"),
        "bundle.json": digest,
        **{name: files[name]["sha256"] for name in sorted(files) if not name.startswith("kit/")},
    }
    return [(name, sha256) for name, sha256 in hashes.items() if sha256]
