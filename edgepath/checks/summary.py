"""What was measured, as one JSON-able value, and the page a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backends import Runtime, builds_of, find
from ..machine.hardware import cpu_features, machine
from ..recipes.recipe import Recipe
from .drift import cosines, measure
from .gates import all_passed, drift_gates, parts_gate, speed_gate, to_json
from .parts import Difference

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


def build_report(
    *,
    name: str,
    recipe: Recipe,
    model: Mapping[str, Any],
    weights: Mapping[str, Any],
    contract: Mapping[str, Any],
    calibration: Mapping[str, Any] | None,
    qad: Mapping[str, Any] | None = None,
    program: Mapping[str, Sequence[float]],
    held_out: Mapping[str, Any],
    skipped: Sequence[tuple[str, str]],
    artifact: Mapping[str, Any],
    runtime: Runtime | None,
    reference: str,
    embeddings: Mapping[str, np.ndarray],
    differences: Sequence[Difference],
    speed: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return everything a bundle says about itself, JSON-able; `embeddings` as `drifts` takes them.

    `speed` is what `speed.gate.measure_speed` found; None where it was not measured.
    """
    drift = drifts(embeddings, held_out["keys"])
    judged = [*drift_gates(recipe, drift), parts_gate(differences)]
    judged += [speed_gate(recipe, speed["ratio"])] if speed else []
    return {
        "schema": 1,
        "name": name,
        "passed": all_passed(judged),
        "cautions": cautions(weights, calibration, held_out),
        "notes": [f"The artifact is not its program: {line}." for line in differences] + notes(recipe, runtime),
        "drift": drift,
        "gates": to_json(judged),
        "model": dict(model),
        "weights": dict(weights),
        "recipe": recipe.to_json(),
        "contract": dict(contract),
        "calibration": calibration,
        "qad": qad,
        "program": {name: list(values) for name, values in program.items()},
        "held_out": dict(held_out),
        "worst": worst_tiles(embeddings, held_out["keys"]),
        "skipped": [list(entry) for entry in skipped],
        "artifact": dict(artifact),
        "ran_with": None if runtime is None else runtime.text,
        "runtime": None if runtime is None else runtime.to_json(),
        "speed": None if speed is None else dict(speed),
        "reference": reference,
        "cost": dict(cost),
        "machine": machine(),
        "versions": dict(versions),
    }


def drifts(embeddings: Mapping[str, np.ndarray], keys: Sequence[str]) -> dict[str, Any]:
    """Compare embeddings (float32 (N, D) each, same tiles) of `reference`, `program` and `artifact`, and of `nudged`.

    The last may be of the first tiles only: a noise floor needs no more.

    Returns the four drifts by name: `quantization`, `lowering`, `noise_floor`, `total`; None where a side is not there.
    """
    found: dict[str, Any] = {}
    for name, (one, other) in PAIRS.items():
        if one not in embeddings or other not in embeddings:
            found[name] = None
            continue
        tiles = len(embeddings[other]) if other == "nudged" else len(embeddings[one])
        found[name] = measure(embeddings[one][:tiles], embeddings[other], keys[:tiles]).to_json()
    return found


def worst_tiles(embeddings: Mapping[str, np.ndarray], keys: Sequence[str]) -> dict[str, Any]:
    """Name the tiles whose embedding lies farthest from the reference, farthest first, and where each is among `keys`.

    They are of the artifact (`of` is "total") or, where that could not run here, of the program ("quantization").
    """
    of = "total" if "artifact" in embeddings else "quantization"
    found = cosines(*(embeddings[side] for side in PAIRS[of]))
    farthest = np.argsort(found, kind="stable")[:WORST].tolist()
    return {"of": of, "tiles": [{"tile": keys[i], "golden": i, "cosine": float(found[i])} for i in farthest]}


def cautions(
    weights: Mapping[str, Any], calibration: Mapping[str, Any] | None, held_out: Mapping[str, Any]
) -> list[str]:
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
