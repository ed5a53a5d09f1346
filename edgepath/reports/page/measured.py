"""What `robustness`, `curves`, `probe`, a latency run and devices found, each as a section of the page.

They take what those commands print with `--json`, and raise KeyError, TypeError, ValueError, IndexError or
AttributeError for what is not whole (`merging` says so in a line).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ...bundle import device_reports as devicereports
from ...quality import probing
from ...quality import robustness as measuring
from ...quality.curves import HEADER as CURVE_HEADER
from ...quality.curves import curve_rows
from ...quality.hest import measuring as hest
from ...quality.probing import METHODS
from ...quality.robustness import ARTIFACT, FULL
from ..tables import GATE_HEADER, gate_rows
from .document import KINDS, Section
from .elements import (
    escape,
    figure,
    folded,
    paragraph,
    side_by_side,
    table,
    transposed,
    verdict,
)
from .heat import (
    Matrix,
    draw_differences,
    draw_scores,
    less,
    matrix,
)
from .lines import (
    Interval,
    Line,
    curve,
    intervals,
    key,
)

_FLIPS, _GENES = 40, 20  # listed; all are in the JSON
_LONGEST = 14  # letters of a task's name beside its dot; a folder may have any name
_FIGURES = {"cosine": "cosine", "top1": "top-1", "top10": "top-10"}
_TASK_COLUMNS = (0, 4, 5, 6, 1, 2, 3)  # what was lost before how much it stands on: a phone shows the first four
_COLUMNS = (0, 1, 2, 3, 4, 7)  # of the figures' table: without top-3 and top-5
_HOW = {
    "cosine": "cosine of a place's two embeddings",
    "top1": "share of tiles whose nearest tile is their twin",
    "top10": "share of tiles whose twin is among their ten nearest",
}


def robustness_section(result: Mapping[str, Any]) -> Section:
    """Return PLISM's figures, the heat maps and the gates of `edgepath robustness`."""
    slides, looks = result["slides"], result["slides"]["looks"]
    header, rows = _chosen(_COLUMNS, measuring.HEADER, measuring.figure_rows(result))
    gates = [[_FIGURES.get(row[0], row[0]), *row[1:]] for row in measuring.gate_rows(result)]
    allowed = {gate["gate"]: float(gate["allowed"]) for gate in result["gates"]}
    what = f"{slides['places']} places on {slides['slides']} slides of {slides['name']}. Medians over pairs of slides."
    body = paragraph(what) + table(header, rows)
    for name in ("cosine", _telling(result["figures"][FULL]["all"], allowed)):
        body += _maps(result["pairs"], looks, name, allowed[name])
    body += "<h3>Gates</h3>\n" + table(measuring.GATE_HEADER, gates, kind="gates") + _ran_with(result)
    return Section(
        "robustness", f"Robustness: {slides['name']}", body, tuple(map(tuple, gates)), tuple(result["notes"])
    )


def curves_section(result: Mapping[str, Any]) -> Section:
    """Return the plots of `edgepath curves`, and each curve's end in numbers."""
    lowest = min(one[name] for c in result["curves"] for of in c["figures"].values() for one in of for name in _LINES)
    low = min(0.9, math.floor(10 * max(0.0, lowest)) / 10)
    plots = ""
    for one in result["curves"]:
        lines = [
            Line(f"{figure} {model}", [degree[figure] for degree in one["figures"][name]])
            for figure in _LINES
            for name, model in ((FULL, "full"), (ARTIFACT, "artifact"))
        ]
        plots += curve(one["name"], one["unit"], one["degrees"], lines, low)
    entries = {f"{kind} {m}": f"{word}, {name}" for kind, word in _LINES.items() for m, name in _MODELS.items()}
    source = result["source"]
    said = (
        f"{source['count']} tiles of {source['name']}, made worse by degrees. cosine: of a tile's embedding to that of "
        "the tile as it is, by the same model, mean over tiles. own nearest: share of tiles made worse whose nearest "
        "tile as it is, is their own. Where the thin line lies on the broad one, the artifact bears as much as the "
        "model does."
    )
    body = figure(key(entries) + f'<div class="plots">\n{plots}</div>\n', said)
    rows = zip(curve_rows(result), result["curves"], strict=True)
    ends = [[f"{row[0]}, {one['degrees'][-1]:g}", *row[2:]] for row, one in rows]
    body += table(["at the last degree", *CURVE_HEADER[2:]], ends) + _ran_with(result)
    return Section("curves", KINDS["curves"][0], body, (), tuple(result["notes"]))


