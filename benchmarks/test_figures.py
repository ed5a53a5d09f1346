"""The figures edgepath promises, as ratios within one run; each is written to build/benchmarks/figures.json.

H0-mini's architecture, random weights, batch 1, 2 threads, calibrated on 64 tiles.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REAL, Run, in_turn

import edgepath
from edgepath.tiles import TileSource

Record = Callable[[str, Any], None]
Bundles = Callable[[str], edgepath.Bundle]


@pytest.fixture(scope="session")
def times(runners: Mapping[str, Run], other_tiles: TileSource, record: Record) -> dict[str, np.ndarray]:
    """Milliseconds a call at batch 1, everything in turn; warm-up 5, n = 40, all kept."""
    measured = in_turn(runners, other_tiles.read([0]))
    record(
        "latency_ms, batch 1, warm-up 5, n = 40 in turn",
        {
            name: dict(zip(("p50", "p90", "p95", "p99"), np.percentile(values, (50, 90, 95, 99)).round(2), strict=True))
            for name, values in measured.items()
        },
    )
    return measured


@pytest.mark.parametrize(
    ("ours", "theirs", "at_most"),
    [
        ("openvino-int8", "OpenVINO FP32", 0.50),
        ("openvino-int8", "NNCF default INT8 (OpenVINO)", 1.25),
        ("onnx-int8", "onnx-fp32", 0.50),
    ],
)
def test_latency_ratio(times: dict[str, np.ndarray], ours: str, theirs: str, at_most: float, record: Record) -> None:
    ratio = float(np.median(times[ours] / times[theirs]))
    record(f"latency ratio {ours} / {theirs}", round(ratio, 3))
    assert ratio <= at_most


def test_every_linear_runs_in_int8(bundles: Bundles, record: Record) -> None:
    """As OpenVINO's execution graph says: 48 linears, one of them split in two by the CLS-only last block."""
    with bundles("openvino-int8").runner(threads=2) as runner:
        counts = runner.linears()  # type: ignore[attr-defined]
    record("openvino-int8 linears by execution precision", counts)
    assert counts == {"i8": 49}


@pytest.mark.parametrize(
    ("target", "figure", "at_least"),
    [
        ("openvino-int8", "cosine_mean", 0.998),
        ("onnx-int8", "cosine_mean", 0.998),
        ("jetson-int8", "cosine_mean", 0.998),
        ("openvino-fp16", "cosine_p01", 0.9999),
        ("jetson-fp16", "cosine_p01", 0.9999),
    ],
)
def test_drift_on_tissue_that_calibration_never_saw(
    target: str, figure: str, at_least: float, bundles: Bundles, other_tiles: TileSource, record: Record
) -> None:
    sources = [REAL / "cmu1", REAL / "osteosarcoma"] if REAL.is_dir() else "synthetic:110:1"
    result = edgepath.verify(bundles(target), tiles=sources, weights="random", threads=2, device="cpu")
    total = result["tiles"]["drift"]["total"]
    record(f"{target} drift on {total['tiles']} other tiles", result["tiles"]["drift"])
    assert total[figure] >= at_least


@pytest.mark.parametrize("target", ["openvino-int8", "onnx-int8", "jetson-int8", "coreml-int8"])
def test_int8_artifact_size(target: str, bundles: Bundles, record: Record) -> None:
    size_mb = bundles(target).manifest["artifact"]["size_bytes"] / 1e6
    record(f"{target} artifact MB", round(size_mb, 1))
    assert size_mb <= 95


def test_export_time_and_memory(tmp_path: Path, record: Record) -> None:
    command = Path(sys.executable).with_name("edgepath")
    source = str(REAL / "oral_oscc") if REAL.is_dir() else "synthetic:96"
    arguments = ["--target", "openvino-int8", "--model", "h0-mini", "--weights", "random", "--calibration", source]
    start = time.perf_counter()
    done = subprocess.run(
        [command, "export", *arguments, "--calibration-tiles", "64", "--out", tmp_path, "--device", "cpu", "--json"],
        capture_output=True,
        text=True,
        env=os.environ | {"EDGEPATH_CACHE": str(tmp_path / "cache")},  # no reference embedding from an earlier export
    )
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)["cost"]
    peak_gb = cost["peak_memory_bytes"] / 1e9  # its own: this process's children begin at the size of this process
    figures = {"seconds": round(seconds, 1), "peak_gb": round(peak_gb, 2), "stages": cost["seconds"]}
    record("export openvino-int8, 64 tiles", figures)
    assert seconds <= 120
    assert peak_gb <= 6


def test_help_is_quick(record: Record) -> None:
    command = Path(sys.executable).with_name("edgepath")
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([command, "--help"], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    record("edgepath --help seconds, median of 7", round(float(np.median(seconds)), 3))
    assert np.median(seconds) <= 0.5
