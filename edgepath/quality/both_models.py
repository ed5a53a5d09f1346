"""A bundle's two models beside each other, full precision and the artifact, and what every result of them says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ..backends import ran_by
from ..bundle.bundle import Bundle, Runner, open_bundle
from ..bundle.running import embed_all, open_runner
from ..checks.gates import Gate, all_passed, to_json, verdict_of
from ..checks.summary import notes
from ..machine.packages import require
from ..machine.progress import Progress, counter, silent
from ..program.rebuilding import same_weights
from ..recipes.recipe import Recipe
from .results import Measured, Verdict

FULL: Final = "full precision"
ARTIFACT: Final = "artifact"


@dataclass(frozen=True)
class BothModels:
    """Both models of a bundle, ready to embed.

    `runners` holds the full-precision model first, then the artifact; `made_from` is the sha256 of the weights, and the
    model's mean, standard deviation and embedding, as a text; `device` is where the full-precision model runs.
    """

    bundle: Bundle
    recipe: Recipe
    runners: Mapping[str, Runner]
    made_from: str
    device: str
    progress: Progress

    def counters(self, tiles: int) -> dict[str, Callable[[int], None]]:
        """Return what counts each model's tiles as they are embedded."""
        return {name: counter(self.progress, f"embed, {name}", tiles) for name in self.runners}

    def embedder(self, tiles: int) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """Return what embeds tiles, uint8 (N, S, S, 3), with both models, and counts them up to `tiles`.

        Embeddings are float32 (N, D) by the model's name. Both see a tile while it is held: none is read twice.
        """
        counters = self.counters(tiles)

        def embed(pixels: np.ndarray) -> dict[str, np.ndarray]:
            return {name: embed_all(run, pixels, counters[name]) for name, run in self.runners.items()}

        return embed

    def measured(self, remarks: Sequence[str] = ()) -> Measured:
        """Return the part that all results have; `remarks` are notes on the tiles."""
        return {
            "name": self.bundle.name,
            "bundle": self.bundle.digest,
            "ran_with": {name: run.runtime for name, run in self.runners.items()},
            "cautions": list(self.bundle.cautions),
            "notes": [*remarks, *notes(self.recipe, ran_by(self.runners[ARTIFACT]))],
        }


def opened(bundle: str | Path | Bundle) -> tuple[Bundle, Recipe]:
    """Open a bundle whose model can be loaded here, and its recipe. Raises MissingRuntime without PyTorch."""
    require("torch", "export")
    bundle = open_bundle(bundle)
    return bundle, bundle.recipe


@contextmanager
def both_models(
    bundle: Bundle,
    recipe: Recipe,
    *,
    weights: str | Path | None = None,
    threads: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Iterator[BothModels]:
    """Load both models; `threads` are the artifact's, the full-precision model runs on `device`.

    Raises UsageError for weights that the bundle was not made from, MissingRuntime where the artifact cannot run.
    """
    from ..machine.hardware import pick_device
    from ..models import reference

    embedding = bundle.contract.embedding
    device = pick_device(device)
    vit, spec, loaded = same_weights(bundle, weights)
    with (
        open_runner(bundle, recipe, threads) as artifact,
        reference.Runner(vit, spec.mean, spec.std, embedding, device) as full,
    ):
        made_from = f"{loaded.sha256} {spec.mean} {spec.std} {embedding}"
        yield BothModels(bundle, recipe, {FULL: full, ARTIFACT: artifact}, made_from, device, progress or silent)


def judged(gates: Sequence[Gate]) -> Verdict:
    """Return gates and their verdict as a result has them."""
    rows = to_json(gates)
    return {"gates": rows, "verdict": verdict_of(rows).value, "passed": all_passed(gates)}
