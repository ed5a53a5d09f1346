"""What `robustness`, `curves`, `probe`, a latency run and devices found, each as a section of the page.

They take what those commands print with `--json`, and raise KeyError, TypeError, ValueError, IndexError, AttributeError
or jinja2.UndefinedError for what is not whole (`merging` says so in a line).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...checks.gates import Gate
from ...checks.results import Facts
from ...quality.both_models import ARTIFACT, FULL
from ..table import Table, table
from ..tables.drift import device_table, gate_table
from ..tables.quality import (
    GROUPS,
    PROBES,
    curve_table,
    flip_table,
    gene_table,
    robustness_table,
    score_table,
    task_table,
)
from .document import KINDS, NO_GATES, Section
from .heat import less, map_differences, map_scores, matrix
from .lines import Curve, Interval, Intervals, Line
from .rendering import render

_GENES = 20  # listed; all are in the JSON
_LONGEST = 14  # letters of a task's name beside its dot; a folder may have any name
_FIGURES = {"cosine": "cosine", "top1": "top-1", "top10": "top-10"}
_TASK_COLUMNS = (0, 4, 5, 6, 1, 2, 3)  # what was lost before how much it stands on: a phone shows the first four
_COLUMNS = (0, 1, 2, 3, 4, 7)  # of the figures' table: without top-3 and top-5
_LATENCY = ("artifact", "batch", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "tiles/s", "ratio of p50")
_HOW = {
    "cosine": "cosine of a place's two embeddings",
    "top1": "share of tiles whose nearest tile is their twin",
    "top10": "share of tiles whose twin is among their ten nearest",
}
_SCORES = (
    ("balanced accuracy", "balanced_accuracy", "low", "high"),
    ("AUROC", "auroc", "auroc_low", "auroc_high"),
)
_LINES = {"cosine": "cosine", "own": "own nearest"}
_MODELS: Mapping[str, str] = {"full": FULL, "artifact": ARTIFACT}


def robustness_section(result: Mapping[str, Any]) -> Section:
    """Return PLISM's figures, the heat maps and the gates of `edgepath robustness`."""
    slides = result["slides"]
    gates = [Gate.from_json(gate) for gate in result["gates"]]
    allowed = {gate.figure: gate.bound for gate in gates}
    mapped = ("cosine", _telling(result["figures"][FULL]["all"], allowed))
    return _section(
        "robustness",
        slides["name"],
        result,
        gate_table(result["gates"], {**GROUPS, **_FIGURES}),
        places=slides["places"],
        slides=slides["slides"],
        maps=[_maps(result["pairs"], slides["looks"], name, allowed[name]) for name in mapped],
        figures=robustness_table(result).columns(_COLUMNS),
    )


def curves_section(result: Mapping[str, Any]) -> Section:
    """Return the plots of `edgepath curves`, and each curve's end in numbers."""
    lowest = min(one[name] for c in result["curves"] for of in c["figures"].values() for one in of for name in _LINES)
    low = min(0.9, math.floor(10 * max(0.0, lowest)) / 10)
    ends = curve_table(result)
    rows = zip(ends.rows, result["curves"], strict=True)
    return _section(
        "curves",
        "",
        result,
        key={f"{kind} {m}": f"{word}, {name}" for kind, word in _LINES.items() for m, name in _MODELS.items()},
        plots=[_curve(one, low) for one in result["curves"]],
        name=result["source"]["name"],
        count=result["source"]["count"],
        ends=table(
            ("at the last degree", *ends.header[2:]),
            [(f"{row[0]}, {one['degrees'][-1]:g}", *row[2:]) for row, one in rows],
        ),
    )


def probe_section(result: Mapping[str, Any]) -> Section:
    """Return what `edgepath probe` found, by `--labelled` or by `--hest`: the latter's result has tasks."""
    return genes_section(result) if "tasks" in result else tasks_section(result)


def tasks_section(result: Mapping[str, Any]) -> Section:
    """Return the scores, intervals, changed predictions and gates of `edgepath probe`."""
    return _section(
        "tasks",
        result["source"]["name"],
        result,
        gate_table(result["gates"], PROBES),
        count=result["source"]["count"],
        classes=result["classes"],
        folds=result["folds"],
        groups=result["groups"],
        plots=[_intervals(result["scores"], *of) for of in _SCORES],
        scores=score_table(result),
        flips=flip_table(result),
    )


def genes_section(result: Mapping[str, Any]) -> Section:
    """Return the correlations by task, the genes that lost most and the gates of `edgepath probe --hest`."""
    return _section(
        "genes",
        result["source"]["name"],
        result,
        gate_table(result["gates"]),
        count=result["source"]["count"],
        components=result["components"],
        plots=[_correlations(result["tasks"]), _losses(result["tasks"])],
        genes=gene_table(result, _GENES),
        scores=task_table(result).columns(_TASK_COLUMNS),
    )


