"""What `bench` measured."""

from __future__ import annotations

from typing import Any

from ...checks.verdicts import Verdict
from ...speed.results import Bench, Compared, Held, Operations, Ratio
from ..table import Cell, Table, table

_NONE = "-"


def latency_table(result: Bench) -> Table:
    """Return a row for each candidate and batch."""
    rows = [
        [
            str(row["batch"]),
            row["name"],
            *(_ms(row["latency_ms"].get(key)) for key in ("p50", "p90", "p95", "p99")),
            str(row["n"]),
            f"{row['tiles_per_s']:.2f}",
        ]
        for row in result["results"]
    ]
    return table(["batch", "what", "p50 ms", "p90", "p95", "p99", "n", "tiles/s"], rows)


def ratio_table(result: Bench) -> Table:
    """Return a row a ratio to something that was timed beside it."""
    rows = [[str(row["batch"]), row["name"], *_ratio(ratio)] for row in result["results"] for ratio in row["ratios"]]
    return table(["batch", "what", "times (median)", "of"], rows)


def stream_table(result: Bench) -> Table:
    """Return a row a batch of the throughput hint."""
    rows = [
        [str(row["batch"]), row["name"], str(row["requests"]), f"{row['tiles_per_s']:.2f}", str(row["n"])]
        for row in result["throughput"]
    ]
    return table(["batch", "what", "side by side", "tiles/s", "n"], rows)


def fresh_table(result: Bench) -> Table:
    """Return a row for each candidate with a file: cold start, and memory at the largest batch."""
    header = ["what", "cold start s", "with model cache s", "peak memory MB", "of it before loading", "size MB"]
    rows = []
    for name, size in result["size_bytes"].items():
        starts = {
            sample["cache"]: f"{sample['total_s']:.2f}" for sample in result["cold_start"] if sample["name"] == name
        }
        memory = [sample for sample in result["memory"] if sample["name"] == name]
        largest = max(memory, key=lambda sample: sample["batch"], default=None)
        peak = [_NONE, _NONE]
        if largest is not None:
            peak = [f"{(largest['peak_bytes'] or 0) / 1e6:.0f} (batch {largest['batch']})"]
            peak.append(f"{largest['start_bytes'] / 1e6:.0f}")
        rows.append([name, starts.get(False, _NONE), starts.get(True, _NONE), *peak, f"{size / 1e6:.1f}"])
    return table(header, rows)


def device_table(result: Bench) -> Table:
    """Return a row a report of a device."""
    rows = [
        [
            row["name"],
            row["device"],
            row["ran_with"],
            _ms(row["latency_ms"]["p50"]),
            _ms(row["latency_ms"]["p99"]),
            *(_ratio(row["ratio"]) if row["ratio"] else [_NONE, _NONE]),
        ]
        for row in result["devices"]
    ]
    return table(["what", "device", "ran with", "p50 ms", "p99 ms", "ratio", "of"], rows)


def baseline_table(compared: Compared) -> Table:
    """Return a row a bundle and batch that was compared with an earlier result."""
    rows: list[list[Cell]] = [
        [
            row["name"],
            str(row["batch"]),
            row["of"],
            f"{row['baseline']:.3f}",
            f"{row['now']:.3f}",
            f"{row['times']:.3f}",
            f"<= {compared['worse']}",
            *_sample(row),
        ]
        for row in compared["rows"]
    ]
    header = ["bundle", "batch", "of", "baseline", "now", "times", "allowed", "95 % bounds", "rounds", ""]
    return table(header, rows)


def operation_table(operations: Operations, shown: int = 12) -> Table:
    """Return a row a kind of operation, the longest first; the rest in one row."""
    rows = [
        _cells(row["type"], row["precision"], row["count"], row["ms"], row["share"])
        for row in operations["rows"][:shown]
    ]
    if rest := operations["rows"][shown:]:
        ms, share = sum(row["ms"] for row in rest), sum(row["share"] for row in rest)
        rows.append(_cells(f"{len(rest)} other kinds", "", sum(row["count"] for row in rest), ms, share))
    return table(["operation", "precision", "how many", "ms", "fraction"], rows)


def machine_line(result: Bench) -> str:
    """Say on what and how it was measured."""
    about = result["machine"]
    threads = sorted({row["threads"] for row in result["results"]})
    used = f", {threads[0]} threads" if threads else ""
    features = ", ".join(about["cpu_features"]) or "no known features"
    what = f"{about['cpu']} ({features}), {about['cores']} cores, {about['memory']}{used}"
    return f"{what}: {about['pinned']}; {result['tiles']}; warm-up {result['warm_up']}, in turn, all samples kept"


def _sample(row: Held) -> list[Cell]:
    if row["n"] is None or row["interval"] is None:
        return [_NONE, _NONE, row["passed"]]
    ends = ["?" if end is None else f"{end:.3f}" for end in row["interval"]]
    return [" to ".join(ends), str(row["n"]), Verdict(row["verdict"])]


def _cells(kind: str, precision: str, count: int, ms: float, share: float) -> list[str]:
    return [kind, precision, str(count), f"{ms:.2f}", f"{100 * share:.1f} %"]


def _ms(value: Any) -> str:
    return _NONE if value is None else f"{value:.2f}"


def _ratio(ratio: Ratio) -> list[str]:
    return [f"{ratio['p50']:.3f}", ratio["against"] + ("" if ratio["same_run"] else " (another run)")]
