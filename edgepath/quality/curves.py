"""`curves`: how far a tile's embedding moves as it is stained, scanned, stored or focused worse, by degrees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from ..bundle.bundle import Bundle, Runner
from ..bundle.running import embed_all
from ..checks.neighbours import own_share, unit
from ..errors import UsageError
from ..machine.progress import Progress
from ..tiles.opening import open_tiles
from .both_models import Measured, both_models, opened
from .perturbations import PERTURBATIONS, perturb

MOST = 256
Degree = dict[Literal["cosine", "own"], float]


class Curve(TypedDict):
    """A perturbation's degrees, and what each model's embeddings do at each of them."""

    name: str
    unit: str
    degrees: list[float]
    figures: dict[str, list[Degree]]


class Curves(Measured):
    """What `curves` returns."""

    kind: Literal["curves"]
    source: dict[str, Any]
    skipped: list[tuple[str, str]]
    curves: list[Curve]


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
    """Embed tiles as they are and perturbed, with the full-precision model and the artifact; return the curves.

    A degree's `cosine` is the mean cosine of a tile's embedding to that of the tile as it is, by the same model; `own`
    the share of perturbed tiles whose nearest tile as it is, by cosine, is their own. At most 256 tiles, which are held
    in memory. Raises what `verify` raises.
    """
    bundle, recipe = opened(bundle)
    source = open_tiles(tiles, size=bundle.manifest["contract"]["size"], resize=resize, skip_bad=skip_bad)
    if len(source) > MOST or len(still := source.read()) < 2:
        raise UsageError(f"curves: {len(source)} tiles; give 2 to {MOST}, each is embedded about 70 times")
    figures = {}
    with both_models(bundle, recipe, weights=weights, threads=threads, device=device, progress=progress) as models:
        counters = models.counters(len(still) * (1 + sum(len(p.degrees) - 1 for p in PERTURBATIONS)))
        for name, run in models.runners.items():
            figures[name] = _figures(partial(_embed, run, name, counters[name]), still)
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


def _figures(embed: Callable[[np.ndarray], np.ndarray], still: np.ndarray) -> dict[str, list[Degree]]:
    """Return a model's figures of every perturbation, degree by degree; `embed` gives unit rows."""
    known = embed(still)
    found = {}
    for p in PERTURBATIONS:
        of_degrees: list[Degree] = [{"cosine": 1.0, "own": own_share(known, known)}]
        for degree in p.degrees[1:]:
            moved = embed(perturb(p, still, degree))
            cosine = float(np.einsum("nd,nd->n", moved, known).mean())
            of_degrees.append({"cosine": cosine, "own": own_share(moved, known)})
        found[p.name] = of_degrees
    return found


def _embed(run: Runner, name: str, advance: Callable[[int], None], tiles: np.ndarray) -> np.ndarray:
    """Return unit embeddings (N, D) of tiles by the model of that name."""
    embeddings = embed_all(run, tiles, advance)
    if not np.isfinite(embeddings).all() or not embeddings.any(axis=1).all():
        raise UsageError(f"curves: an embedding by the {name} is not finite, or zero; verify the bundle")
    return unit(embeddings)
