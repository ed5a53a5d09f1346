"""`probe`: are the artifact's embeddings worth as much for a task as the full-precision model's?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..bundle.bundle import Bundle, seen_in_calibration
from ..bundle.running import embed_all
from ..checks.gates import Gate, loss_gate
from ..machine.packages import require
from ..machine.progress import Progress
from ..recipes.recipe import Recipe
from .both_models import ARTIFACT, FULL, Measured, Verdict, both_models, judged, opened
from .classifiers import Method, Score, cross_validate, split_folds
from .labelled import open_labelled

METHODS: dict[Method, str] = {"knn": "5 nearest", "linear": "linear"}
Scores = dict[str, dict[str, Score]]


class Probed(Measured, Verdict):
    """What `probe` returns: scores by method and model, and the tiles whose prediction changed."""

    kind: Literal["probe"]
    source: dict[str, Any]
    skipped: list[tuple[str, str]]
    classes: dict[str, int]
    groups: int | None
    folds: int
    seed: int
    scores: dict[str, dict[str, dict[str, float]]]
    flips: list[dict[str, str]]


def probe(
    bundle: str | Path | Bundle,
    labelled: str | Path,
    *,
    folds: int = 5,
    seed: int = 0,
    weights: str | Path | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    threads: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Probed:
    """Predict labels from a bundle's embeddings and from its full-precision model's, on the same folds; compare.

    `labelled` is a folder with a folder a class, or a CSV with columns `path` (below the CSV's folder) and `label`,
    and one of `patient`, `case`, `slide` (or `slide_id` and the like) or `group`, whose tiles then stay in one fold;
    a folder's `manifest.csv` may have such columns, too. Returns scores with intervals, the tiles whose prediction
    changed, and the gates of the recipe's `[accept.probe]`, JSON-able.

    Raises UsageError for labels or groups that no fold can be made of, and what `verify` raises.
    """
    require("scikit-learn", "probe")
    bundle, recipe = opened(bundle)
    given = open_labelled(Path(labelled), size=bundle.manifest["contract"]["size"], resize=resize, skip_bad=skip_bad)
    source = given.source
    split_folds(*given.of(source.keys), folds=folds, seed=seed)  # before hours of work
    embeddings = {}
    with both_models(bundle, recipe, weights=weights, threads=threads, device=device, progress=progress) as models:
        counters = models.counters(len(source))
        for name, run in models.runners.items():
            rows = [embed_all(run, batch.pixels, counters[name]) for batch in source.batches()]
            embeddings[name] = np.concatenate(rows)
    seen = seen_in_calibration(bundle, source)
    kept = [key for key in source.keys if key in source.digests]
    labels, groups = given.of(kept)
    scores, flips = _score(embeddings, kept, labels, groups, folds, seed)
    return {
        "kind": "probe",
        **models.measured(_notes(groups, seen)),
        "source": source.provenance(),
        "skipped": source.skipped,
        "classes": {name: labels.count(name) for name in sorted(set(labels))},
        "groups": len(set(groups)) if groups else None,
        "folds": folds,
        "seed": seed,
        "scores": {method: {name: score.to_json() for name, score in of.items()} for method, of in scores.items()},
        "flips": flips,
        **judged(gates(recipe, scores)),
    }


def _score(
    embeddings: Mapping[str, np.ndarray],
    keys: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[str] | None,
    folds: int,
    seed: int,
) -> tuple[Scores, list[dict[str, str]]]:
    """Return every method's score on both models' embeddings, and the tiles whose prediction changed."""
    scores: Scores = {}
    flips = []
    for method in METHODS:
        predicted = {}
        scores[method] = {}
        for name, values in embeddings.items():
            scores[method][name], predicted[name] = cross_validate(
                values, labels, method=method, groups=groups, folds=folds, seed=seed
            )
        flips += [
            {"tile": key, "method": method, "label": label, FULL: str(was), ARTIFACT: str(now)}
            for key, label, was, now in zip(keys, labels, predicted[FULL], predicted[ARTIFACT], strict=True)
            if was != now
        ]
    return scores, flips


def _notes(groups: Sequence[str] | None, seen: int) -> list[str]:
    """What a reader must know of the tiles."""
    said = [f"{seen} of the tiles were calibrated on."] if seen else []
    if groups is None:
        said.append(
            "Which tiles are of one patient or slide is not known, and they may lie in several folds: both models' "
            "figures may be too high. Name them in a CSV with columns path, label and slide."
        )
    return said


def gates(recipe: Recipe, scores: Mapping[str, Mapping[str, Score]]) -> list[Gate]:
    """Hold what the artifact lost against the recipe's `[accept.probe]`."""
    allowed = recipe.accept.probe
    found = []
    for method, of in scores.items():
        full, artifact = of[FULL], of[ARTIFACT]
        lost = full.balanced_accuracy - artifact.balanced_accuracy
        found.append(loss_gate("balanced_accuracy", method, lost, allowed.balanced_accuracy))
        found.append(loss_gate("auroc", method, full.auroc - artifact.auroc, allowed.auroc))
    return found
