"""`probe --hest`: do the artifact's embeddings tell as much about gene expression as the full-precision model's?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ...backends import ran_by
from ...bundle.bundle import Bundle, calibrated_on, open_bundle
from ...bundle.running import embed_all, open_runner
from ...checks.gates import Gate, all_passed, loss_gate, to_json
from ...checks.summary import notes
from ...errors import EdgepathError
from ...machine.packages import require
from ...machine.progress import Progress, counter
from ...program.rebuilding import same_weights
from ...recipes.recipe import Recipe
from ...tiles.images import check_resize, tile_sha256
from .ridge import COMPONENTS, check_split, correlate
from .tasks import Task, open_tasks

FULL, ARTIFACT = "full precision", "artifact"
Embed = Callable[[np.ndarray], np.ndarray]


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
) -> dict[str, Any]:
    """Predict gene expression by the HEST-Benchmark's protocol from a bundle's embeddings and from its full model's.

    `folder` is the benchmark's folder of tasks (see `tasks`), or one task's; `tasks` chooses some by name. `components`
    is what PCA leaves, 256 in the benchmark; a model with fewer numbers needs fewer. Both models are fitted and tested
    on the same splits, and every slide is embedded once. Returns Pearson's correlation by gene, split and task, and
    the recipe's gate `accept.probe.pearson` on what the mean over tasks and the worst task lost, JSON-able.

    Raises UsageError for a folder that is not what the benchmark's is, and what `verify` raises.
    """
    require("torch", "export")
    require("scikit-learn", "probe")
    require("h5py", "features")
    from ...machine.hardware import pick_device
    from ...models import reference

    check_resize(resize)
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    recipe, contract = Recipe.from_json(bundle.manifest["recipe"]), bundle.manifest["contract"]
    say = progress or (lambda stage, done, total: None)
    opened = open_tasks(folder, tasks, size=contract["size"], resize=resize)
    for task in opened:  # before hours of work
        for number in range(len(task.splits)):
            check_split(task, number, components, bundle.dim)
    vit, spec, _ = same_weights(bundle, weights)
    calibrated = calibrated_on(bundle)
    with ExitStack() as stack:
        artifact = stack.enter_context(open_runner(bundle, recipe, threads))
        full = stack.enter_context(
            reference.Runner(vit, spec.mean, spec.std, contract["embedding"], pick_device(device))
        )
        runs = {FULL: full, ARTIFACT: artifact}
        ran_with = {name: run.runtime for name, run in runs.items()}
        tiles = sum(map(len, opened))
        advance = {name: counter(say, f"embed, {name}", tiles) for name in runs}
        fitted = counter(say, "fit", 2 * sum(len(task.splits) for task in opened))
        scored, lines, seen = [], [], 0
        for task in opened:
            embeddings, digests = _embed(task, runs, advance, contract["size"], resize)
            scored.append(_score(task, embeddings, components, fitted))
            lines += [f"{digest}  {key}\n" for key, digest in digests]
            seen += sum(digest in calibrated for _, digest in digests)
    means = {name: float(np.mean([task["scores"][name]["pearson"] for task in scored])) for name in runs}
    judged = gates(recipe, means, scored)
    return {
        "name": bundle.name,
        "bundle": bundle.digest,
        "source": {
            "kind": "hest",
            "name": Path(folder).resolve().name,
            "count": tiles,
            "sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
            "size": contract["size"],
            "resize": resize,
        },
        "components": components,
        "ran_with": ran_with,
        "cautions": bundle.manifest["cautions"],
        "notes": _of(components, seen) + notes(recipe, ran_by(artifact)),
        "pearson": means,
        "tasks": scored,
        "gates": to_json(judged),
        "passed": all_passed(judged),
    }


def _of(components: int, seen: int) -> list[str]:
    said = [f"{seen} of the tiles were calibrated on."] if seen else []
    if components != COMPONENTS:
        said.append(f"{components} principal components; the benchmark's figures are of {COMPONENTS}.")
    return said


def _embed(
    task: Task, runs: Mapping[str, Embed], advance: Mapping[str, Callable[[int], None]], size: int, resize: str
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
) -> dict[str, Any]:
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
    counts = {"samples": len(task.samples), "tiles": len(task), "splits": len(task.splits)}
    return {"task": task.name, **counts, "scores": scores, "genes": genes}


def gates(recipe: Recipe, means: Mapping[str, float], tasks: Sequence[Mapping[str, Any]]) -> list[Gate]:
    """Hold what the mean over tasks lost, and the task that lost most, against `[accept.probe]`.

    A mean over nine tasks hardly moves when one of them fails.
    """
    lost = {task["task"]: task["scores"][FULL]["pearson"] - task["scores"][ARTIFACT]["pearson"] for task in tasks}
    worst = max(lost, key=lambda name: lost[name])
    held = {"mean over tasks": means[FULL] - means[ARTIFACT]} if len(lost) > 1 else {}
    held[f"task {worst}" + (", the worst" if len(lost) > 1 else "")] = lost[worst]
    allowed = recipe.accept.probe.pearson
    return [loss_gate("pearson", of, value, allowed) for of, value in held.items()]
