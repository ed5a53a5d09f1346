"""What the suites share: H0-mini's architecture with random weights, exported once, and runners side by side.

Bundles land in `build/benchmarks` and are used again while they are of this version; delete the folder to export anew.
Tiles are the real ones beside the checkout where they are, else synthetic; every result says which.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgepath
from edgepath.tiles import TileSource

THREADS = 2
CHECKOUT = Path(__file__).resolve().parent.parent
REAL = CHECKOUT.parent / "shared" / "tiles"
BUILD = CHECKOUT / "build" / "benchmarks"
RESULTS = BUILD / "figures.json"

Run = Callable[[np.ndarray], object]


@pytest.fixture(scope="session")
def calibration() -> TileSource:
    """64 tiles to calibrate on: oral tissue where the real tiles are here."""
    source = edgepath.open_tiles(REAL / "oral_oscc" if REAL.is_dir() else "synthetic:256")
    return source.select([i * len(source) // 64 for i in range(64)])


@pytest.fixture(scope="session")
def other_tiles() -> TileSource:
    """Tiles of other organs and scanners than calibration saw: skin and bone, else synthetic ones of another seed."""
    if not REAL.is_dir():
        return edgepath.open_tiles("synthetic:110:1")
    return edgepath.open_tiles([REAL / "cmu1", REAL / "osteosarcoma"])


@pytest.fixture(scope="session")
def bundles(calibration: TileSource) -> Callable[[str], edgepath.Bundle]:
    """Return the bundle of a target for H0-mini with random weights, exported at first use."""

    def bundle(target: str) -> edgepath.Bundle:
        folder = BUILD / f"h0-mini-{target}"
        if folder.exists():
            found = edgepath.open_bundle(folder)
            if found.manifest["versions"]["edgepath"] == edgepath.__version__:
                return found
        source = str(REAL / "oral_oscc") if REAL.is_dir() else "synthetic:256"
        return edgepath.export(
            target,
            model="h0-mini",
            weights="random",
            calibration=source,
            calibration_tiles=64,
            out=BUILD,
            force=True,
            device="cpu",
        ).bundle

    return bundle


@pytest.fixture(scope="session")
def runners(bundles: Callable[[str], edgepath.Bundle], calibration: TileSource) -> Iterator[dict[str, Run]]:
    """What is compared, by name, all with the same number of threads and all loaded together."""
    import openvino
    import torch

    from edgepath.backends import reference
    from edgepath.models import find_model
    from edgepath.weights import load_model

    torch.set_num_threads(THREADS)
    with ExitStack() as stack:
        loaded: dict[str, Run] = {}
        for target in ("openvino-int8", "openvino-fp16", "onnx-int8", "onnx-fp32"):
            loaded[target] = stack.enter_context(bundles(target).runner(threads=THREADS))
        graph = openvino.Core().read_model(bundles("onnx-fp32").artifact)
        loaded["OpenVINO FP32"] = _openvino(graph)
        loaded["NNCF default INT8 (OpenVINO)"] = _openvino(_nncf(graph, calibration))
        vit, spec, _ = load_model(find_model("h0-mini"), "random")
        loaded["torch eager FP32"] = stack.enter_context(reference.Runner(vit, spec.mean, spec.std))
        yield loaded


@pytest.fixture(scope="session")
def record() -> Callable[[str, Any], None]:
    """Keep a measured figure, with the machine it was measured on, in `build/benchmarks/figures.json`."""

    def keep(name: str, value: Any) -> None:
        known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        known |= {"schema": 1, "machine": _machine(), name: value}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    return keep


def in_turn(
    runners: Mapping[str, Run], tiles: np.ndarray, *, warm_up: int = 5, rounds: int = 40
) -> dict[str, np.ndarray]:
    """Time one call of each runner after the other, `rounds` times over: milliseconds, float64 (rounds,) by name.

    A round is short, so that a machine that slows down slows all of them; compare round by round.
    """
    for run in runners.values():
        for _ in range(warm_up):
            run(tiles)
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            start = time.perf_counter()
            run(tiles)
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: np.array(values) for name, values in times.items()}


def _openvino(model: Any) -> Run:
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda tiles: next(iter(request.infer({0: tiles}).values()))


def _nncf(graph: Any, calibration: TileSource) -> Any:
    """Quantize the same full-precision graph the way NNCF's documentation does for a transformer."""
    import nncf

    tiles = [tile[None] for tile in calibration.read()]
    kind = nncf.ModelType.TRANSFORMER
    return nncf.quantize(graph.clone(), nncf.Dataset(tiles), model_type=kind, subset_size=len(tiles))


def _machine() -> dict[str, Any]:
    from edgepath.doctor import diagnose, versions

    about = diagnose().machine
    return {
        "processor": about["processor"],
        "with": about["with"],
        "cores": os.cpu_count(),
        "memory": about["memory"],
        "system": platform.platform(),
        "threads": THREADS,
        "versions": versions(),
    }
