"""A program lowered to its artifact, and that run here: what `export` and `search` judge, made in one way for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..backends import Runtime, builds_of, find, ran_by
from ..bundle.running import embed_all
from ..machine.progress import Stages
from ..recipes.recipe import Recipe
from .parts import Difference

if TYPE_CHECKING:
    from ..program.forms import Program


@dataclass(frozen=True)
class Lowered:
    """An artifact as it was built and run here.

    `embeddings`, float32 (N, D), are its own, of the first N tiles, and `runtime` is what made them: the recipe's
    `checked_with`, the target's runtime or what stands in for it. Both are None where nothing can run it. `differences`
    say where it is not its program.
    """

    artifact: Path
    embeddings: np.ndarray | None
    runtime: Runtime | None
    differences: list[Difference]


def lower(program: Program, recipe: Recipe, tiles: np.ndarray, folder: Path, stages: Stages) -> Lowered:
    """Build the artifact of `program` in `folder`, run it on `tiles`, uint8 (N, S, S, 3), and read it back.

    What is slow to run takes the first of the tiles only (`Backend.tiles_at_export`).

    Raises UsageError for a program that the backend refuses.
    """
    from .parts import differences

    embeddings = runtime = None
    with stages.stage("lower"):
        artifact = builds_of(recipe.backend).build(program, folder, recipe)
    if recipe.checked_with != "none":
        checker = find(recipe.checked_with)
        few = tiles[: checker.tiles_at_export]
        with stages.stage("run artifact", len(few)) as advance, checker.load_runner()(artifact) as runner:
            embeddings, runtime = embed_all(runner, few, advance), ran_by(runner)
    with stages.stage("parts"):
        differing = differences(program.lowered, artifact, recipe.backend)
    return Lowered(artifact, embeddings, runtime, differing)
