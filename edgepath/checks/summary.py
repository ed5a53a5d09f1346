"""What was measured, as one JSON-able value, and the page a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..backends import Runtime, builds_of, find
from ..machine.hardware import cpu_features, machine
from ..machine.packages import versions
from ..recipes.recipe import Recipe
from .drift import cosines, measure
from .gates import all_passed, drift_gates, parts_gate, speed_gate, to_json
from .parts import Difference
from .results import DriftFigures, Drifts, Facts, Report, WorstTiles

NOT_RUN = "not run here"
WORST = 8  # tiles named as the farthest
FEW = 16  # tiles, under which the 1st percentile is no more than the worst of a handful
# Which two sets of embeddings each drift compares.
PAIRS = {
    "quantization": ("reference", "program"),
    "lowering": ("program", "artifact"),
    "noise_floor": ("program", "nudged"),
    "total": ("reference", "artifact"),
}
_NO_VNNI = (
    "This CPU has no VNNI: INT8 gains little speed here or none, and drifts more, as its products can saturate. Judge "
    "the artifact on the CPU it is for."
)


@dataclass(frozen=True)
class Made:
    """What an export made, and of what.

    `artifact` is its file and size, `embeddings` are as `drifts` takes them, `runtime` is what ran the artifact (None:
    nothing here could), `speed` what `speed.gate.measure_speed` found (None: not measured).
    """

    artifact: Facts
    embeddings: Mapping[str, np.ndarray]
    differences: Sequence[Difference]
    runtime: Runtime | None
    program: Mapping[str, Sequence[float]]
    qad: Facts | None = None
    speed: Facts | None = None


@dataclass(frozen=True)
class Origins:
    """Where it came from: model, weights, tiles calibrated on and held out, full precision's runtime."""

    model: Facts
    weights: Facts
    contract: Facts
    calibration: Facts | None
    held_out: Facts
    skipped: Sequence[tuple[str, str]]
    reference: str


def build_report(name: str, recipe: Recipe, origins: Origins, made: Made, cost: Facts) -> Report:
    """Return everything a bundle says about itself."""
    keys = origins.held_out["keys"]
    drift = drifts(made.embeddings, keys)
    judged = [*drift_gates(recipe, drift), parts_gate(made.differences)]
    judged += [speed_gate(recipe, made.speed["ratio"])] if made.speed else []
    odd = [f"The artifact is not its program: {difference}." for difference in made.differences]
    return {
        "kind": "export",
        "schema": 1,
        "name": name,
        "passed": all_passed(judged),
        "cautions": cautions(origins.weights, origins.calibration, origins.held_out),
        "notes": odd + notes(recipe, made.runtime),
        "drift": drift,
        "gates": to_json(judged),
        "model": origins.model,
        "weights": origins.weights,
        "recipe": recipe.to_json(),
        "contract": origins.contract,
        "calibration": origins.calibration,
        "qad": made.qad,
        "program": {name: list(values) for name, values in made.program.items()},
        "held_out": origins.held_out,
        "worst": worst_tiles(made.embeddings, keys),
        "skipped": [list(entry) for entry in origins.skipped],
        "artifact": made.artifact,
        "ran_with": None if made.runtime is None else made.runtime.text,
        "runtime": None if made.runtime is None else made.runtime.to_json(),
        "speed": made.speed,
        "reference": origins.reference,
        "cost": cost,
        "machine": machine(),
        "versions": versions(),
    }


def drifts(embeddings: Mapping[str, np.ndarray], keys: Sequence[str]) -> Drifts:
    """Compare embeddings (float32 (N, D) each, same tiles) of `reference`, `program` and `artifact`, and of `nudged`.

    The last may be of the first tiles only: a noise floor needs no more. None where a side is not there.
    """

    def between(one: str, other: str) -> DriftFigures | None:
        if one not in embeddings or other not in embeddings:
            return None
        tiles = len(embeddings[other]) if other == "nudged" else len(embeddings[one])
        return measure(embeddings[one][:tiles], embeddings[other], keys[:tiles]).to_json()

    return {
        "quantization": between(*PAIRS["quantization"]),
        "lowering": between(*PAIRS["lowering"]),
        "noise_floor": between(*PAIRS["noise_floor"]),
        "total": between(*PAIRS["total"]),
    }


def worst_tiles(embeddings: Mapping[str, np.ndarray], keys: Sequence[str]) -> WorstTiles:
    """Name the tiles whose embedding lies farthest from the reference, farthest first, and where each is among `keys`.

    They are of the artifact or, where that could not run here, of the program.
    """
    of: Literal["total", "quantization"] = "total" if "artifact" in embeddings else "quantization"
    found = cosines(*(embeddings[side] for side in PAIRS[of]))
    farthest = np.argsort(found, kind="stable")[:WORST].tolist()
    return {"of": of, "tiles": [{"tile": keys[i], "golden": i, "cosine": float(found[i])} for i in farthest]}


def cautions(weights: Facts, calibration: Facts | None, held_out: Facts) -> list[str]:
    """What a reader must know before trusting a figure of this bundle, wherever it was measured."""
    said = []
    if weights["random"]:
        said.append(
            f"Weights: {weights['source']}. Figures describe the arithmetic, not a model that has learned anything."
        )
    if calibration and calibration["kind"] == "synthetic":
        said.append("Calibrated on synthetic tiles: give --calibration FOLDER or PACK of your own tiles before use.")
    elif held_out["kind"] == "synthetic":
        said.append("Measured on synthetic tiles: give --calibration FOLDER or PACK of your own tiles before use.")
    if (tiles := len(held_out["keys"])) < FEW:
        said.append(f"Measured on {tiles} tiles only: drift on others may be larger; verify it with --tiles FOLDER.")
    return said


def notes(recipe: Recipe, runtime: Runtime | None) -> list[str]:
    """What a reader must know of figures measured on this machine."""
    if runtime is None:
        return ["The artifact was not run here; gates were applied to the program it was lowered from."]
    if runtime.kind != recipe.backend:
        stand_in = builds_of(recipe.backend).stand_in
        return [stand_in] if stand_in else []
    return [_NO_VNNI] if recipe.int8 and find(runtime.kind).on_cpu and _saturates(cpu_features()) else []


def _saturates(features: Sequence[str]) -> bool:
    """Tell whether 8-bit products are added in 16 bits and clipped, as AVX2 does it (and slowly)."""
    return "avx2" in features and not {"avx_vnni", "avx512_vnni", "amx_int8"} & set(features)
