"""What was measured, as one JSON-able value, and the page a person reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..backends import Runtime, builds_of, every, find
from ..bundle.drift import DriftFigures
from ..machine.hardware import cpu_features, machine
from ..machine.packages import versions
from ..recipes.recipe import Recipe
from .drift import cosines, measure
from .gates import Gate, all_passed, drift_gates, headroom_gate, parts_gate, speed_gate, to_json, verdict_of
from .parts import Difference
from .results import Artifact, Calibration, Drifts, HeadroomFigures, HeldOut, PeakFigures, Report, Speed, WorstTiles

if TYPE_CHECKING:
    from ..machine.progress import Cost
    from ..models.weights import WeightsFacts
    from ..program.headroom import Peaks
    from ..program.qad import Repaired

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
    "This CPU has no VNNI: INT8 gains little speed here or none, and drifts more, as its sums can saturate. Judge "
    "the artifact on the CPU it is for."
)


@dataclass(frozen=True)
class Made:
    """What an export made, and of what.

    `artifact` is its file and size, `embeddings` are as `drifts` takes them, `runtime` is what ran the artifact (None:
    nothing here could), `speed` what `speed.gate.measure_speed` found (None: not measured), `headroom` what came
    nearest to FP16's largest number (None: no value is FP16).
    """

    artifact: Artifact
    embeddings: Mapping[str, np.ndarray]
    differences: Sequence[Difference]
    runtime: Runtime | None
    program: Mapping[str, Sequence[float]]
    qad: Repaired | None = None
    speed: Speed | None = None
    headroom: HeadroomFigures | None = None


@dataclass(frozen=True)
class Origins:
    """Where it came from: model, weights, tiles calibrated on and held out, full precision's runtime."""

    model: dict[str, object]
    weights: WeightsFacts
    contract: dict[str, object]
    calibration: Calibration | None
    held_out: HeldOut
    skipped: Sequence[tuple[str, str]]
    reference: str


