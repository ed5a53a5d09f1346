"""`probe`: are the artifact's embeddings worth as much for a task as the full-precision model's?"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import ran_by
from ..bundle.bundle import Bundle, open_bundle, seen_in_calibration
from ..bundle.running import embed_all, open_runner
from ..checks.gates import Gate, all_passed, loss_gate, to_json
from ..checks.summary import notes
from ..errors import UsageError
from ..machine.packages import require
from ..machine.progress import Progress, counter
from ..program.rebuilding import same_weights
from ..recipes.recipe import Recipe
from ..tiles.opening import open_tiles
from ..tiles.origins import origins, table_beside
from ..tiles.source import TileSource
from .classifiers import Method

FULL, ARTIFACT = "full precision", "artifact"
METHODS: dict[Method, str] = {"knn": "5 nearest", "linear": "linear", "eva": "eva's linear head"}
_UNITS = ("patient", "patient_id", "case", "case_id", "slide", "slide_id")
"""Columns that say which tiles belong together, the widest first; tiles of one patient are alike on any slide."""
_GATED = ("balanced_accuracy", "auroc")


def probe(
    bundle: str | Path | Bundle,
    labelled: str | Path,
    *,
    folds: int = 5,
    seed: int = 0,
    eva_steps: int = 0,
    weights: str | Path | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    threads: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict labels from a bundle's embeddings and from its full-precision model's, on the same folds; compare.

    `labelled` is a folder with a folder a class, or a CSV with columns `path` (below the CSV's folder) and `label`,
    and one of `patient`, `case`, `slide` (or `slide_id` and the like) or `group`, whose tiles then stay in one fold;
    a folder's `manifest.csv` may have such columns, too. `eva_steps` adds kaiko-eva's
    linear head, trained for so many steps (12,500 in eva). Returns scores with intervals,
    the tiles whose prediction changed, and the gates of the recipe's `[accept.probe]`, JSON-able.

    Raises UsageError for labels or groups that no fold can be made of, and what `verify` raises.
    """
    require("torch", "export")
    require("scikit-learn", "probe")
    from ..machine.hardware import pick_device
    from ..models import reference
    from .classifiers import cross_validate, split_folds

    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    recipe, contract = Recipe.from_json(bundle.manifest["recipe"]), bundle.manifest["contract"]
    source, labels, groups = _open(Path(labelled), contract["size"], resize, skip_bad)
    say = progress or (lambda stage, done, total: None)
    split_folds(
        [labels[key] for key in source.keys],
        [groups[key] for key in source.keys] if groups else None,
        folds=folds,
        seed=seed,
    )  # before hours of work
    vit, spec, _ = same_weights(bundle, weights)
    embeddings, ran_with = {}, {}
    with ExitStack() as stack:
        artifact = stack.enter_context(open_runner(bundle, recipe, threads))
        full = stack.enter_context(
            reference.Runner(vit, spec.mean, spec.std, contract["embedding"], pick_device(device))
        )
        for name, run in ((FULL, full), (ARTIFACT, artifact)):
            advance = counter(say, f"embed, {name}", len(source))
            rows = [embed_all(run, batch.pixels, advance) for batch in source.batches()]
            embeddings[name], ran_with[name] = np.concatenate(rows), run.runtime
        ran = ran_by(artifact)
    kept = [key for key in source.keys if key in source.digests]
    names = [labels[key] for key in kept]
    units = [groups[key] for key in kept] if groups else None
    scores: dict[str, Any] = {}
    flips = []
    methods = [method for method in METHODS if method != "eva" or eva_steps]
    for method in methods:
        predicted = {}
        scores[method] = {}
        for name, values in embeddings.items():
            score, predicted[name] = cross_validate(
                values, names, method=method, groups=units, folds=folds, seed=seed, steps=eva_steps
            )
            scores[method][name] = score.to_json()
        flips += [
            {"tile": key, "method": method, "label": label, FULL: str(was), ARTIFACT: str(now)}
            for key, label, was, now in zip(kept, names, predicted[FULL], predicted[ARTIFACT], strict=True)
            if was != now
        ]
    judged = gates(recipe, scores)
    seen = seen_in_calibration(bundle, source)
    return {
        "name": bundle.name,
        "bundle": bundle.digest,
        "source": source.provenance(),
        "skipped": source.skipped,
        "classes": {name: names.count(name) for name in sorted(set(names))},
        "groups": len(set(units)) if units else None,
        "folds": folds,
        "seed": seed,
        "eva_steps": eva_steps,
        "ran_with": ran_with,
        "cautions": bundle.manifest["cautions"],
        "notes": _notes(units, seen) + notes(recipe, ran),
        "scores": scores,
        "flips": flips,
        "gates": to_json(judged),
        "passed": all_passed(judged),
    }


