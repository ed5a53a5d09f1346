"""The page itself: verdict first, then drift, a section a measurement, the worst tiles, where everything came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ...checks.results import Report
from ...checks.verdicts import Verdict
from ..table import Cell, Table, failed, table
from ..tables.drift import DRIFT_LEGEND, GATE_LEGEND, drift_table, fact_table, gate_table
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
    "tasks": ("Tasks", "edgepath probe labels BUNDLE FOLDER --json > p.json"),
    "genes": ("Gene expression", "edgepath probe hest BUNDLE FOLDER --json > h.json"),
    "slides": ("Slides", "edgepath slides BUNDLE SLIDES --out FOLDER --picture --against fp32 --json > s.json"),
    "latency": ("Latency", "edgepath bench BUNDLE --json > bench.json"),
    "devices": (
        "Devices",
        "python3 kit/check.py, on the device; then edgepath report add BUNDLE device-report.json",
    ),
}
"""What can be measured besides drift, in the page's order: the title, and the command that measures it."""


_HEADER = ("of", "measured or lost", "required", "95 % bounds", "n", "n needed", "verdict")


def to_html(report: Report, shown: Sequence[Picture], sections: Sequence[Section] = (), digest: str = "") -> str:
    """Return the page of a bundle's report, its worst tiles, and what else was measured of it.

    `digest` is the sha256 of `bundle.json`, empty in the page that lies in the bundle (and is hashed there itself).
    """
    everything = [_drift(report), *sections]
    gates = [row for section in everything for row in section.gates.rows]
    recipe = report["recipe"]
    worst = report["drift"][report["worst"]["of"]] if shown else None
    page = render(
        "page.html.j2",
        name=report["name"],
        model=f"{report['model']['name']} for {recipe['target']}: {recipe['summary']}",
        gates=gates,
        failed=table(("failed gate", *_HEADER), [row for row in gates if failed(row[-1])]),
        unsure=table(("inconclusive gate", *_HEADER), [row for row in gates if row[-1] is Verdict.INCONCLUSIVE]),
        counted=Counter(_word(section) for section in everything for _ in section.gates.rows),
        missing=[KINDS[kind][0].lower() for kind in unmeasured(everything)],
        remarks=list(dict.fromkeys([*report["cautions"], *(note for section in everything for note in section.notes)])),
        contents=[part for kind in ("drift", *KINDS) for part in _parts(kind, everything)],
        pictures=shown,
        tiles=worst["tiles"] if worst else 0,
        worst_of=report["worst"]["of"] if shown else "",
        **_provenance(report, digest, "latency" not in unmeasured(everything)),
    )
    return str(page)


def verdicts(report: Report, sections: Sequence[Section] = ()) -> list[Cell]:
    """Return the verdict of every gate: the export's, and those of what else was measured.

    An export that says it failed has failed, whatever its gates say.
    """
    cells = [row[-1] for section in (_drift(report), *sections) for row in section.gates.rows]
    return cells if report["passed"] else [*cells, False]


def unmeasured(sections: Sequence[Section]) -> list[str]:
    """Return the kinds of which nothing was given."""
    return [kind for kind in KINDS if kind not in {section.kind for section in sections}]


def _word(section: Section) -> str:
    """What a section is called where gates are counted."""
    return (KINDS[section.kind][0] if section.kind in KINDS else section.title).lower()


def _drift(report: Report) -> Section:
    gates = gate_table(report["gates"])
    legends = [DRIFT_LEGEND, GATE_LEGEND]
    shown = {"drift": drift_table(report["drift"]).turned(), "gates": gates, "legends": legends}
    return Section("drift", "Drift", render("drift.html.j2", **shown), gates, tuple(report["notes"]))


def _parts(kind: str, everything: Sequence[Section]) -> list[dict[str, object]]:
    """A kind's sections; where there is none, the section that says how to get it."""
    of = [section for section in everything if section.kind == kind]
    if not of:
        title, command = KINDS[kind]
        return [{"id": kind, "title": title, "section": None, "command": command}]
    names = [kind, *(f"{kind}-{number}" for number in range(2, len(of) + 1))]
    return [{"id": name, "title": section.title, "section": section} for name, section in zip(names, of, strict=True)]


def _provenance(report: Report, digest: str, timed: bool) -> dict[str, object]:
    """Where everything came from. The page has a section of its own for speed that was `timed`."""
    facts = [row for row in fact_table(report).rows if row[0] != "speed" or report["speed"] or not timed]
    machine = report["machine"]
    features = ", ".join(machine["cpu_features"]) or "none named"
    here = f"{machine['cpu']} ({features}), {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
    return {
        "facts": table(["", ""], [*facts, ("exported on", here)]),
        "skipped": table(["tile left out", "why"], report["skipped"]),
        "versions": [f"{name} {version}" for name, version in report["versions"].items()],
        "hashes": table(["", ""], _hashes(report, digest)),
        "digest": digest,
    }


def _hashes(report: Report, digest: str) -> list[tuple[str, str]]:
    files = report.get("files", {})
    hashes = {
        "weights": report["weights"]["sha256"],
        "calibration tiles": calibration.get("sha256") if (calibration := report["calibration"]) else None,
        "golden tiles": report["held_out"].get("sha256"),
        "bundle.json": digest,
        **{name: files[name]["sha256"] for name in sorted(files) if not name.startswith("kit/")},
    }
    return [(name, sha256) for name, sha256 in hashes.items() if sha256]
