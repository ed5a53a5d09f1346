"""`probe --hest`: do the artifact's embeddings tell as much about gene expression as the full-precision model's?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from ...bundle.bundle import Bundle, Runner, calibrated_on
from ...bundle.running import embed_all
from ...checks.gates import Gate, loss_gate
from ...errors import EdgepathError
from ...machine.packages import require
from ...machine.progress import Progress, counter, silent
from ...recipes.recipe import Recipe
from ...tiles.images import check_resize, tile_sha256
from ..both_models import ARTIFACT, FULL, Measured, Verdict, both_models, judged, opened
from .ridge import COMPONENTS, check_split, correlate
from .tasks import Task, open_tasks


class Scored(TypedDict):
    """A task's counts, the mean and deviation over its splits by model, and each gene's correlations."""

    task: str
    samples: int
    tiles: int
    splits: int
    scores: dict[str, dict[str, Any]]
    genes: list[dict[str, Any]]


class Genes(Measured, Verdict):
    """What `probe_hest` returns: Pearson's correlation by model, and by task."""

    kind: Literal["genes"]
    source: dict[str, Any]
    components: int
    pearson: dict[str, float]
    tasks: list[Scored]


def probe_hest(
    bundle: str | Path | Bundle,
    folder: str | Path,
    *,
    tasks: Sequence[str] = (),
    components: int = COMPONENTS,
    weights: str | Path | None = None,
    resize: str = "refuse",
    threads: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Genes:
    """Predict gene expression by the HEST-Benchmark's protocol from a bundle's embeddings and from its full model's.

    `folder` is the benchmark's folder of tasks (see `tasks`), or one task's; `tasks` chooses some by name. `components`
    is what PCA leaves, 256 in the benchmark; a model with fewer numbers needs fewer. Both models are fitted and tested
    on the same splits, and every slide is embedded once. Returns Pearson's correlation by gene, split and task, and
    the recipe's gate `accept.probe.pearson` on what the mean over tasks and the worst task lost, JSON-able.

    Raises UsageError for a folder that is not what the benchmark's is, and what `verify` raises.
    """
    require("scikit-learn", "probe")
    require("h5py", "features")
    check_resize(resize)
    bundle, recipe = opened(bundle)
    size = bundle.manifest["contract"]["size"]
    given = open_tasks(folder, tasks, size=size, resize=resize)
    for task in given:  # before hours of work
        for number in range(len(task.splits)):
            check_split(task, number, components, bundle.dim)
    calibrated, tiles = calibrated_on(bundle), sum(map(len, given))
    fitted = counter(progress or silent, "fit", 2 * sum(len(task.splits) for task in given))
    scored, digests = [], []
    with both_models(bundle, recipe, weights=weights, threads=threads, device=device, progress=progress) as models:
        counters = models.counters(tiles)
        for task in given:
            embeddings, hashes = _embed(task, models.runners, counters, size, resize)
            scored.append(_score(task, embeddings, components, fitted))
            digests += hashes
    means = {name: float(np.mean([task["scores"][name]["pearson"] for task in scored])) for name in models.runners}
    return {
        "kind": "genes",
        **models.measured(_notes(components, sum(digest in calibrated for _, digest in digests))),
        "source": _source(Path(folder), digests, size, resize),
        "components": components,
        "pearson": means,
        "tasks": scored,
        **judged(gates(recipe, means, scored)),
    }


def _source(folder: Path, digests: Sequence[tuple[str, str]], size: int, resize: str) -> dict[str, Any]:
    """Return what the tiles are, as `TileSource.provenance` does."""
    lines = "".join(f"{digest}  {key}\n" for key, digest in digests)
    of = {"kind": "hest", "name": folder.resolve().name, "count": len(digests), "size": size, "resize": resize}
    return {**of, "sha256": hashlib.sha256(lines.encode()).hexdigest()}


def _notes(components: int, seen: int) -> list[str]:
    said = [f"{seen} of the tiles were calibrated on."] if seen else []
    if components != COMPONENTS:
        said.append(f"{components} principal components; the benchmark's figures are of {COMPONENTS}.")
    return said


def _embed(
    task: Task, runs: Mapping[str, Runner], advance: Mapping[str, Callable[[int], None]], size: int, resize: str
) -> tuple[dict[str, dict[str, np.ndarray]], list[tuple[str, str]]]:
    """Embed every sample once with every model, patches read once; return the embeddings and the hash of every tile."""
    found: dict[str, dict[str, np.ndarray]] = {name: {} for name in runs}
    digests = []
    for sample in task.samples.values():
        rows: dict[str, list[np.ndarray]] = {name: [] for name in runs}
        hashes = []
        for pixels in sample.tiles(size, resize):
            hashes += [tile_sha256(tile) for tile in pixels]
            for name, run in runs.items():
                rows[name].append(embed_all(run, pixels, advance[name]))
        for name, parts in rows.items():
            values = np.concatenate(parts)
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                raise EdgepathError(
                    f"HEST {task.name}: the {name} embedding of {sample.name}/{sample.barcodes[bad[0]]} is not finite"
                )
            found[name][sample.name] = values
        keys = (f"{task.name}/{sample.name}/{barcode}" for barcode in sample.barcodes)
        digests += list(zip(keys, hashes, strict=True))
    return found, digests


def _score(
    task: Task,
    embeddings: Mapping[str, Mapping[str, np.ndarray]],
    components: int,
    advance: Callable[[int], None],
) -> Scored:
    """Return the task's figures: a split's is the mean over genes, the task's the mean and deviation over splits."""
    of_genes, scores = {}, {}
    for name, of in embeddings.items():
        rows = []
        for split in task.splits:
            rows.append(correlate(task, split, of, components))
            advance(1)
        table = np.stack(rows)  # (splits, genes)
        splits = table.mean(axis=1)
        scores[name] = {"pearson": float(splits.mean()), "std": float(splits.std()), "splits": splits.tolist()}
        of_genes[name] = table.mean(axis=0).tolist()
    genes = [
        {"gene": gene, FULL: full, ARTIFACT: artifact, "lost": full - artifact}
        for gene, full, artifact in zip(task.genes, of_genes[FULL], of_genes[ARTIFACT], strict=True)
    ]
    return {
        "task": task.name,
        "samples": len(task.samples),
        "tiles": len(task),
        "splits": len(task.splits),
        "scores": scores,
        "genes": genes,
    }


def gates(recipe: Recipe, means: Mapping[str, float], tasks: Sequence[Scored]) -> list[Gate]:
    """Hold what the mean over tasks lost, and the task that lost most, against `[accept.probe]`.

    A mean over nine tasks hardly moves when one of them fails.
    """
    lost = {task["task"]: task["scores"][FULL]["pearson"] - task["scores"][ARTIFACT]["pearson"] for task in tasks}
    worst = max(lost, key=lambda name: lost[name])
    held = {"mean over tasks": means[FULL] - means[ARTIFACT]} if len(lost) > 1 else {}
    held[f"task {worst}" + (", the worst" if len(lost) > 1 else "")] = lost[worst]
    allowed = recipe.accept.probe.pearson
    return [loss_gate("pearson", of, value, allowed) for of, value in held.items()]