def latency_section(result: Mapping[str, Any]) -> Section:
    """Return the table of a latency run over one or more bundles; what it does not say is left out."""
    told = {"threads": "threads", "warm_up": "warm-up", "rounds": "rounds"}
    words = {"cpu": "{}", "cores": "{} cores", "gpu": "{}", "system": "{}"}
    machine, gates = result.get("machine") or {}, gate_table(result.get("gates") or [])
    if compared := result.get("compared"):
        worst = max((row["times"] for row in compared["rows"]), default=0.0)
        held = ("times the baseline", str(compared["baseline"]), f"{worst:.3f}", f"<= {compared['worse']}")
        gates = table(gates.header, [*gates.rows, (*held, bool(compared["passed"]))])
    body = render(
        "latency.html.j2",
        times=table(_LATENCY, [_latency_row(one) for one in result["results"]]),
        how=[f"{word} {result[name]}" for name, word in told.items() if result.get(name) is not None],
        machine=[word.format(machine[name]) for name, word in words.items() if machine.get(name)],
        gates=gates,
    )
    return Section("latency", KINDS["latency"][0], body, gates, tuple(result.get("notes") or ()))


def devices_section(reports: Sequence[Facts]) -> Section:
    """Return what devices measured, a column each; a device that failed its gates is a gate that failed."""
    gates = [("all", f"{one['measured_at']}, {one['ran_with']}", "-", "-", bool(one["passed"])) for one in reports]
    body = render("devices.html.j2", reports=device_table(reports).turned())
    return Section("devices", KINDS["devices"][0], body, table(NO_GATES.header, gates))


def _section(kind: str, of: str, result: Mapping[str, Any], gates: Table = NO_GATES, **shown: Any) -> Section:
    """Return a result's section; `of` is what it was measured on, `shown` what else the kind's template needs."""
    title = f"{KINDS[kind][0]}: {of}" if of else KINDS[kind][0]
    body = render(f"{kind}.html.j2", **{"name": of, "gates": gates, "ran_with": result["ran_with"], **shown})
    return Section(kind, title, body, gates, tuple(result["notes"]))


def _telling(figures: Mapping[str, Any], gated: Collection[str]) -> str:
    """Return which of top-1 and top-10 to map: of few places all twins are among ten, of many hardly any is first."""
    names = [name for name in ("top10", "top1") if name in gated]
    return min(names, key=lambda name: abs(figures[name]["median"] - 0.5))


def _maps(pairs: Mapping[str, Any], looks: Mapping[str, Sequence[str]], name: str, allowed: float) -> dict[str, Any]:
    """Return three heat maps of a figure, full precision's, the artifact's and the difference, and their legend."""
    full, artifact = (matrix(pairs[model], looks, name) for model in (FULL, ARTIFACT))
    known = [*full.known, *artifact.known]
    low, high = min(known), max(known)
    drawn = [map_scores(found, model, low, high) for found, model in ((full, FULL), (artifact, ARTIFACT))]
    drawn.append(map_differences(less(full, artifact), "difference, hundredths", allowed))
    legend = {"looks": full.looks, "low": low, "high": high, "allowed": allowed}
    return {"figure": _FIGURES[name], "how": _HOW[name], "maps": drawn, **legend}


def _curve(curve: Mapping[str, Any], low: float) -> Curve:
    lines = [
        Line(f"{figure} {kind}", [degree[figure] for degree in curve["figures"][name]])
        for figure in _LINES
        for kind, name in _MODELS.items()
    ]
    return Curve(curve["name"], curve["unit"], curve["degrees"], lines, low)


def _intervals(scores: Mapping[str, Any], title: str, value: str, low: str, high: str) -> Intervals:
    rows = [
        Interval(f"{PROBES.get(method, method)}, {name}", kind, of[name][value], of[name][low], of[name][high])
        for method, of in scores.items()
        for kind, name in _MODELS.items()
    ]
    return Intervals(title, rows, math.floor(10 * min(row.low for row in rows)) / 10)


def _correlations(tasks: Sequence[Mapping[str, Any]]) -> Intervals:
    rows = []
    for task in tasks:
        for kind, name in _MODELS.items():
            mean, std = task["scores"][name]["pearson"], task["scores"][name]["std"]
            rows.append(Interval(f"{_short(task['task'])}, {name}", kind, mean, mean - std, mean + std))
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    return Intervals("Pearson's correlation", rows, math.floor(10 * low) / 10, math.ceil(10 * high) / 10)


def _losses(tasks: Sequence[Mapping[str, Any]]) -> Intervals:
    rows = []
    for task in tasks:
        lost = [gene["lost"] for gene in task["genes"]]
        rows.append(Interval(_short(task["task"]), "artifact", sum(lost) / len(lost), min(lost), max(lost)))
    widest = max(0.001, *(abs(end) for row in rows for end in (row.low, row.high)))
    return Intervals("Lost, full precision less artifact", rows, -widest, widest)


def _latency_row(one: Mapping[str, Any]) -> list[str]:
    times = [_number(one["latency_ms"].get(q)) for q in ("p50", "p90", "p95", "p99")]
    ratio = one.get("ratio")
    beside = f"{ratio['p50']:.2f} of {ratio['against']}" if ratio else "-"
    return [str(one["name"]), str(one.get("batch", "-")), *times, _number(one.get("tiles_per_s")), beside]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
