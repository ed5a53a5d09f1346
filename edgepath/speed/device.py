"""What devices reported of a bundle's latency, beside a reference measured here or on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from ..bundle.bundle import Bundle
from ..bundle.device_reports import device_name, device_reports
from .baseline import Elsewhere
from .results import Device, Timed


def reported(name: str, bundle: Bundle, results: Sequence[Timed], files: Sequence[Elsewhere]) -> list[Device]:
    """Return an entry a kept report: device, runtime, latency at batch 1, and its ratio to a reference if any.

    The reference is that of a given result file (a GPU's, from `bench reference`), else PyTorch here if it was timed.
    """
    entries: list[Device] = []
    for report in device_reports(bundle):
        latency = report.get("latency")
        if latency is None:  # it was checked by an interpreter, which is not timed
            continue
        ratios = [ratio for file in files for ratio in file.ratios(name, 1, latency["p50_ms"])]
        ratios += [
            {
                "against": f"{row['name']} here",
                "kind": row["kind"],
                "p50": round(latency["p50_ms"] / row["latency_ms"]["p50"], 4),
                "same_run": False,
            }
            for row in results
            if row["kind"] == "torch eager" and row["batch"] == 1
        ]
        entries.append(
            {
                "name": name,
                "device": device_name(report["device"]),
                "ran_with": report["ran_with"],
                "measured_at": report["measured_at"],
                "batch": 1,
                "n": latency.get("n"),
                "latency_ms": {
                    "p50": latency["p50_ms"],
                    "p90": latency["p90_ms"],
                    "p95": latency["p95_ms"],
                    "p99": latency["p99_ms"],
                },
                "ratio": ratios[0] if ratios else None,
            }
        )
    return entries
