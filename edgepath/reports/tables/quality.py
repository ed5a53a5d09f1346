"""What `robustness`, `curves` and `probe` found."""

from __future__ import annotations

from ...quality.both_models import ARTIFACT, FULL
from ...quality.probing import METHODS
from ...quality.results import FIGURES, Curves, Genes, Probed, Robustness
from ..table import Table, table
from .drift import unsigned_zero

GROUPS = {"scanner": "scanner only", "staining": "staining only", "both": "both", "all": "either"}
"""What the slides of a pair differ in."""
JUDGED = {f"{group}, mean over pairs": f"{word}, mean over pairs" for group, word in GROUPS.items()}
"""What gates on these groups are of."""
PROBES = {"balanced_accuracy": "balanced accuracy", **{str(method): name for method, name in METHODS.items()}}
"""Figures and methods of `probe`."""


def robustness_table(result: Robustness) -> Table:
    """Return the medians over pairs of slides, two rows a group: full precision and artifact."""
    rows = []
    groups = result["figures"][FULL]
    for group, full in groups.items():
        if group == "all" and any(full["pairs"] == groups[other]["pairs"] for other in groups if other != "all"):
            continue  # all pairs are of one group, whose figures stand there already
        for name in (FULL, ARTIFACT):
            figures = result["figures"][name][group]
            first = [GROUPS[group], str(figures["pairs"])] if name == FULL else ["", ""]
            cells = [f"{figures[figure]['median']:.4f}" for figure in FIGURES]
            rows.append([*first, name, *cells])
    return table(["pairs that differ in", "pairs", "", "cosine", "top-1", "top-3", "top-5", "top-10"], rows)


def curve_table(result: Curves) -> Table:
    """Return each perturbation's last degree: how far both models' embeddings moved."""
    header = ["perturbation", "most", "cosine, full precision", "artifact", "own nearest, full precision", "artifact"]
    rows = []
    for curve in result["curves"]:
        last = {name: figures[-1] for name, figures in curve["figures"].items()}
        cells = [f"{last[name][key]:.4f}" for key in ("cosine", "own") for name in (FULL, ARTIFACT)]
        rows.append([curve["name"], f"{curve['degrees'][-1]:g} ({curve['unit']})", *cells])
    return table(header, rows)


def score_table(result: Probed) -> Table:
    """Return two rows a probe, full precision and artifact, each figure with its 95 % interval."""
    rows = []
    for method, of in result["scores"].items():
        for name, score in of.items():
            cells = [
                f"{score['balanced_accuracy']:.3f} ({score['low']:.3f} to {score['high']:.3f})",
                f"{score['auroc']:.3f} ({score['auroc_low']:.3f} to {score['auroc_high']:.3f})",
            ]
            rows.append([PROBES.get(method, method) if name == FULL else "", name, *cells])
    return table(["probe", "", "balanced accuracy", "AUROC"], rows)


def flip_table(result: Probed) -> Table:
    """Return the tiles whose prediction is another one on the artifact's embeddings."""
    rows = [
        [f["tile"], PROBES.get(f["method"], f["method"]), f["label"], f[FULL], f[ARTIFACT]] for f in result["flips"]
    ]
    return table(["prediction changed", "probe", "label", FULL, ARTIFACT], rows)


def task_table(result: Genes) -> Table:
    """Return a row a task, its mean Pearson with the standard deviation over splits, and the mean over tasks."""
    rows = []
    for task in result["tasks"]:
        full, artifact = (task["scores"][name] for name in (FULL, ARTIFACT))
        cells = [f"{of['pearson']:.4f} ± {of['std']:.4f}" for of in (full, artifact)]
        counts = [str(task["samples"]), str(task["tiles"]), str(task["splits"])]
        rows.append([task["task"], *counts, *cells, unsigned_zero(f"{full['pearson'] - artifact['pearson']:+.4f}")])
    if len(rows) > 1:
        mean, lost = result["pearson"], result["pearson"][FULL] - result["pearson"][ARTIFACT]
        rows.append(["mean", "", "", "", f"{mean[FULL]:.4f}", f"{mean[ARTIFACT]:.4f}", unsigned_zero(f"{lost:+.4f}")])
    return table(["task", "slides", "tiles", "splits", FULL, ARTIFACT, "lost"], rows)


def gene_table(result: Genes, most: int = 10) -> Table:
    """Return the genes whose correlation, averaged over splits, fell most."""
    genes = [(task["task"], gene) for task in result["tasks"] for gene in task["genes"] if gene["lost"] > 0]
    genes.sort(key=lambda pair: -pair[1]["lost"])
    rows = [
        [gene["gene"], task, f"{gene[FULL]:.4f}", f"{gene[ARTIFACT]:.4f}", unsigned_zero(f"{gene['lost']:+.4f}")]
        for task, gene in genes[:most]
    ]
    return table(["gene that lost most", "task", FULL, ARTIFACT, "lost"], rows)