def _notes(units: Sequence[str] | None, seen: int) -> list[str]:
    """What a reader must know of the tiles."""
    said = [f"{seen} of the tiles were calibrated on."] if seen else []
    if units is None:
        said.append(
            "Which tiles are of one patient or slide is not known, and they may lie in several folds: both models' "
            "figures may be too high. Name them in a CSV with columns path, label and slide."
        )
    return said


def gates(recipe: Recipe, scores: Mapping[str, Any]) -> list[Gate]:
    """Hold what the artifact lost against the recipe's `[accept.probe]`."""
    found = []
    for method, of in scores.items():
        for figure in _GATED:
            lost = of[FULL][figure] - of[ARTIFACT][figure]
            found.append(loss_gate(figure, method, lost, getattr(recipe.accept.probe, figure)))
    return found


def _open(labelled: Path, size: int, resize: str, skip_bad: bool) -> tuple[TileSource, dict[str, str], dict[str, str]]:
    """Return the tiles, each one's label, and each one's group where groups are known."""
    if labelled.suffix.lower() == ".csv":
        return _table(labelled, size, resize, skip_bad)
    source = open_tiles(labelled, size=size, resize=resize, skip_bad=skip_bad)
    told = origins(source)
    labels = {key: told[key]["label"] for key in source.keys}
    if not any(labels.values()):  # no table names any: the folders do
        labels = {key: key.split("/")[0] if "/" in key else "" for key in source.keys}
    if bare := [key for key, label in labels.items() if not label]:
        raise UsageError(f"probe {labelled}: {bare[0]} has no label; give a folder with a folder a class, or a CSV")
    table = table_beside(source)
    column = next((name for name in _UNITS if any(row.get(name) for row in table.values())), None)
    if column:
        units = {key: table.get(key, {}).get(column, "") for key in source.keys}
    else:  # file names may tell slides
        column, units = "slide", {key: told[key]["slide"] for key in source.keys}
    if any(units.values()) and not all(units.values()):
        bare = [key for key, unit in units.items() if not unit]
        raise UsageError(f"probe {labelled}: the {column} of {bare[0]} is not known, others' are; name all in a CSV")
    if len(set(units.values())) == 1 and all(units.values()):
        raise UsageError(
            f"probe {labelled}: every tile is of {column} {next(iter(units.values()))}, as tables or file names say; "
            "give a CSV with columns path, label and slide"
        )
    return source, labels, units if all(units.values()) else {}


def _table(path: Path, size: int, resize: str, skip_bad: bool) -> tuple[TileSource, dict[str, str], dict[str, str]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [{str(k).strip().lower(): (v or "").strip() for k, v in row.items()} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error, AttributeError) as error:
        raise UsageError(f"probe {path}: cannot be read ({error})") from None
    if not rows or not {"path", "label"} <= rows[0].keys():
        found = ", ".join(rows[0]) if rows else "no rows"
        raise UsageError(f"probe {path}: needs columns path and label; found {found}")
    table = {row["path"].replace("\\", "/").removeprefix("./"): row for row in rows}
    if len(table) < len(rows):
        names = [row["path"] for row in rows]
        twice = next(name for name in names if names.count(name) > 1 or name not in table)
        raise UsageError(f"probe {path}: {twice} stands in it twice; a tile has one label")
    if bare := [name for name, row in table.items() if not row["label"]]:
        raise UsageError(f"probe {path}: {bare[0] or 'a row'} has no label")
    source = open_tiles(path.parent, size=size, resize=resize, skip_bad=skip_bad)
    if missing := sorted(table.keys() - set(source.keys)):
        raise UsageError(f"probe {path}: {missing[0]} is no tile below {path.parent} ({len(missing)} such rows)")
    source = replace(source.select([i for i, key in enumerate(source.keys) if key in table]), name=path.stem)
    column = next((name for name in (*_UNITS, "group") if name in rows[0]), None)
    if column and (bare := [name for name, row in table.items() if not row.get(column)]):
        raise UsageError(f"probe {path}: {bare[0]} has no {column}; name it for every tile, or leave the column out")
    labels = {key: table[key]["label"] for key in source.keys}
    return source, labels, {key: table[key][column] for key in source.keys} if column else {}
