"""What `robustness`, `curves`, `probe`, a latency run and devices found, each as a section of the page.

They take what those commands print with `--json`, and raise KeyError, TypeError, ValueError, IndexError, AttributeError
or jinja2.UndefinedError for what is not whole (`merging` says so in a line).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from ...bundle.device_reports import DeviceReport
from ...checks.gates import Gate
from ...checks.verdicts import Verdict
from ...quality import results
from ...quality.both_models import ARTIFACT, FULL
from ...quality.results import Curves, Figure, Genes, Group, Measured, Pair, Probed, Robustness, Scored, Scores
from ..table import Table, table
from ..tables.drift import device_table, gate_table
from ..tables.quality import (
    GROUPS,
    JUDGED,
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

_LEAST_SPREAD = 0.05  # of a heat map's scale
_GENES = 20  # listed; all are in the JSON
_LONGEST = 14  # letters of a task's name beside its dot; a folder may have any name
_FIGURES = {"cosine": "cosine", "top1": "top-1", "top10": "top-10"}
_TASK_COLUMNS = (0, 4, 5, 6, 1, 2, 3)  # what was lost before how much it stands on: a phone shows the first four
_COLUMNS = (0, 1, 2, 3, 4, 7)  # of the figures' table: without top-3 and top-5
_LATENCY = ("artifact", "batch", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "tiles/s", "ratio of p50")
_HOW = {
    "cosine": "cosine of a location's two embeddings",
    "top1": "fraction of tiles whose nearest tile is their matching tile",
    "top10": "fraction of tiles whose matching tile is among their ten nearest",
}
_SCORES = (
    ("balanced accuracy", "balanced_accuracy", "low", "high"),
    ("AUROC", "auroc", "auroc_low", "auroc_high"),
)
_NO_SAMPLE = ("", "", "")
_LINES = {"cosine": "cosine", "own": "own nearest"}
_MODELS: Mapping[str, str] = {"full": FULL, "artifact": ARTIFACT}


def robustness_section(result: Robustness) -> Section:
    """Return PLISM's figures, the heat maps and the gates of `edgepath robustness`."""
    slides = result["slides"]
    gates = [Gate.from_json(gate) for gate in result["gates"]]
    allowed = {gate.figure: gate.bound for gate in gates}
    mapped: tuple[Figure, ...] = ("cosine", _telling(result["figures"][FULL]["all"], allowed))
    return _section(
        "robustness",
        slides["name"],
        result,
        gate_table(result["gates"], {**GROUPS, **JUDGED, **_FIGURES}),
        places=slides["places"],
        slides=slides["slides"],
        maps=[_maps(result["pairs"], slides["looks"], name, allowed[name]) for name in mapped],
        figures=robustness_table(result).columns(_COLUMNS),
    )


def curves_section(result: Curves) -> Section:
    """Return the plots of `edgepath curves`, and each curve's end in numbers."""
    lowest = min(step[name] for c in result["curves"] for of in c["figures"].values() for step in of for name in _LINES)
    low = min(0.9, math.floor(10 * max(0.0, lowest)) / 10)
    ends = curve_table(result)
    rows = zip(ends.rows, result["curves"], strict=True)
    return _section(
        "curves",
        "",
        result,
        key={f"{kind} {m}": f"{word}, {name}" for kind, word in _LINES.items() for m, name in _MODELS.items()},
        plots=[_curve(curve, low) for curve in result["curves"]],
        name=result["source"]["name"],
        count=result["source"]["count"],
        ends=table(
            ("at the last degree", *ends.header[2:]),
            [(f"{row[0]}, {curve['degrees'][-1]:g}", *row[2:]) for row, curve in rows],
        ),
    )


def probe_section(result: Probed | Genes) -> Section:
    """Return what `edgepath probe` found, by `probe labels` or by `probe hest`: the latter's result has tasks."""
    return genes_section(cast(Genes, result)) if "tasks" in result else tasks_section(result)


def tasks_section(result: Probed) -> Section:
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


def genes_section(result: Genes) -> Section:
    """Return the correlations by task, the genes that lost most and the gates of `edgepath probe hest`."""
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
    counts = {"threads": "threads", "warm_up": "warm-up", "rounds": "rounds"}
    words = {"cpu": "{}", "cores": "{} cores", "gpu": "{}", "system": "{}"}
    machine, gates = result.get("machine") or {}, gate_table(result.get("gates") or [])
    if compared := result.get("compared"):
        worst = max((row["times"] for row in compared["rows"]), default=0.0)
        held = ("times the baseline", str(compared["baseline"]), f"{worst:.3f}", f"<= {compared['worse']}")
        cell = Verdict(compared["verdict"]) if "verdict" in compared else bool(compared["passed"])
        gates = table(gates.header, [*gates.rows, (*held, *_NO_SAMPLE, cell)])
    body = render(
        "latency.html.j2",
        times=table(_LATENCY, [_latency_row(row) for row in result["results"]]),
        how=[f"{word} {result[name]}" for name, word in counts.items() if result.get(name) is not None],
        machine=[word.format(machine[name]) for name, word in words.items() if machine.get(name)],
        gates=gates,
    )
    return Section("latency", KINDS["latency"][0], body, gates, tuple(result.get("notes") or ()))


