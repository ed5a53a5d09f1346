"""Drift, gates, where a bundle's figures came from, and what devices reported of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...bundle.device_reports import DeviceReport, device_name
from ...checks.gates import Gate
from ...checks.results import Calibration, Drifts, GateRow, HeadroomFigures, Report, Speed
from ...checks.summary import NOT_RUN, PAIRS
from ..table import Cell, Table, table

if TYPE_CHECKING:
    from ...models.weights import WeightsFacts

DRIFT_LEGEND = (
    "quantization: program vs full-precision reference. lowering: artifact vs program. noise floor: program vs itself, "
    "its input perturbed by 1e-6, as summing in another order would. total: artifact vs reference."
)
_CALLED = {"cosine_mean": "cosine mean", "cosine_p01": "cosine 1 %", "other parts": "parameters that differ"}
_CALLED |= {"top1": "top-1", "top10": "top-10", "balanced_accuracy": "balanced accuracy"}
_UNITS = {"places": "locations"}
_MEASURED = {"drift": "{:.6f}", "parts": "{:.0f}", "speed": "{:.3f}", "loss": "{:+.4f}", "headroom": "{:.3g}"}
GATE_LEGEND = (
    "Each bound is right with 95 % confidence. Non-inferior: they say that the gate holds. Inferior: they say that it "
    "does not. Inconclusive: n is too small to tell; about how many would decide is an estimate."
)


def drift_table(drift: Drifts) -> Table:
    """Return a row a drift: tiles, cosine mean, 1st percentile, min, relative L2, neighbour overlap."""
    rows = []
    figures_of = (drift["quantization"], drift["lowering"], drift["noise_floor"], drift["total"])
    for key, figures in zip(PAIRS, figures_of, strict=True):
        title = key.replace("_", " ")
        if figures is None:
            rows.append([title, *[NOT_RUN] * 6])
            continue
        cosines = [f"{value:.6f}" for value in (figures["cosine_mean"], figures["cosine_p01"], figures["cosine_min"])]
        # Fewer than 11 tiles have no ten neighbours each.
        overlap = f"{figures['neighbour_overlap']:.3f}" if figures["neighbours"] == 10 else "-"
        rows.append([title, str(figures["tiles"]), *cosines, f"{figures['relative_l2']:.5f}", overlap])
    return table(["drift", "tiles", "cosine mean", "1 %", "min", "rel. L2", "top-10"], rows)


def gate_table(gates: Sequence[GateRow], words: Mapping[str, str] | None = None) -> Table:
    """Return a row a gate, JSON-able ones, its verdict last; `words` say what figures and what they are of are called.

    A gate without a sample, as in results of 0.1.0, is ok or failed.
    """
    parsed, called = [Gate.from_json(gate) for gate in gates], _CALLED | dict(words or {})
    lost = bool(parsed) and all(gate.kind == "loss" for gate in parsed)
    rows = [
        (
            called.get(gate.figure, gate.figure),
            called.get(gate.of, gate.of),
            _number(gate.kind, gate.measured),
            f"{'<=' if gate.at_most else '>='} {gate.bound}",
            *_sample(gate),
            gate.passed if gate.n is None else gate.verdict,
        )
        for gate in parsed
    ]
    measured = ("lost", "allowed") if lost else ("measured", "required")
    return table(["gate", "of", *measured, "95 % bounds", "n", "n needed", "verdict"], rows)


def _sample(gate: Gate) -> tuple[str, str, str]:
    """Say between which bounds a figure lies, of how many, and how many would decide."""
    if gate.n is None or gate.interval is None:
        return "", "", ""
    ends = [_number(gate.kind, end) if math.isfinite(end) else "?" for end in gate.interval]
    needed = "" if gate.n_to_decide is None else f"about {gate.n_to_decide:,}"
    unit = _UNITS.get(gate.unit, gate.unit)
    unit = unit.removesuffix("s") if gate.n == 1 else unit
    return " to ".join(ends), f"{gate.n:,} {unit}", needed


def _number(kind: str, value: float) -> str:
    """Return a gate's figure as text; a loss that rounds to nothing has no sign."""
    return unsigned_zero(_MEASURED[kind].format(value))


def unsigned_zero(text: str) -> str:
    """Return a number as text without the sign of a zero: `-0.0000` and `+0.0000` are `0.0000`."""
    return text if text.strip("+-0.") else text.lstrip("+-")


