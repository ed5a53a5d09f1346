"""The page itself: verdict first, then drift, a section a measurement, the worst tiles, where everything came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tables import (
    DRIFT_HEADER,
    DRIFT_LEGEND,
    GATE_HEADER,
    drift_rows,
    fact_rows,
    gate_rows,
)
from .elements import (
    escape,
    paragraph,
    remarks,
    section,
    side_by_side,
    table,
    transposed,
    verdict,
)
from .tilestrip import Picture, draw_strip

# A page that asks for anything but what is in it gets nothing, whatever a tile is called.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_NO_DEVICE = (
    "edgepath is no medical device. This page says how far the artifact lies from the full-precision model it was made "
    "of, not whether either is right about a patient."
)


@dataclass(frozen=True)
class Section:
    """One measurement: its `kind` (a key of `KINDS`), HTML, and its gates as rows that end in "ok" or "FAILED"."""

    kind: str
    title: str
    body: str
    gates: tuple[tuple[str, ...], ...] = ()
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


def to_html(
    report: Mapping[str, Any], shown: Sequence[Picture], sections: Sequence[Section] = (), digest: str = ""
) -> str:
    """Return the page of a bundle's report, its worst tiles, and what else was measured of it.

    `digest` is the sha256 of `bundle.json`, empty in the page that lies in the bundle (and is hashed there itself).
    """
    everything = [_drift(report), *sections]
    name = report["name"]
    parts = [_head(report, everything), *(_body(kind, everything) for kind in ("drift", *KINDS))]
    if worst := draw_strip(shown, report["worst"]["of"] if shown else "", len(report["held_out"]["keys"])):
        parts.append(section("worst", "Tiles that drifted most", worst))
    parts += [_provenance(report, digest), f"<footer>{paragraph(_NO_DEVICE)}</footer>\n"]
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    state = "passed" if passed(report, sections) else "FAILED"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(name)}: {state}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "".join(parts)
        + "</main>\n</body>\n</html>\n"
    )


def passed(report: Mapping[str, Any], sections: Sequence[Section]) -> bool:
    """Tell whether every gate passed: the export's, and those of what else was measured."""
    return bool(report["passed"]) and all(gate[-1] != verdict(False) for one in sections for gate in one.gates)


def unmeasured(sections: Sequence[Section]) -> list[str]:
    """Return the kinds of which nothing was given."""
    return [kind for kind in KINDS if kind not in {one.kind for one in sections}]


def _head(report: Mapping[str, Any], everything: Sequence[Section]) -> str:
    """The verdict, what it stands on, what failed, and what a reader must know before trusting a figure."""
    gates = [gate for one in everything for gate in one.gates]
    failed = [gate for gate in gates if gate[-1] == verdict(False)]
    word = f"FAILED: {len(failed)} of {len(gates)} gates" if failed else f"Passed: {len(gates)} of {len(gates)} gates"
    judged = [f"{title} {count}" for title, count in _counted(everything).items()]
    missing = [KINDS[kind][0].lower() for kind in unmeasured(everything)]
    stands_on = f"Gates applied: {', '.join(judged)}." + (f" Not measured: {', '.join(missing)}." if missing else "")
    recipe = report["recipe"]
    model = f"{report['model']['name']} for {recipe['target']}: {recipe['summary']}"
    mark, kind = ("✗", "failed") if failed else ("✓", "ok")
    said = list(dict.fromkeys([*report["cautions"], *(note for one in everything for note in one.notes)]))
    return (
        f'<header>\n<p class="of">{escape(model)}</p>\n<h1>{escape(report["name"])}</h1>\n'
        f'<p class="verdict {kind}"><span>{mark}</span> {escape(word)}</p>\n'
        + paragraph(stands_on)
        + (table(["failed gate", "of", "measured or lost", "asked for", ""], failed, kind="gates") if failed else "")
        + remarks(said)
        + "</header>\n"
    )


def _counted(everything: Sequence[Section]) -> dict[str, int]:
    """Gates a kind, in order."""
    found: dict[str, int] = {}
    for one in everything:
        title = KINDS[one.kind][0].lower() if one.kind in KINDS else one.title.lower()
        if one.gates:
            found[title] = found.get(title, 0) + len(one.gates)
    return found


def _drift(report: Mapping[str, Any]) -> Section:
    rows = [[row[0].replace("_", " "), *row[1:]] for row in gate_rows(report["gates"])]
    figures = transposed(DRIFT_HEADER, drift_rows(report["drift"]))
    body = side_by_side(figures, table(GATE_HEADER, rows, kind="gates")) + paragraph(DRIFT_LEGEND, "legend")
    return Section("drift", "Drift", body, tuple(map(tuple, rows)), tuple(report["notes"]))


def _body(kind: str, everything: Sequence[Section]) -> str:
    """A kind's sections; where there is none, the one line that says how to get it."""
    of = [one for one in everything if one.kind == kind]
    if not of:
        title, command = KINDS[kind]
        line = f'<p class="missing">not measured; run: <code>{escape(command)}</code></p>\n'
        return section(kind, title, line)
    names = [kind, *(f"{kind}-{number}" for number in range(2, len(of) + 1))]
    return "".join(section(name, one.title, one.body) for name, one in zip(names, of, strict=True))


def _provenance(report: Mapping[str, Any], digest: str) -> str:
    """Where everything came from: facts, machine, versions, hashes."""
    calibration, machine = report["calibration"], report["machine"]
    features = ", ".join(machine["cpu_features"]) or "none named"
    here = f"{machine['cpu']} ({features}), {machine['cores']} cores, {machine['system']}, Python {machine['python']}"
    hashes = [["weights", report["weights"]["sha256"]]]
    hashes += [["calibration tiles", calibration["sha256"]]] if calibration and "sha256" in calibration else []
    hashes += [["golden tiles", report["held_out"]["sha256"]]] if "sha256" in report["held_out"] else []
    hashes += [["bundle.json", digest]] if digest else []
    files = report.get("files", {})
    hashes += [[name, files[name]["sha256"]] for name in sorted(files) if not name.startswith("kit/")]
    body = table(["", ""], [*fact_rows(report), ["exported on", here]], kind="facts")
    if report["skipped"]:
        body += table(["tile left out", "why"], report["skipped"], kind="names")
    body += "<h3>Versions</h3>\n" + paragraph(", ".join(f"{name} {of}" for name, of in report["versions"].items()))
    body += "<h3>Hashes (SHA-256)</h3>\n" + table(["", ""], hashes, kind="hashes")
    if not digest:
        body += paragraph("bundle.json lists the hash of every file of the bundle, of this page too.", "legend")
    return section("provenance", "Where this came from", body)
