"""`probe hest`: do the artifact's embeddings tell as much about gene expression as the full-precision model's?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...bundle.bundle import Bundle, calibrated_on
from ...checks.bounds import ALPHA, UNSEEN, Bounds, mean_bounds, worst_of
from ...checks.gates import Gate, loss_gate
from ...errors import EdgepathError
from ...machine.packages import require
from ...machine.progress import Progress, counter, silent
from ...recipes.recipe import Recipe
from ...tiles.images import check_resize, tile_sha256
from ..both_models import ARTIFACT, FULL, both_models, judged, opened
from ..results import Correlation, Gene, Genes, Patches, Scored
from .ridge import COMPONENTS, check_split, correlate
from .tasks import Task, open_tasks


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
    """Predict gene expression from both models' embeddings by the HEST-Benchmark's protocol, and compare.

    Both models are fitted and tested on the same splits, and every slide is embedded once.

    Args:
        bundle: A bundle folder, or a bundle that `open_bundle` returned.
        folder: The benchmark's folder of tasks, or one task's folder.
        tasks: Only these tasks, by name.
        components: Components that PCA keeps: 256 in the benchmark; a model with fewer numbers needs fewer.
        weights: The weights that the bundle was exported from, where they were a file (`FILE::KEY`) or a folder.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        threads: CPU threads of the artifact's runtime; 0 lets it choose.
        device: Where the full-precision model runs: `auto`, `cpu`, `cuda` or `cuda:INDEX`.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        Pearson's correlation by gene, split and task, and the gate `accept.probe.pearson` on what the mean over tasks
        and the worst task lost, JSON-able.

    Raises:
        UsageError: The folder is not what the benchmark's is.
        EdgepathError: What `verify` raises.
    """
    require("scikit-learn", "probe")
    require("h5py", "features")
    check_resize(resize)
    bundle, recipe = opened(bundle)
    size = bundle.size
    given = open_tasks(folder, tasks, size=size, resize=resize)
    for task in given:  # before hours of work
        for number in range(len(task.splits)):
            check_split(task, number, components, bundle.dim)
    calibrated, tiles = calibrated_on(bundle), sum(map(len, given))
    fitted = counter(progress or silent, "fit", 2 * sum(len(task.splits) for task in given))
    scored, digests = [], []
    with both_models(bundle, recipe, weights=weights, threads=threads, device=device, progress=progress) as models:
        embed = models.embedder(tiles)
        for task in given:
            embeddings, hashes = _embed(task, embed, size, resize)
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
        **judged(gates(recipe, scored)),
    }


def _source(folder: Path, digests: Sequence[tuple[str, str]], size: int, resize: str) -> Patches:
    lines = "".join(f"{digest}  {key}\n" for key, digest in digests)
    return {
        "kind": "hest",
        "name": folder.resolve().name,
        "count": len(digests),
        "size": size,
        "resize": resize,
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def _notes(components: int, seen: int) -> list[str]:
    texts = [f"{seen} of the tiles were calibrated on."] if seen else []
    if components != COMPONENTS:
        texts.append(f"{components} principal components; the benchmark's figures are of {COMPONENTS}.")
    return texts


def _embed(
    task: Task, embed: Callable[[np.ndarray], dict[str, np.ndarray]], size: int, resize: str
) -> tuple[dict[str, dict[str, np.ndarray]], list[tuple[str, str]]]:
    """Embed every sample once with every model, patches read once; return the embeddings and the hash of every tile."""
    embeddings: dict[str, dict[str, np.ndarray]] = {FULL: {}, ARTIFACT: {}}
    digests = []
    for sample in task.samples.values():
        batches, hashes = [], []
        for pixels in sample.tiles(size, resize):
            hashes += [tile_sha256(tile) for tile in pixels]
            batches.append(embed(pixels))
        for name in embeddings:
            values = np.concatenate([rows[name] for rows in batches])
            bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
            if len(bad):
                raise EdgepathError(
                    f"HEST {task.name}: the {name} embedding of {sample.name}/{sample.barcodes[bad[0]]} is not finite"
                )
            embeddings[name][sample.name] = values
        keys = (f"{task.name}/{sample.name}/{barcode}" for barcode in sample.barcodes)
        digests += list(zip(keys, hashes, strict=True))
    return embeddings, digests


def _score(
    task: Task,
    embeddings: Mapping[str, Mapping[str, np.ndarray]],
    components: int,
    advance: Callable[[int], None],
) -> Scored:
    """Return the task's figures: a split's is the mean over genes, the task's the mean and deviation over splits."""
    of_genes: dict[str, list[float]] = {}
    scores: dict[str, Correlation] = {}
    for name, of in embeddings.items():
        rows = []
        for split in task.splits:
            rows.append(correlate(task, split, of, components))
            advance(1)
        table = np.stack(rows)  # (splits, genes)
        splits = table.mean(axis=1)
        scores[name] = {"pearson": float(splits.mean()), "std": float(splits.std()), "splits": splits.tolist()}
        of_genes[name] = table.mean(axis=0).tolist()
    genes: list[Gene] = [
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


def gates(recipe: Recipe, tasks: Sequence[Scored]) -> list[Gate]:
    """Hold what the mean over tasks lost, and the task that lost most, against `[accept.probe]`.

    A mean over nine tasks hardly moves when one of them fails. What is sampled are splits: other slides to predict. One
    that was not seen may lose `UNSEEN` times what may be lost on average.
    """
    allowed = recipe.accept.probe.pearson
    lost = [np.subtract(task["scores"][FULL]["splits"], task["scores"][ARTIFACT]["splits"]) for task in tasks]
    splits = sum(map(len, lost))
    # Tasks count alike, however many splits each has.
    weighted = np.concatenate([of * splits / (len(lost) * len(of)) for of in lost])
    held = [loss_gate("pearson", "mean over tasks", _bounds(weighted, allowed, 1), allowed)] if len(lost) > 1 else []
    bounds = [_bounds(of, allowed, len(lost)) for of in lost]
    name = tasks[max(range(len(lost)), key=lambda i: bounds[i].estimate)]["task"]
    of = f"task {name}" + (f", the worst of {len(lost)}" if len(lost) > 1 else "")
    return [*held, loss_gate("pearson", of, worst_of(bounds), allowed)]


def _bounds(lost: np.ndarray, allowed: float, picked_from: int) -> Bounds:
    most = np.array([UNSEEN * allowed])
    return mean_bounds(lost[:, None], "splits", -most, most, alpha_low=ALPHA / picked_from)[0]