def tasks_section(result: Mapping[str, Any]) -> Section:
    """Return the scores, intervals, changed predictions and gates of `edgepath probe`."""
    classes = ", ".join(f"{count} {name}" for name, count in result["classes"].items())
    apart = f", {result['groups']} groups, each in one fold" if result["groups"] else ""
    source, gates, flips = result["source"], probing.gate_rows(result), probing.flip_rows(result)
    body = paragraph(f"{source['count']} tiles of {source['name']}: {classes}. {result['folds']} folds{apart}.")
    plots = "".join(_intervals(result["scores"], *of) for of in _SCORES)
    body += figure(f'<div class="pair">\n{plots}</div>\n', "Each with its 95 % interval (bootstrap).")
    scores = table(probing.HEADER, probing.score_rows(result))
    body += side_by_side(scores, table(probing.GATE_HEADER, gates, kind="gates"))
    body += f"<h3>Predictions that changed: {len(flips)}</h3>\n"
    body += table(probing.FLIP_HEADER, flips[:_FLIPS], kind="names") if flips else ""
    if len(flips) > _FLIPS:
        body += paragraph(f"and {len(flips) - _FLIPS} more, in the JSON of edgepath probe", "legend")
    return Section(
        "tasks", f"Tasks: {source['name']}", body + _ran_with(result), tuple(map(tuple, gates)), tuple(result["notes"])
    )


def probe_section(result: Mapping[str, Any]) -> Section:
    """Return what `edgepath probe` found, by `--labelled` or by `--hest`: the latter's result has tasks."""
    return genes_section(result) if "tasks" in result else tasks_section(result)


def genes_section(result: Mapping[str, Any]) -> Section:
    """Return the correlations by task, the genes that lost most and the gates of `edgepath probe --hest`."""
    source, gates, genes = result["source"], hest.gate_rows(result), hest.gene_rows(result, _GENES)
    body = paragraph(
        f"{source['count']} patches of {source['name']}. Pearson's correlation between measured and predicted "
        f"expression: ridge regression on {result['components']} principal components, mean over genes and splits."
    )
    said = (
        "Pearson's correlation with one standard deviation over a task's splits to both sides. Lost: the mean over a "
        "task's genes, in a bar from the gene that gained most to the gene that lost most."
    )
    plots = _correlations(result["tasks"]) + _losses(result["tasks"])
    body += figure(f'<div class="pair">\n{plots}</div>\n', said)
    body += side_by_side(
        table(*_chosen(_TASK_COLUMNS, hest.HEADER, hest.task_rows(result))),
        table(hest.GATE_HEADER, gates, kind="gates"),
    )
    body += folded(f"Genes that lost most: {len(genes)}", table(hest.GENE_HEADER, genes)) if genes else ""
    return Section(
        "genes",
        f"{KINDS['genes'][0]}: {source['name']}",
        body + _ran_with(result),
        tuple(map(tuple, gates)),
        tuple(result["notes"]),
    )


def latency_section(result: Mapping[str, Any]) -> Section:
    """Return the table of a latency run over one or more bundles; what it does not say is left out."""
    header = ["artifact", "batch", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "tiles/s", "ratio of p50"]
    rows = []
    for one in result["results"]:
        times = [_number(one["latency_ms"].get(q)) for q in ("p50", "p90", "p95", "p99")]
        ratio = one.get("ratio")
        beside = f"{ratio['p50']:.2f} of {ratio['against']}" if ratio else "-"
        rows.append([str(one["name"]), str(one.get("batch", "-")), *times, _number(one.get("tiles_per_s")), beside])
    told = {"threads": "threads", "warm_up": "warm-up", "rounds": "rounds"}
    how = [f"{word} {result[name]}" for name, word in told.items() if result.get(name) is not None]
    machine = result.get("machine") or {}
    words = {"cpu": "{}", "cores": "{} cores", "gpu": "{}", "system": "{}"}
    on = ", ".join(word.format(machine[name]) for name, word in words.items() if machine.get(name))
    lines = [", ".join(how)] * bool(how) + [f"machine: {on or 'not named'}"]
    body = table(header, rows) + paragraph("; ".join(lines), "legend")
    gates = gate_rows(result.get("gates") or [])
    if compared := result.get("compared"):
        worst = max((row["times"] for row in compared["rows"]), default=0.0)
        held = [f"{worst:.3f}", f"<= {compared['worse']}", verdict(compared["passed"])]
        gates.append(["times the baseline", str(compared["baseline"]), *held])
    body += table(GATE_HEADER, gates, kind="gates") if gates else ""
    return Section("latency", KINDS["latency"][0], body, tuple(map(tuple, gates)), tuple(result.get("notes") or ()))


