"""A candidate of `search`, judged as `export` will judge it: by its artifact, run here, beside its program.

An artifact can drift more than its program: sums saturate, FP16 overflows, other kernels round otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from ..bundle.running import embed_all
from ..machine.progress import Stages
from ..machine.scratch import scratch
from ..recipes.recipe import Accept, Recipe
from .drift import measure
from .gates import headroom_gate, parts_gate
from .lowering import Lowered, lower
from .summary import headroom_figures

if TYPE_CHECKING:
    from ..program.forms import Program

Figure = Literal["cosine_mean", "cosine_p01"]
FIGURES: tuple[Figure, ...] = ("cosine_mean", "cosine_p01")


class Ran(TypedDict):
    """What a candidate's artifact did here, and what ran it.

    Its cosines to full precision are None where an embedding is not finite or zero. `failed` names the gates of its
    export, besides drift, that it fails.
    """

    cosine_mean: float | None
    cosine_p01: float | None
    failed: list[str]
    ran_with: str
    runtime: dict[str, str]


class Point(TypedDict):
    """A candidate: how many linears are `kept` in floating point, and the share of multiply-adds in INT8.

    `cosine_mean` and `cosine_p01` are the program's, to full precision. `artifact` is None where it was not built.
    """

    kept: int
    int8_share: float
    cosine_mean: float
    cosine_p01: float
    artifact: Ran | None


def required(accept: Accept) -> dict[str, float]:
    """Return the least that program and artifact have to reach."""
    return {"cosine_mean": accept.cosine_mean, "cosine_p01": accept.cosine_p01}


def missed(point: Point, least: Mapping[str, float]) -> list[str]:
    """Return what a candidate misses, empty where it is good enough: of its program or else of its artifact."""
    if short := _short(point, least):
        return short
    ran = point["artifact"]
    return [] if ran is None else [*_short(ran, least), *ran["failed"]]


def is_judged(point: Point, recipe: Recipe) -> bool:
    """Tell whether a candidate needs no artifact: it was built, its program is not good enough, or nothing runs it."""
    short = _short(point, required(recipe.accept))
    return bool(short) or point["artifact"] is not None or recipe.checked_with == "none"


def program_point(
    program: Program, tiles: np.ndarray, exact: np.ndarray, kept: int, int8_share: float, stages: Stages
) -> Point:
    """Measure a program on `tiles`, uint8 (N, S, S, 3), against full precision's embeddings, float32 (N, D)."""
    with stages.stage("program", len(tiles)) as advance:
        drift = measure(exact, embed_all(program, tiles, advance))
    return {
        "kept": kept,
        "int8_share": int8_share,
        "cosine_mean": drift.cosine_mean,
        "cosine_p01": drift.cosine_p01,
        "artifact": None,
    }


def run_candidate(
    program: Program, recipe: Recipe, tiles: np.ndarray, exact: np.ndarray, rescaled: Collection[str], stages: Stages
) -> Ran:
    """Build the artifact of a program that was measured on `tiles`, run it on them, and apply its export's gates.

    `rescaled` is what was moved in the model to fit FP16. The artifact is not kept.
    """
    with scratch("search") as folder:
        lowered = lower(program, recipe, tiles, folder, stages)
    gates = [parts_gate(lowered.differences)]
    if program.peaks:
        gates.append(headroom_gate(recipe, headroom_figures(program.peaks, len(tiles), rescaled)))
    failed = [gate.figure for gate in gates if not gate.passed]
    return _ran(lowered, exact, failed)


def _ran(lowered: Lowered, exact: np.ndarray, failed: list[str]) -> Ran:
    assert lowered.embeddings is not None and lowered.runtime is not None
    runtime, drift = lowered.runtime, None
    if np.isfinite(lowered.embeddings).all() and lowered.embeddings.any(axis=1).all():
        drift = measure(exact[: len(lowered.embeddings)], lowered.embeddings)
    return {
        "cosine_mean": None if drift is None else drift.cosine_mean,
        "cosine_p01": None if drift is None else drift.cosine_p01,
        "failed": failed,
        "ran_with": runtime.text,
        "runtime": runtime.to_json(),
    }


def _short(cosines: Point | Ran, least: Mapping[str, float]) -> list[str]:
    return [key for key in FIGURES if (cosine := cosines[key]) is None or cosine < least[key]]
