"""What was measured, as one JSON-able value, and the page a person reads."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .backends.reference import cpu_model
from .doctor import cpu_features
from .drift import cosines, measure
from .recipe import Recipe

NOT_RUN = "not run here"
WORST = 8  # tiles named as the farthest
FEW = 16  # tiles, under which the 1st percentile is no more than the worst of a handful
DRIFT_HEADER = ["drift", "tiles", "cosine mean", "1 %", "min", "rel. L2", "top-10"]
SPEED_GATE = "p50 / full precision's"
GATE_HEADER = ["gate", "of", "measured", "required", ""]
# Which two sets of embeddings each drift compares.
_PAIRS = {
    "quantization": ("reference", "program"),
    "lowering": ("program", "artifact"),
    "noise_floor": ("program", "nudged"),
    "total": ("reference", "artifact"),
}
_NO_VNNI = (
    "This CPU has no VNNI: INT8 gains little speed here or none, and drifts more, as its products can saturate. Judge "
    "the artifact on the CPU it is for."
)
DRIFT_LEGEND = (
    "quantization: program vs full-precision reference. lowering: artifact vs program. noise floor: program vs itself, "
    "its input moved by 1e-6, as summing in another order would. total: artifact vs reference."
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
    ran_with: str | None,
    reference: str,
    embeddings: Mapping[str, np.ndarray],
    differences: Sequence[str],
    speed: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return everything a bundle says about itself, JSON-able; `embeddings` as `drifts` takes them.

    `speed` is what `latency.gate.measure_speed` found; None where it was not measured.
    """
    drift = drifts(embeddings, held_out["keys"])
    judged = [*gates(recipe, drift), parts_gate(differences)]
    judged += [speed_gate(recipe, speed["ratio"])] if speed else []
    return {
        "schema": 1,
        "name": name,
        "passed": all(gate["passed"] for gate in judged),
        "cautions": cautions(weights, calibration, held_out),
        "notes": [f"The artifact is not its program: {line}." for line in differences] + notes(recipe, ran_with),
        "drift": drift,
        "gates": judged,
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
        "ran_with": ran_with,
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
    for name, (one, other) in _PAIRS.items():
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
    found = cosines(*(embeddings[side] for side in _PAIRS[of]))
    farthest = np.argsort(found, kind="stable")[:WORST].tolist()
    return {"of": of, "tiles": [{"tile": keys[i], "golden": i, "cosine": float(found[i])} for i in farthest]}


def gates(recipe: Recipe, drift: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold the measured drift against the recipe's `[accept]`.

    The artifact is judged where it ran; where it could not run here, the quantized program is, and `of` says so.
    """
    of = "total" if drift["total"] else "quantization"
    measured = drift[of]
    return [
        {"gate": key, "of": of, "measured": measured[key], "required": required, "passed": measured[key] >= required}
        for key in ("cosine_mean", "cosine_p01")
        for required in [recipe.to_json()["accept"][key]]
    ]


def parts_gate(differing: Sequence[str]) -> dict[str, Any]:
    """Return the gate that an artifact is its program, part by part: `measured` is how many parts are not."""
    return {"gate": "other parts", "of": "lowering", "measured": len(differing), "required": 0, "passed": not differing}


def speed_gate(recipe: Recipe, measured: float, of: str = "latency") -> dict[str, Any]:
    """Hold a ratio, p50 of INT8 over full precision's at batch 1, against `accept.latency.of_full_precision`."""
    required = recipe.accept.latency.of_full_precision
    return {"gate": SPEED_GATE, "of": of, "measured": measured, "required": required, "passed": measured <= required}


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


def notes(recipe: Recipe, ran_with: str | None) -> list[str]:
    """What a reader must know of figures measured on this machine."""
    if ran_with is None:
        return ["The artifact was not run here; gates were applied to the program it was lowered from."]
    if recipe.backend == "tensorrt_rtx" and "TensorRT" not in ran_with:
        return ["ONNX Runtime ran the graph; its engine, built without a GPU, was not run: run kit/check.py on one."]
    if "not Core ML" in ran_with:
        return [
            "The artifact was evaluated operation by operation in torch, not run by Core ML: a device may round and sum"
            " in another way. Run kit/check.py on one."
        ]
    return [_NO_VNNI] if recipe.int8 and recipe.checked_with == recipe.backend and _saturates(cpu_features()) else []


def _saturates(features: Sequence[str]) -> bool:
    """Tell whether 8-bit products are added in 16 bits and clipped, as AVX2 does it (and slowly)."""
    return "avx2" in features and not {"avx_vnni", "avx512_vnni", "amx_int8"} & set(features)


def machine() -> dict[str, Any]:
    """Describe this machine as far as figures depend on it."""
    return {
        "cpu": cpu_model(),
        "cpu_features": list(cpu_features()),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def to_markdown(report: Mapping[str, Any]) -> str:
    """Return `report.md`: verdict first, then drift, gates, where everything came from."""
    lines = [f"# {report['name']}: {'passed' if report['passed'] else 'FAILED'}", ""]
    said = [*report["cautions"], *report["notes"]]
    lines += [f"> {text}" for text in said] + [""] * bool(said)
    lines += [*_markdown_table(DRIFT_HEADER, drift_rows(report["drift"])), DRIFT_LEGEND, ""]
    lines += _markdown_table(GATE_HEADER, gate_rows(report["gates"]))
    lines += _markdown_table(["", ""], fact_rows(report))
    if report["skipped"]:
        lines += _markdown_table(["tile left out", "why"], report["skipped"])
    return "\n".join(lines).rstrip() + "\n"


def drift_rows(drift: Mapping[str, Any]) -> list[list[str]]:
    """Return the drift table: name, tiles, cosine mean, 1st percentile, min, relative L2, neighbour overlap."""
    rows = []
    for key in _PAIRS:
        title, figures = key.replace("_", " "), drift[key]
        if figures is None:
            rows.append([title, *[NOT_RUN] * 6])
            continue
        cosines = [f"{figures[k]:.6f}" for k in ("cosine_mean", "cosine_p01", "cosine_min")]
        # Fewer than 11 tiles have no ten neighbours each.
        overlap = f"{figures['neighbour_overlap']:.3f}" if figures["neighbours"] == 10 else "-"
        rows.append([title, str(figures["tiles"]), *cosines, f"{figures['relative_l2']:.5f}", overlap])
    return rows


def gate_rows(gates: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the gates: name, of which drift, measured, required, verdict."""
    return [
        [
            gate["gate"],
            gate["of"],
            str(gate["measured"]) if gate["of"] == "lowering" else f"{gate['measured']:.6f}",
            f"{'<=' if gate['of'] == 'lowering' or gate['gate'] == SPEED_GATE else '>='} {gate['required']}",
            "ok" if gate["passed"] else "FAILED",
        ]
        for gate in gates
    ]


def fact_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Return where the figures came from: model, weights, tiles, runtimes, cost."""
    calibration, cost, contract = report["calibration"], report["cost"], report["contract"]
    also = ", and patch tokens" if contract["tokens"] else ""
    qad = report["qad"]
    trained = [["then trained", _trained(qad)]] if qad else []
    tiles = "further tiles" if calibration else "tiles"
    return [
        ["model", f"{report['model']['name']} ({report['model']['licence']})"],
        ["weights", f"{report['weights']['source']}, sha256 {report['weights']['sha256'][:16]}"],
        ["embedding", f"{contract['embedding']}, {contract['dim']} numbers{also}"],
        ["calibrated on", _calibrated(calibration) if calibration else "needs none"],
        *([["kept out of INT8", ", ".join(kept)]] if (kept := report["recipe"]["quantize"].get("keep")) else []),
        *trained,
        ["measured on", f"{report['held_out']['count']} {tiles} of {report['held_out']['name']}"],
        ["reference", report["reference"]],
        ["artifact", f"{report['artifact']['file']}, {report['artifact']['size_bytes'] / 1e6:.1f} MB"],
        ["artifact run with", report["ran_with"] or NOT_RUN],
        *([["speed", _speed(report["speed"])]] if report["recipe"]["precision"]["linear"] == "int8" else []),
        [
            "export took",
            f"{sum(cost['seconds'].values()):.1f} s, peak memory {cost['peak_memory_bytes'] / 2**30:.2f} GiB",
        ],
    ]


def _calibrated(calibration: Mapping[str, Any]) -> str:
    looks = f", and {calibration['looks']} procedural ones" if calibration.get("looks") else ""
    return f"{calibration['count']} tiles of {calibration['name']}{looks}"


def _speed(speed: Mapping[str, Any] | None) -> str:
    """Say what INT8 takes beside full precision in the same runtime."""
    if speed is None:
        return "not measured"
    int8, full = speed["int8_ms"]["p50"], speed["full_precision_ms"]["p50"]
    return f"{int8:.1f} ms, FP32 {full:.1f} ms (batch 1, {speed['threads']} threads, n = {speed['n']} in turn)"


def _trained(qad: Mapping[str, Any]) -> str:
    """Say what quantization-aware distillation did, as 1 - mean cosine on the tiles that judged it."""
    if not qad["best_step"]:
        return f"{qad['steps']} steps, none better than before (1 - cosine {qad['drift_before']:.2e}): left as it was"
    change = f"1 - cosine {qad['drift_before']:.2e} to {qad['drift_after']:.2e}"
    return f"{qad['best_step']} of {qad['steps']} steps, {change} on {qad['validated_on']} tiles not trained on"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = (header, ["---"] * len(header), *rows)
    return ["| " + " | ".join(map(_cell, row)) + " |" for row in lines] + [""]


def _cell(text: str) -> str:
    """File names and messages may hold what would end a cell or a row."""
    return " ".join(text.replace("|", "\\|").split())
