"""The figures edgepath promises, as ratios within one run; each is written to build/benchmarks/figures.json.

H0-mini's architecture, random weights, 2 threads, calibrated on 64 tiles.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FP32, REAL, SECONDS, THREADS, Bundles, Record
from roofline import roofline

import edgepath
from edgepath.backends.runners import openvino
from edgepath.speed import fresh, peers
from edgepath.speed.contenders import Contender
from edgepath.speed.operations import operations
from edgepath.speed.timing import in_turn, percentiles, ratio
from edgepath.tiles.source import TileSource

WARM_UP = {1: 3, 4: 3, 16: 1}  # calls by batch size: one of 16 tiles is seconds of work
Times = Callable[[int], Mapping[str, np.ndarray]]


@pytest.fixture(scope="session")
def times(contenders: Mapping[str, Contender], other_tiles: TileSource, record: Record) -> Times:
    """Milliseconds a call at a batch size, everything in turn, all samples kept."""
    known: dict[int, dict[str, np.ndarray]] = {}

    def measured(batch: int) -> dict[str, np.ndarray]:
        if batch not in known:
            tiles = other_tiles.read(range(batch))
            runs = {name: partial(one.run, tiles) for name, one in contenders.items()}
            known[batch] = found = in_turn(runs, seconds=SECONDS, warm_up=WARM_UP[batch])
            n = len(next(iter(found.values())))
            latency = {name: percentiles(samples) for name, samples in found.items()}
            record(f"latency, batch {batch}", {"n": n, "warm_up": WARM_UP[batch], "ms": latency})
        return known[batch]

    return measured


@pytest.mark.parametrize(
    ("ours", "theirs", "at_most"),
    [
        ("openvino-int8", FP32, 0.50),
        ("openvino-int8", peers.NNCF, 0.80),
        ("openvino-int8", "torch eager FP32", 0.30),
        ("openvino-int8-bf16", peers.NNCF, 0.80),  # as openvino-int8 where the CPU has no BF16
        ("openvino-int8-bf16", "torch eager FP32", 0.20),
        ("onnx-int8", "onnx-fp32", 0.50),
        ("onnx-int8", peers.STATIC, 0.65),
    ],
)
def test_latency_ratio(times: Times, ours: str, theirs: str, at_most: float, record: Record) -> None:
    found = ratio(times(1)[ours], times(1)[theirs])
    record(f"latency ratio {ours} / {theirs}", round(found, 3))
    assert found <= at_most


def test_rounds_are_fair(contenders: Mapping[str, Contender], other_tiles: TileSource, record: Record) -> None:
    """An artifact that is entered twice beside one of ONNX Runtime, whose threads spin, ties with itself."""
    tile, twice = other_tiles.read([0]), contenders["openvino-int8"].run
    runs = {
        name: partial(run, tile) for name, run in (("a", twice), ("ort", contenders["onnx-int8"].run), ("b", twice))
    }
    times = in_turn(runs, rounds=60, warm_up=3)
    tie = float(np.median(times["a"]) / np.median(times["b"]))
    record("openvino-int8 over itself, beside ONNX Runtime", round(tie, 3))
    assert abs(tie - 1) <= 0.03


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_int8_beats_every_peer_of_its_runtime(times: Times, batch: int, record: Record) -> None:
    """All ratios at a batch size, of both INT8 artifacts to everything that was timed."""
    found = times(batch)
    ratios = {
        f"{ours} / {theirs}": round(ratio(found[ours], found[theirs]), 3)
        for ours in ("openvino-int8", "onnx-int8")
        for theirs in found
        if theirs != ours
    }
    record(f"latency ratios, batch {batch}", ratios)
    behind = [
        f"{ours} / {theirs}"
        for ours, backend in (("openvino-int8", "openvino"), ("onnx-int8", "onnxruntime"))
        for theirs in peers.OF[backend]
        if ratios[f"{ours} / {theirs}"] > 1
    ]
    assert not behind


def test_many_tiles_at_a_time_pay(bundles: Bundles, other_tiles: TileSource, record: Record) -> None:
    """Tiles a second at batch 16, as one call and as streams side by side, over those of single tiles."""
    artifact, batch = bundles("openvino-int8").artifact, 16
    many, one = other_tiles.read(range(batch)), other_tiles.read([0])
    with (
        openvino.Runner(artifact, threads=THREADS) as calls,
        openvino.Runner(artifact, threads=THREADS, hint="throughput") as streams,
    ):
        requests = streams.requests()
        runs: dict[str, Callable[[], object]] = {
            "single": partial(calls, one),
            "batch": partial(calls, many),
            "streams": partial(streams.stream, [many] * requests),
        }
        found = in_turn(runs, seconds=2 * SECONDS, warm_up=1)
    gains = {"batch": batch * ratio(found["single"], found["batch"])}
    gains["streams"] = batch * requests * ratio(found["single"], found["streams"])
    record("throughput of openvino-int8 at batch 16 over 1 / latency at batch 1, by how", gains)
    record("throughput ratio openvino-int8, batch 16 / single tiles", round(max(gains.values()), 3))
    assert max(gains.values()) >= 1.15


@pytest.mark.parametrize(("ours", "whole"), [("openvino-int8", FP32), ("onnx-int8", "onnx-fp32")])
def test_cold_start_and_memory(ours: str, whole: str, contenders: Mapping[str, Contender], record: Record) -> None:
    """In fresh processes; INT8 takes less memory than full precision in the same runtime, and loads about as soon."""
    found = {}
    for name in (ours, whole):
        one = contenders[name]
        assert one.artifact is not None
        given = (name, one.backend, one.artifact)
        starts = fresh.cold_starts(*given, size=224, threads=THREADS, times=3)
        memory = fresh.peak_memory(*given, size=224, threads=THREADS, batches=[1])
        found[name] = (starts, memory)
        record(f"cold start of {name}", starts)
        record(f"peak memory of {name}", memory)
        record(f"size of {name}, bytes", one.size_bytes)
    assert (found[ours][1][0]["peak_bytes"] or 0) < (found[whole][1][0]["peak_bytes"] or 0)
    assert found[ours][0][0]["load_s"] < found[whole][0][0]["load_s"] + 1.0


def test_every_linear_runs_in_int8(bundles: Bundles, record: Record) -> None:
    """As OpenVINO's execution graph says: 48 linears, of which 36 more are cut off."""
    with bundles("openvino-int8").runner(threads=2) as runner:
        counts = runner.linears()  # type: ignore[attr-defined]
    record("openvino-int8 linears by execution precision", counts)
    assert counts == {"i8": 84}


