"""The page itself: verdict first, then drift, a section a measurement, the worst tiles, where everything came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ..tables import (
    DRIFT_HEADER,
    DRIFT_LEGEND,
    GATE_HEADER,
    drift_rows,
    fact_rows,
    gate_rows,
)
from .rendering import render
from .tilestrip import Picture


@dataclass(frozen=True)
class Gate:
    """A gate in words, and its verdict."""

    words: tuple[str, ...]
    passed: bool

    @property
    def row(self) -> tuple[str | bool, ...]:
        """Its row of a table."""
        return (*self.words, self.passed)


@dataclass(frozen=True)
class Section:
    """One measurement: its `kind` (a key of `KINDS`), HTML, and its gates."""

    kind: str
    title: str
    body: Markup
    gates: tuple[Gate, ...] = ()
    notes: tuple[str, ...] = ()


def judged(rows: Iterable[Sequence[str]], gates: Iterable[Mapping[str, Any]]) -> tuple[Gate, ...]:
    """Return gates with the rows that tell them, whose last cell is the verdict in words."""
    return tuple(Gate(tuple(row[:-1]), bool(gate["passed"])) for row, gate in zip(rows, gates, strict=True))


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


def to_html(
    report: Mapping[str, Any], shown: Sequence[Picture], sections: Sequence[Section] = (), digest: str = ""
) -> str:
    """Return the page of a bundle's report, its worst tiles, and what else was measured of it.

    `digest` is the sha256 of `bundle.json`, empty in the page that lies in the bundle (and is hashed there itself).
    """
    everything = [_drift(report), *sections]
    gates = [gate for one in everything for gate in one.gates]
    recipe = report["recipe"]
    page = render(
        "page.html.j2",
        name=report["name"],
        model=f"{report['model']['name']} for {recipe['target']}: {recipe['summary']}",
        passed=passed(report, sections),
        gates=gates,
        failed=[gate for gate in gates if not gate.passed],
        counted=Counter(_word(one) for one in everything for _ in one.gates),
        missing=[KINDS[kind][0].lower() for kind in unmeasured(everything)],
        remarks=list(dict.fromkeys([*report["cautions"], *(note for one in everything for note in one.notes)])),
        contents=[part for kind in ("drift", *KINDS) for part in _parts(kind, everything)],
        pictures=shown,
        tiles=len(report["held_out"]["keys"]),
        worst_of=report["worst"]["of"] if shown else "",
        **_provenance(report, digest),
    )
    return str(page)


def passed(report: Mapping[str, Any], sections: Sequence[Section]) -> bool:
    """Tell whether every gate passed: the export's, and those of what else was measured."""
    return bool(report["passed"]) and all(gate.passed for one in sections for gate in one.gates)


def unmeasured(sections: Sequence[Section]) -> list[str]:
    """Return the kinds of which nothing was given."""
    return [kind for kind in KINDS if kind not in {one.kind for one in sections}]


def _word(section: Section) -> str:
    """What a section is called where gates are counted."""
    return (KINDS[section.kind][0] if section.kind in KINDS else section.title).lower()


def _drift(report: Mapping[str, Any]) -> Section:
    rows = [[row[0].replace("_", " "), *row[1:]] for row in gate_rows(report["gates"])]
    gates = judged(rows, report["gates"])
    header, *turned = zip(DRIFT_HEADER, *drift_rows(report["drift"]), strict=True)
    shown = {"header": header, "rows": turned, "gate_header": GATE_HEADER, "gates": gates, "legend": DRIFT_LEGEND}
    return Section("drift", "Drift", render("drift.html.j2", **shown), gates, tuple(report["notes"]))


def _parts(kind: str, everything: Sequence[Section]) -> list[dict[str, Any]]:
    """A kind's sections; where there is none, the one that says how to get it."""
    of = [one for one in everything if one.kind == kind]
    if not of:
        title, command = KINDS[kind]
        return [{"id": kind, "title": title, "section": None, "command": command}]
    names = [kind, *(f"{kind}-{number}" for number in range(2, len(of) + 1))]
    return [{"id": name, "title": one.title, "section": one} for name, one in zip(names, of, strict=True)]


def _provenance(report: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """Where everything came from: facts, machine, versions, hashes."""
    machine = report["machine"]
    features = ", ".join(machine["cpu_features"]) or "none named"
    here = f"{machine['cpu']} ({features}), {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
    return {
        "facts": [*fact_rows(report), ["exported on", here]],
        "skipped": report["skipped"],
        "versions": [f"{name} {version}" for name, version in report["versions"].items()],
        "hashes": _hashes(report, digest),
        "digest": digest,
    }


def _hashes(report: Mapping[str, Any], digest: str) -> list[tuple[str, str]]:
    files = report.get("files", {})
    hashes = {
        "weights": report["weights"]["sha256"],
        "calibration tiles": (report["calibration"] or {}).get("sha256"),
        "golden tiles": report["held_out"].get("sha256"),
        "bundle.json": digest,
        **{name: files[name]["sha256"] for name in sorted(files) if not name.startswith("kit/")},
    }
    return [(name, sha256) for name, sha256 in hashes.items() if sha256]