def devices_section(reports: list[dict[str, Any]]) -> Section:
    """Return what devices measured, a column each; a device that failed its gates is a gate that failed."""
    rows = devicereports.report_rows(reports)
    gates = tuple(
        ("all", f"{one['measured_at']}, {one['ran_with']}", "-", "-", verdict(one["passed"])) for one in reports
    )
    return Section("devices", KINDS["devices"][0], transposed(devicereports.HEADER, rows), gates)


_SCORES = (
    ("balanced accuracy", "balanced_accuracy", "low", "high"),
    ("AUROC", "auroc", "auroc_low", "auroc_high"),
)
_LINES = {"cosine": "cosine", "own": "own nearest"}
_METHODS: Mapping[str, str] = {str(method): word for method, word in METHODS.items()}
_MODELS: Mapping[str, str] = {"full": FULL, "artifact": ARTIFACT}


def _chosen(
    columns: Sequence[int], header: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    return [header[i] for i in columns], [[row[i] for i in columns] for row in rows]


def _telling(figures: Mapping[str, Any], gated: Collection[str]) -> str:
    """Return which of top-1 and top-10 to map: of few places all twins are among ten, of many hardly any is first."""
    names = [name for name in ("top10", "top1") if name in gated]
    return min(names, key=lambda name: abs(figures[name]["median"] - 0.5))


def _maps(pairs: Mapping[str, Any], looks: Mapping[str, Sequence[str]], name: str, allowed: float) -> str:
    full, artifact = (matrix(pairs[model], looks, name) for model in (FULL, ARTIFACT))
    known = [*full.known, *artifact.known]
    low, high = min(known), max(known)
    drawn = "".join(draw_scores(found, model, low, high) for found, model in ((full, FULL), (artifact, ARTIFACT)))
    drawn += draw_differences(less(full, artifact), "difference, hundredths", allowed)
    by = "by staining and scanner" if full.looks else "by pair of slides"
    maps = figure(f'<div class="maps">\n{drawn}</div>\n', _caption(full, name, low, high, allowed))
    return f"<h3>{escape(_FIGURES[name].capitalize())} {by}</h3>\n{maps}"


def _caption(found: Matrix, name: str, low: float, high: float, allowed: float) -> str:
    if found.looks:
        cell = "A row is a staining, a column a scanner; a cell is the mean over all pairs of slides with this one"
    else:
        cell = "A cell is a pair of slides"
    return (
        f"{_FIGURES[name]}: {_HOW[name]}. {cell}. Light blue {low:.2f} to dark blue {high:.2f}, for both models. "
        "Difference: artifact less full precision, in hundredths; orange was lost, purple gained, darkest from "
        f"{200 * allowed:g} on, twice what the gates allow on average."
    )


def _intervals(scores: Mapping[str, Any], title: str, value: str, low: str, high: str) -> str:
    rows = [
        Interval(f"{_METHODS[method]}, {name}", kind, of[name][value], of[name][low], of[name][high])
        for method, of in scores.items()
        for kind, name in _MODELS.items()
    ]
    return intervals(title, rows, math.floor(10 * min(row.low for row in rows)) / 10)


def _correlations(tasks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for task in tasks:
        for kind, name in _MODELS.items():
            mean, std = task["scores"][name]["pearson"], task["scores"][name]["std"]
            rows.append(Interval(f"{_short(task['task'])}, {name}", kind, mean, mean - std, mean + std))
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    return intervals("Pearson's correlation", rows, math.floor(10 * low) / 10, math.ceil(10 * high) / 10)


def _losses(tasks: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for task in tasks:
        lost = [gene["lost"] for gene in task["genes"]]
        rows.append(Interval(_short(task["task"]), "artifact", sum(lost) / len(lost), min(lost), max(lost)))
    widest = max(0.001, *(abs(end) for row in rows for end in (row.low, row.high)))
    return intervals("Lost, full precision less artifact", rows, -widest, widest)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _ran_with(result: Mapping[str, Any]) -> str:
    return paragraph("; ".join(f"{name}: {runtime}" for name, runtime in result["ran_with"].items()), "legend")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
