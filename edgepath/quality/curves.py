"""`curves`: how far a tile's embedding moves as it is stained, scanned, stored or focused worse, by degrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..bundle.bundle import Bundle
from ..checks.neighbours import own_share, unit
from ..errors import UsageError
from ..machine.progress import Progress
from ..tiles.opening import open_tiles
from .both_models import both_models, opened
from .perturbations import PERTURBATIONS, perturb
from .results import Curves, Degree

MOST = 256
Embed = Callable[[np.ndarray], dict[str, np.ndarray]]


def curves(
    bundle: str | Path | Bundle,
    tiles: str | Path | Sequence[str | Path] = "synthetic:32",
    *,
    weights: str | Path | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    threads: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Curves:
    """Degrade tiles step by step, and measure how far both models' embeddings move.

    There are eight perturbations. Tiles are held in memory, 256 at most.

    Args:
        bundle: A bundle folder, or a bundle that `open_bundle` returned.
        tiles: A folder of tiles or slides, a pack, or `synthetic:COUNT`.
        weights: The weights that the bundle was exported from, where they were a file (`FILE::KEY`) or a folder.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `skipped`.
        threads: CPU threads of the artifact's runtime; 0 lets it choose.
        device: Where the full-precision model runs: `auto`, `cpu`, `cuda` or `cuda:INDEX`.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        For each perturbation, step and model, JSON-able: `cosine`, the mean cosine of a degraded tile to the same tile
        as it is; and `own`, the fraction of degraded tiles whose nearest tile as it is, is their own.

    Raises:
        EdgepathError: What `verify` raises.
    """
    bundle, recipe = opened(bundle)
    source = open_tiles(tiles, size=bundle.size, resize=resize, skip_bad=skip_bad)
    if len(source) > MOST or len(still := source.read()) < 2:
        raise UsageError(f"curves: {len(source)} tiles; give --tiles with 2 to {MOST}, each is embedded about 70 times")
    with both_models(bundle, recipe, weights=weights, threads=threads, device=device, progress=progress) as models:
        steps = 1 + sum(len(p.degrees) - 1 for p in PERTURBATIONS)
        figures = _figures(models.embedder(len(still) * steps), still)
    return {
        "kind": "curves",
        **models.measured(),
        "source": source.provenance(),
        "skipped": source.skipped,
        "curves": [
            {
                "name": p.name,
                "unit": p.unit,
                "degrees": list(p.degrees),
                "figures": {name: of[p.name] for name, of in figures.items()},
            }
            for p in PERTURBATIONS
        ],
    }


def _figures(embed: Embed, still: np.ndarray) -> dict[str, dict[str, list[Degree]]]:
    """Return both models' figures of every perturbation, degree by degree, by the model's name."""
    known = _unit(embed(still))
    figures: dict[str, dict[str, list[Degree]]] = {name: {} for name in known}
    for p in PERTURBATIONS:
        for name, as_it_is in known.items():
            figures[name][p.name] = [{"cosine": 1.0, "own": own_share(as_it_is, as_it_is)}]
        for degree in p.degrees[1:]:
            for name, moved in _unit(embed(perturb(p, still, degree))).items():
                cosine = float(np.einsum("nd,nd->n", moved, known[name]).mean())
                figures[name][p.name].append({"cosine": cosine, "own": own_share(moved, known[name])})
    return figures


def _unit(embeddings: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return both models' embeddings as unit rows."""
    for name, rows in embeddings.items():
        if not np.isfinite(rows).all() or not rows.any(axis=1).all():
            raise UsageError(f"curves: an embedding by the {name} is not finite, or zero; verify the bundle")
    return {name: unit(rows) for name, rows in embeddings.items()}
