"""`probe`: are the artifact's embeddings worth as much for a task as the full-precision model's?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..bundle.bundle import Bundle, seen_in_calibration
from ..checks.gates import Gate, loss_gate
from ..machine.packages import require
from ..machine.progress import Progress
from ..recipes.recipe import Recipe
from .both_models import ARTIFACT, FULL, both_models, judged, opened
from .classifiers import Method, Score, cross_validate, numbered, split_folds
from .labelled import open_labelled
from .results import Probed
from .score_losses import Predicted, accuracy_lost, auroc_lost

METHODS: dict[Method, str] = {"knn": "5 nearest", "linear": "linear"}
Scores = dict[str, dict[str, Score]]
Predictions = dict[str, dict[str, Predicted]]


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
    """Predict labels from both models' embeddings on the same folds, and compare.

    5 nearest neighbours and a linear layer are cross-validated on frozen embeddings. Tiles of one patient, case, slide
    or group stay in one fold, where a CSV or the folder's `manifest.csv` has such a column.

    Args:
        bundle: A bundle folder, or a bundle that `open_bundle` returned.
        labelled: A folder with one folder per class, or a CSV with columns `path` (below the CSV's folder) and `label`.
        folds: Folds of the cross-validation.
        seed: Seed of the folds.
        weights: The weights that the bundle was exported from, where they were a file (`FILE::KEY`) or a folder.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `skipped`.
        threads: CPU threads of the artifact's runtime; 0 lets it choose.
        device: Where the full-precision model runs: `auto`, `cpu`, `cuda` or `cuda:INDEX`.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        Metrics with intervals, the tiles whose prediction changed, and the gates of `[accept.probe]`, JSON-able.

    Raises:
        UsageError: No folds can be made of the labels or groups.
        EdgepathError: What `verify` raises.
    """
    require("scikit-learn", "probe")
    bundle, recipe = opened(bundle)
    given = open_labelled(Path(labelled), size=bundle.size, resize=resize, skip_bad=skip_bad)
    source = given.source
    split_folds(*given.of(source.keys), folds=folds, seed=seed)  # before hours of work
    with both_models(bundle, recipe, weights=weights, threads=threads, device=device, progress=progress) as models:
        embed = models.embedder(len(source))
        batches = [embed(batch.pixels) for batch in source.batches()]
    embeddings = {name: np.concatenate([rows[name] for rows in batches]) for name in models.runners}
    seen = seen_in_calibration(bundle, source)
    kept = [key for key in source.keys if key in source.digests]
    labels, groups = given.of(kept)
    scores, predictions = _score(embeddings, labels, groups, folds, seed)
    return {
        "kind": "probe",
        **models.measured(_notes(groups, seen)),
        "source": source.provenance(),
        "skipped": source.skipped,
        "classes": {name: labels.count(name) for name in sorted(set(labels))},
        "groups": len(set(groups)) if groups else None,
        "folds": folds,
        "seed": seed,
        "scores": {method: {name: asdict(score) for name, score in of.items()} for method, of in scores.items()},
        "flips": _flips(kept, labels, predictions),
        **judged(gates(recipe, labels, predictions, groups)),
    }


def _score(
    embeddings: Mapping[str, np.ndarray],
    labels: Sequence[str],
    groups: Sequence[str] | None,
    folds: int,
    seed: int,
) -> tuple[Scores, Predictions]:
    """Return every method's score on both models' embeddings, and what it predicts."""
    scores: Scores = {method: {} for method in METHODS}
    predictions: Predictions = {method: {} for method in METHODS}
    for method in METHODS:
        for name, values in embeddings.items():
            scores[method][name], predictions[method][name] = cross_validate(
                values, labels, method=method, groups=groups, folds=folds, seed=seed
            )
    return scores, predictions


def _flips(keys: Sequence[str], labels: Sequence[str], predictions: Predictions) -> list[dict[str, str]]:
    """Return the tiles whose prediction changed."""
    return [
        {"tile": key, "method": method, "label": label, FULL: str(was), ARTIFACT: str(now)}
        for method, of in predictions.items()
        for key, label, was, now in zip(keys, labels, of[FULL].labels, of[ARTIFACT].labels, strict=True)
        if was != now
    ]


def _notes(groups: Sequence[str] | None, seen: int) -> list[str]:
    """What a reader must know of the tiles."""
    texts = [f"{seen} of the tiles were calibrated on."] if seen else []
    if groups is None:
        texts.append(
            "Which tiles are of one patient or slide is not known, and they may lie in several folds: both models' "
            "figures may be too high. Name them in a CSV with columns path, label and slide."
        )
    return texts


def gates(
    recipe: Recipe, labels: Sequence[str], predictions: Predictions, groups: Sequence[str] | None = None
) -> list[Gate]:
    """Hold what the artifact lost against the recipe's `[accept.probe]`; what is sampled are groups, or else tiles.

    Folds are as they are: verdicts are of these fitted models on other tiles.
    """
    allowed, truth = recipe.accept.probe, np.asarray(labels)
    sampled = (numbered(len(truth), groups), "tiles" if groups is None else "groups")
    held = []
    for method, of in predictions.items():
        both = (truth, of[FULL], of[ARTIFACT], *sampled)
        held.append(loss_gate("balanced_accuracy", method, accuracy_lost(*both), allowed.balanced_accuracy))
        held.append(loss_gate("auroc", method, auroc_lost(*both, allowed.auroc), allowed.auroc))
    return held
