"""`curves`: how far a tile's embedding moves as it is stained, scanned, stored or focused worse, by degrees."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import ran_by
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.running import embed_all, open_runner
from ..checks.comparison import own_share
from ..checks.summary import notes
from ..errors import UsageError
from ..machine.packages import require
from ..machine.progress import Progress, counter
from ..program.rebuilding import same_weights
from ..recipes.recipe import Recipe
from ..tiles.opening import open_tiles
from .perturbations import PERTURBATIONS, perturb
from .robustness import ARTIFACT, FULL

MOST = 256


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
) -> dict[str, Any]:
    """Embed tiles as they are and perturbed, with the full-precision model and the artifact; return the curves.

    A degree's `cosine` is the mean cosine of a tile's embedding to that of the tile as it is, by the same model; `own`
    the share of perturbed tiles whose nearest tile as it is, by cosine, is their own. At most 256 tiles, which are held
    in memory. Raises what `verify` raises.
    """
    require("torch", "export")
    from ..machine.hardware import pick_device
    from ..models import reference

    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    recipe, contract = Recipe.from_json(bundle.manifest["recipe"]), bundle.manifest["contract"]
    source = open_tiles(tiles, size=contract["size"], resize=resize, skip_bad=skip_bad)
    if len(source) > MOST or len(still := source.read()) < 2:
        raise UsageError(f"curves: {len(source)} tiles; give 2 to {MOST}, each is embedded about 70 times")
    say = progress or (lambda stage, done, total: None)
    vit, spec, _ = same_weights(bundle, weights)
    steps = [(p, degree) for p in PERTURBATIONS for degree in p.degrees[1:]]
    found: dict[str, dict[str, list[dict[str, float]]]] = {p.name: {} for p in PERTURBATIONS}
    ran_with = {}
    with ExitStack() as stack:
        artifact = stack.enter_context(open_runner(bundle, recipe, threads))
        full = stack.enter_context(
            reference.Runner(vit, spec.mean, spec.std, contract["embedding"], pick_device(device))
        )
        for name, run in ((FULL, full), (ARTIFACT, artifact)):
            advance = counter(say, f"embed, {name}", len(still) * (1 + len(steps)))
            known = _unit(embed_all(run, still, advance), name)
            for p in PERTURBATIONS:
                found[p.name][name] = [{"cosine": 1.0, "own": own_share(known, known)}]
            for p, degree in steps:
                moved = _unit(embed_all(run, perturb(p, still, degree), advance), name)
                cosine = float(np.einsum("nd,nd->n", moved, known).mean())
                found[p.name][name].append({"cosine": cosine, "own": own_share(moved, known)})
            ran_with[name] = run.runtime
        ran = ran_by(artifact)
    return {
        "name": bundle.name,
        "bundle": bundle.digest,
        "source": source.provenance(),
        "skipped": source.skipped,
        "ran_with": ran_with,
        "cautions": bundle.manifest["cautions"],
        "notes": notes(recipe, ran),
        "curves": [
            {"name": p.name, "unit": p.unit, "degrees": list(p.degrees), "figures": found[p.name]}
            for p in PERTURBATIONS
        ],
    }


def _unit(embeddings: np.ndarray, name: str) -> np.ndarray:
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(norms).all() or not norms.all():
        raise UsageError(f"curves: an embedding by the {name} is not finite, or zero; verify the bundle")
    unit: np.ndarray = embeddings / norms
    return unit