def fact_table(report: Report) -> Table:
    """Return where the figures came from: model, weights, tiles, runtimes, cost."""
    calibration, cost, contract = report["calibration"], report["cost"], report["contract"]
    also = ", and patch tokens" if contract["tokens"] else ""
    qad = report["qad"]
    trained = [["then trained", _trained(qad)]] if qad else []
    rows = [
        ["model", f"{report['model']['name']} ({report['model']['licence']})"],
        ["weights", _weights(report["weights"])],
        ["embedding", f"{contract['embedding']}, {contract['dim']} numbers{also}"],
        ["calibrated on", _calibrated(calibration) if calibration else "needs none"],
        *([["kept out of INT8", ", ".join(kept)]] if (kept := report["recipe"]["quantize"].get("keep")) else []),
        *trained,
        ["measured on", f"{report['held_out']['count']} golden tiles of {report['held_out']['name']}"],
        ["reference", report["reference"]],
        *([["FP16 headroom", _headroom(headroom)]] if (headroom := report.get("headroom")) else []),
        ["artifact", f"{report['artifact']['file']}, {report['artifact']['size_bytes'] / 1e6:.1f} MB"],
        ["artifact run with", report["ran_with"] or NOT_RUN],
        *([["speed", _speed(report["speed"])]] if report["recipe"]["precision"]["linear"] == "int8" else []),
        [
            "export took",
            f"{sum(cost['seconds'].values()):.1f} s, peak memory {cost['peak_memory_bytes'] / 2**30:.2f} GiB",
        ],
    ]
    return table(["", ""], rows)


def _weights(weights: WeightsFacts) -> str:
    stored = f", {weights['precision']}" if "precision" in weights and not weights["random"] else ""
    return f"{weights['source']}{stored}, sha256 {weights['sha256'][:16]}"


def _calibrated(calibration: Calibration) -> str:
    looks = f", and {calibration['looks']} synthetic ones" if calibration.get("looks") else ""
    others = ", ".join(f"{count} {kind}" for kind, count in calibration.get("left_out", {}).items())
    return f"{calibration['count']} tiles of {calibration['name']}{looks}{f'; not taken: {others}' if others else ''}"


def _speed(speed: Speed | None) -> str:
    """Say what INT8 takes beside full precision in the same runtime."""
    if speed is None:
        return "not measured"
    int8, full = speed["int8_ms"]["p50"], speed["full_precision_ms"]["p50"]
    return f"{int8:.1f} ms, FP32 {full:.1f} ms (batch 1, {speed['threads']} threads, n = {speed['n']} in turn)"


def _headroom(headroom_of: HeadroomFigures) -> str:
    """Say which values are nearest to FP16's largest number."""
    near = "; ".join(
        f"{peak['headroom']:.3g} x at {peak['place'] or 'input'} ({peak['operation']})"
        for peak in headroom_of["nearest"][:3]
    )
    moved = (
        f"; rescaled, without another result: {', '.join(headroom_of['rescaled'])}" if headroom_of["rescaled"] else ""
    )
    return f"{near}{moved}"


def _trained(qad: Mapping[str, float]) -> str:
    """Say what quantization-aware distillation did, as 1 - mean cosine on the tiles that judged it."""
    if not qad["best_step"]:
        return f"{qad['steps']} steps, none better than before (1 - cosine {qad['drift_before']:.2e}): left as it was"
    change = f"1 - cosine {qad['drift_before']:.2e} to {qad['drift_after']:.2e}"
    return f"{qad['best_step']} of {qad['steps']} steps, {change} on {qad['validated_on']} tiles not trained on"


def device_table(reports: Sequence[DeviceReport]) -> Table:
    """Return a row a device's report: drift to full precision and to the program, latency, and its own verdict."""
    rows: list[Sequence[Cell]] = []
    for report in reports:
        total, lowering, latency = report["drift"]["total"], report["drift"]["lowering"], report.get("latency")
        cosines = [f"{value:.6f}" for value in (total["cosine_mean"], total["cosine_p01"], lowering["cosine_mean"])]
        times = [f"{latency['p50_ms']:.2f}", f"{latency['p99_ms']:.2f}"] if latency else ["not measured"] * 2
        rows.append(
            (
                report["measured_at"],
                device_name(report["device"]),
                report["ran_with"],
                *cosines,
                *times,
                report["passed"],
            )
        )
    header = ["measured", "device", "ran with", "cosine mean", "1 %", "lowering", "p50 ms", "p99 ms", ""]
    return table(header, rows)