def test_most_of_the_time_is_what_openvino_needs_to_multiply(
    contenders: Mapping[str, Contender], bundles: Bundles, other_tiles: TileSource, record: Record
) -> None:
    """The roofline: multiply-adds of a tile at its kernels' peaks over the time it takes, and where the time goes."""
    tile, name = other_tiles.read([0]), "openvino-int8"
    one = contenders[name]
    found = roofline({name: (bundles(name), one)}, tile, THREADS, seconds=2 * SECONDS)
    assert one.artifact is not None
    record("roofline", found)
    record(f"operations of {name}", operations(one.backend, one.artifact, tile, THREADS))
    record(f"of its kernels' peak, {name}", found["bundles"][name]["of_peak"])
    assert found["bundles"][name]["of_peak"] > 0.75


@pytest.mark.long
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
    assert result["tiles"] is not None
    drift: Mapping[str, Any] = result["tiles"]["drift"]
    record(f"{target} drift on {drift['total']['tiles']} other tiles", drift)
    assert drift["total"][figure] >= at_least


@pytest.mark.parametrize(
    "target",
    ["openvino-int8", "onnx-int8", *(pytest.param(t, marks=pytest.mark.long) for t in ("jetson-int8", "coreml-int8"))],
)
def test_int8_artifact_size(target: str, bundles: Bundles, record: Record) -> None:
    size_mb = bundles(target).manifest["artifact"]["size_bytes"] / 1e6
    record(f"{target} artifact MB", round(size_mb, 1))
    assert size_mb <= 95


def test_help_is_quick(record: Record) -> None:
    """Beside a bare import of the two libraries that it is written with, in turn."""
    commands: tuple[list[Path | str], ...] = (
        [Path(sys.executable).with_name("edgepath"), "--help"],
        [sys.executable, "-c", "import typer, rich"],
    )
    seconds = np.zeros((15, len(commands)))
    for row in seconds:
        for i, command in enumerate(commands):
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True)
            row[i] = time.perf_counter() - start
    ours, bare = np.median(seconds, axis=0)
    ratio = float(np.median(seconds[:, 0] / seconds[:, 1]))
    figures = {
        "seconds": round(ours, 3),
        "import typer, rich": round(bare, 3),
        "ratio": round(ratio, 2),
        "n": len(seconds),
    }
    record("edgepath --help", figures)
    assert ours <= 0.45
    assert ratio <= 1.5