def devices_section(reports: Sequence[DeviceReport]) -> Section:
    """Return what devices measured, a column each; a device that failed its gates is a gate that failed."""
    verdicts = (("all", f"{report['measured_at']}, {report['ran_with']}", bool(report["passed"])) for report in reports)
    gates = [(gate, of, "-", "-", *_NO_SAMPLE, passed) for gate, of, passed in verdicts]
    body = render("devices.html.j2", reports=device_table(reports).turned())
    return Section("devices", KINDS["devices"][0], body, table(NO_GATES.header, gates))


def _section(kind: str, of: str, result: Measured, gates: Table = NO_GATES, **shown: object) -> Section:
    """Return a result's section; `of` is what it was measured on, `shown` what else the kind's template needs."""
    title = f"{KINDS[kind][0]}: {of}" if of else KINDS[kind][0]
    body = render(f"{kind}.html.j2", **{"name": of, "gates": gates, "ran_with": result["ran_with"], **shown})
    return Section(kind, title, body, gates, tuple(result["notes"]))


def _telling(figures: Group, gated: Collection[str]) -> Figure:
    """Return which of top-1 and top-10 to map: with few locations top-10 is full, with many top-1 is empty."""
    both: tuple[Figure, ...] = ("top10", "top1")
    from_half = {name: abs(figures[name]["median"] - 0.5) for name in both if name in gated}
    return min(from_half, key=from_half.__getitem__)


def _maps(
    pairs: Mapping[str, Sequence[Pair]], looks: Mapping[str, Sequence[str]], name: Figure, allowed: float
) -> dict[str, object]:
    """Return three heat maps of a figure, full precision's, the artifact's and the difference, and their legend."""
    full, artifact = (matrix(pairs[model], looks, name) for model in (FULL, ARTIFACT))
    known = [*full.known, *artifact.known]
    high = max(known)
    low = min(*known, high - _LEAST_SPREAD)  # so that cells that read alike are of one shade
    drawn = [map_scores(scores, model, low, high) for scores, model in ((full, FULL), (artifact, ARTIFACT))]
    drawn.append(map_differences(less(full, artifact), "difference, hundredths", allowed))
    legend = {"looks": full.looks, "low": low, "high": high, "allowed": allowed}
    return {"figure": _FIGURES[name], "how": _HOW[name], "maps": drawn, **legend}


def _curve(curve: results.Curve, low: float) -> Curve:
    lines = [
        Line(f"{figure} {kind}", [degree[figure] for degree in curve["figures"][name]])
        for figure in _LINES
        for kind, name in _MODELS.items()
    ]
    return Curve(curve["name"], curve["unit"], curve["degrees"], lines, low)


def _intervals(scores: Scores, title: str, value: str, low: str, high: str) -> Intervals:
    rows = [
        Interval(f"{PROBES.get(method, method)}, {name}", kind, of[name][value], of[name][low], of[name][high])
        for method, of in scores.items()
        for kind, name in _MODELS.items()
    ]
    return Intervals(title, rows, math.floor(10 * min(row.low for row in rows)) / 10)


def _correlations(tasks: Sequence[Scored]) -> Intervals:
    rows = []
    for task in tasks:
        for kind, name in _MODELS.items():
            mean, std = task["scores"][name]["pearson"], task["scores"][name]["std"]
            rows.append(Interval(f"{_short(task['task'])}, {name}", kind, mean, mean - std, mean + std))
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    return Intervals("Pearson's correlation", rows, math.floor(10 * low) / 10, math.ceil(10 * high) / 10)


def _losses(tasks: Sequence[Scored]) -> Intervals:
    rows = []
    for task in tasks:
        lost = [gene["lost"] for gene in task["genes"]]
        rows.append(Interval(_short(task["task"]), "artifact", sum(lost) / len(lost), min(lost), max(lost)))
    widest = max(0.001, *(abs(end) for row in rows for end in (row.low, row.high)))
    return Intervals("Lost, full precision less artifact", rows, -widest, widest)


def _latency_row(row: Mapping[str, Any]) -> list[str]:
    times = [_number(row["latency_ms"].get(q)) for q in ("p50", "p90", "p95", "p99")]
    ratio = row.get("ratio")
    beside = f"{ratio['p50']:.2f} of {ratio['against']}" if ratio else "-"
    return [str(row["name"]), str(row.get("batch", "-")), *times, _number(row.get("tiles_per_s")), beside]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
