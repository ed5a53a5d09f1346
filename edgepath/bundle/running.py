"""TODO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import backends
from ..errors import MissingRuntime
from ..machine.packages import require
from ..recipes.recipe import Recipe
from .bundle import Bundle, Runner, load_artifact


def embed_all(run: Callable[[np.ndarray], np.ndarray], tiles: np.ndarray, advance: Callable[[int], None]) -> np.ndarray:
    """Embed tiles, uint8 (N, S, S, 3), a few at a time: float32 (N, D)."""
    rows = []
    for start in range(0, len(tiles), BATCH):
        rows.append(run(tiles[start : start + BATCH]))
        advance(len(rows[-1]))
    return np.concatenate(rows)


def artifact_bytes(artifact: Path) -> int:
    """Bytes of the artifact, all of its files counted (OpenVINO's weights lie beside the `.xml`)."""
    if artifact.is_dir():
        return sum(file.stat().st_size for file in artifact.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in artifact.parent.glob(f"{artifact.stem}.*"))


BATCH = 8


_EVALUATOR_NEEDS = ("torch", "coremltools")


def open_runner(bundle: Bundle, recipe: Recipe, threads: int = 0) -> Runner:
    """Load the artifact with its own runtime or, where that cannot run here, with the one its recipe checks it with.

    `threads` is for runtimes of CPUs; those of devices have no such option.
    """
    options = {"threads": threads} if threads else {}
    try:
        return bundle.runner(**(options if recipe.backend in backends.WITH_THREADS else {}))
    except MissingRuntime:
        if recipe.checked_with in ("none", recipe.backend):
            raise
    if recipe.checked_with == "mil":
        for package in _EVALUATOR_NEEDS:
            require(package, "coreml")
    return load_artifact(bundle, recipe.checked_with, **options)