def build_report(name: str, recipe: Recipe, origins: Origins, made: Made, cost: Cost) -> Report:
    """Return everything a bundle says about itself."""
    keys, licence = origins.held_out["keys"], str(origins.model.get("licence", ""))
    drift = drifts(made.embeddings, keys)
    judged = [*judge_drift(recipe, made.embeddings), parts_gate(made.differences)]
    judged += [headroom_gate(recipe, made.headroom)] if made.headroom else []
    judged += [speed_gate(recipe, np.array(made.speed["ratios"]))] if made.speed else []
    odd = [f"The artifact is not its program: {difference}." for difference in made.differences]
    return {
        "kind": "export",
        "schema": 1,
        "name": name,
        "verdict": verdict_of(to_json(judged)).value,
        "passed": all_passed(judged),
        "cautions": cautions(origins.weights, origins.calibration, origins.held_out, licence),
        "notes": odd + notes(recipe, made.runtime),
        "drift": drift,
        "gates": to_json(judged),
        "headroom": made.headroom,
        "model": origins.model,
        "weights": origins.weights,
        "recipe": recipe.to_json(),
        "contract": origins.contract,
        "calibration": origins.calibration,
        "qad": None if made.qad is None else asdict(made.qad),
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

    The last two may be of the first tiles only. None where a side is not there.
    """

    def between(first: str, second: str) -> DriftFigures | None:
        if first not in embeddings or second not in embeddings:
            return None
        ours, theirs = _sides(embeddings, first, second)
        return measure(ours, theirs, keys[: len(theirs)]).to_json()

    return {
        "quantization": between(*PAIRS["quantization"]),
        "lowering": between(*PAIRS["lowering"]),
        "noise_floor": between(*PAIRS["noise_floor"]),
        "total": between(*PAIRS["total"]),
    }


def headroom_figures(peaks: Peaks, tiles: int, rescaled: Iterable[str] = ()) -> HeadroomFigures:
    """Return what was nearest to FP16's largest number while `tiles` tiles were embedded, JSON-able."""
    nearest = [
        PeakFigures(place=peak.place, operation=peak.operation, largest=peak.largest, headroom=peak.headroom)
        for peak in peaks.nearest()
    ]
    return {"tiles": tiles, "nearest": nearest, "rescaled": sorted(rescaled)}


def judge_drift(recipe: Recipe, embeddings: Mapping[str, np.ndarray]) -> list[Gate]:
    """Hold the drift of embeddings, as `drifts` takes them, against the recipe's `[accept]`.

    The artifact is judged where it ran; where it could not run here, the quantized program is, and `of` says so.
    """
    of = _judged_side(embeddings)
    return drift_gates(recipe, of, cosines(*_sides(embeddings, *PAIRS[of])))


def _sides(embeddings: Mapping[str, np.ndarray], first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    """Return two sides' embeddings of the tiles that the second has."""
    return embeddings[first][: len(embeddings[second])], embeddings[second]


def _judged_side(embeddings: Mapping[str, np.ndarray]) -> Literal["total", "quantization"]:
    return "total" if "artifact" in embeddings else "quantization"


def worst_tiles(embeddings: Mapping[str, np.ndarray], keys: Sequence[str]) -> WorstTiles:
    """Name the tiles whose embedding lies farthest from the reference, farthest first, and where each is among `keys`.

    They are of the artifact or, where that could not run here, of the program.
    """
    of = _judged_side(embeddings)
    cosine = cosines(*_sides(embeddings, *PAIRS[of]))
    farthest = np.argsort(cosine, kind="stable")[:WORST].tolist()
    return {"of": of, "tiles": [{"tile": keys[i], "golden": i, "cosine": float(cosine[i])} for i in farthest]}


def cautions(weights: WeightsFacts, calibration: Calibration | None, held_out: HeldOut, licence: str = "") -> list[str]:
    """What a reader must know before trusting a figure of this bundle, wherever it was measured."""
    texts = []
    if weights["random"]:
        texts.append(
            f"Weights: {weights['source']}. Figures describe the arithmetic, not a model that has learned anything."
        )
    elif re.search(r"\bND\b|no.?deriv", licence, re.IGNORECASE):
        texts.append(
            f"Licence: the weights are under {licence.partition(',')[0]}. This bundle may be a derivative of them, "
            "which must not be handed on; ask who owns the weights."
        )
    if weights.get("rounded"):
        texts.append(
            f"Weights: stored in {weights['precision']}. Full precision computes with these rounded numbers; what "
            "their rounding changed is in no figure."
        )
    if calibration and calibration["kind"] == "synthetic":
        texts.append("Calibrated on synthetic tiles: give --calibration FOLDER or PACK of your own tiles before use.")
    elif held_out["kind"] == "synthetic":
        texts.append("Measured on synthetic tiles: give --calibration FOLDER or PACK of your own tiles before use.")
    if (tiles := len(held_out["keys"])) < FEW:
        texts.append(f"Measured on {tiles} tiles only: drift on others may be larger; verify it with --tiles FOLDER.")
    return texts


def notes(recipe: Recipe, runtime: Runtime | None) -> list[str]:
    """What a reader must know of figures measured on this machine."""
    if runtime is None:
        return ["The artifact was not run here; gates were applied to the program it was lowered from."]
    own = find(recipe.backend).runner
    if runtime.kind not in {backend.name for backend in every() if backend.runner == own}:
        builds = builds_of(recipe.backend)
        return [note for note in (builds.stand_in, builds.int8_note * recipe.int8) if note]
    return [_NO_VNNI] if recipe.int8 and find(runtime.kind).on_cpu and _saturates(cpu_features()) else []


def _saturates(features: Sequence[str]) -> bool:
    """Tell whether 8-bit products are added in 16 bits and clipped, as AVX2 does it (and slowly)."""
    return "avx2" in features and not {"avx_vnni", "avx512_vnni", "amx_int8"} & set(features)
