"""Drift, gates, where a bundle's figures came from, and what devices reported of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...bundle.device_reports import device_name
from ...checks.gates import Gate
from ...checks.results import Drifts, Facts, GateRow, Report
from ...checks.summary import NOT_RUN, PAIRS
from ..table import Table, table

DRIFT_LEGEND = (
    "quantization: program vs full-precision reference. lowering: artifact vs program. noise floor: program vs itself, "
    "its input moved by 1e-6, as summing in another order would. total: artifact vs reference."
)
_MEASURED = {"drift": "{:.6f}", "parts": "{:.0f}", "speed": "{:.6f}", "loss": "{:+.4f}"}


def drift_table(drift: Drifts) -> Table:
    """Return a row a drift: tiles, cosine mean, 1st percentile, min, relative L2, neighbour overlap."""
    rows = []
    found = (drift["quantization"], drift["lowering"], drift["noise_floor"], drift["total"])
    for key, figures in zip(PAIRS, found, strict=True):
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
    """Return a row a gate, JSON-able ones; `words` say what figures and what they are of are called."""
    found, called = [Gate.from_json(gate) for gate in gates], dict(words or {})
    lost = bool(found) and all(gate.kind == "loss" for gate in found)
    rows = [
        (
            called.get(gate.figure, gate.figure),
            called.get(gate.of, gate.of),
            _MEASURED[gate.kind].format(gate.measured),
            f"{'<=' if gate.at_most else '>='} {gate.bound}",
            gate.passed,
        )
        for gate in found
    ]
    return table(["gate", "of", *(("lost", "allowed") if lost else ("measured", "required")), ""], rows)


def fact_table(report: Report) -> Table:
    """Return where the figures came from: model, weights, tiles, runtimes, cost."""
    calibration, cost, contract = report["calibration"], report["cost"], report["contract"]
    also = ", and patch tokens" if contract["tokens"] else ""
    qad = report["qad"]
    trained = [["then trained", _trained(qad)]] if qad else []
    tiles = "further tiles" if calibration else "tiles"
    rows = [
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
    return table(["", ""], rows)


def _calibrated(calibration: Facts) -> str:
    looks = f", and {calibration['looks']} procedural ones" if calibration.get("looks") else ""
    return f"{calibration['count']} tiles of {calibration['name']}{looks}"


def _speed(speed: Facts | None) -> str:
    """Say what INT8 takes beside full precision in the same runtime."""
    if speed is None:
        return "not measured"
    int8, full = speed["int8_ms"]["p50"], speed["full_precision_ms"]["p50"]
    return f"{int8:.1f} ms, FP32 {full:.1f} ms (batch 1, {speed['threads']} threads, n = {speed['n']} in turn)"


def _trained(qad: Facts) -> str:
    """Say what quantization-aware distillation did, as 1 - mean cosine on the tiles that judged it."""
    if not qad["best_step"]:
        return f"{qad['steps']} steps, none better than before (1 - cosine {qad['drift_before']:.2e}): left as it was"
    change = f"1 - cosine {qad['drift_before']:.2e} to {qad['drift_after']:.2e}"
    return f"{qad['best_step']} of {qad['steps']} steps, {change} on {qad['validated_on']} tiles not trained on"


def device_table(reports: Sequence[Facts]) -> Table:
    """Return a row a device's report: drift to full precision and to the program, latency, and its own verdict."""
    rows = []
    for one in reports:
        total, lowering, latency = one["drift"]["total"], one["drift"]["lowering"], one["latency"]
        cosines = [f"{value:.6f}" for value in (total["cosine_mean"], total["cosine_p01"], lowering["cosine_mean"])]
        times = [f"{latency[key]:.2f}" for key in ("p50_ms", "p99_ms")]
        rows.append((one["measured_at"], device_name(one["device"]), one["ran_with"], *cosines, *times, one["passed"]))
    header = ["measured", "device", "ran with", "cosine mean", "1 %", "lowering", "p50 ms", "p99 ms", ""]
    return table(header, rows)
