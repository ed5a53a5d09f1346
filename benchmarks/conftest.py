"""What the suites share: H0-mini's architecture with random weights, exported once, and all that it is compared with.

Bundles and peers land in `build/benchmarks` and are used again while they are of this version; delete the folder to
make them anew. Tiles are the real ones beside the checkout where they are, else synthetic; every result says which.
`EDGEPATH_BENCH_MODEL=demo` takes the small model instead, to see the suites run.
"""

from __future__ import annotations

import copy
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from baseline import kept, regression
from outliers import inject

import edgepath
from edgepath.models import reference
from edgepath.models.catalogue import find_model
from edgepath.models.weights import load_model
from edgepath.recipes.recipe import find_recipe
from edgepath.speed import peers
from edgepath.speed.contenders import (
    Contender,
    build_full_precision,
    bundle_contender,
    file_contender,
    full_model,
    torch_contenders,
)
from edgepath.speed.pinning import pinned
from edgepath.tiles.source import TileSource

THREADS = 2
SECONDS = 6.0
"""For each contender and batch; a round of all of them goes on to its end, and there are at least three."""
MODEL = os.environ.get("EDGEPATH_BENCH_MODEL", "h0-mini")
CHECKOUT = Path(__file__).resolve().parent.parent
REAL = CHECKOUT.parent / "shared" / "tiles"
BUILD = CHECKOUT / "build" / "benchmarks"
RESULTS = BUILD / ("figures.json" if MODEL == "h0-mini" else f"figures-{MODEL}.json")
SOURCE = str(REAL / "oral_oscc") if REAL.is_dir() else "synthetic:256"
TARGETS = ("openvino-int8", "openvino-int8-bf16", "openvino-int8-cls", "openvino-fp16", "onnx-int8", "onnx-fp32")
FP32 = "OpenVINO FP32"

Bundles = Callable[..., edgepath.Bundle]
Record = Callable[[str, Any], None]
KEPT_RESULTS = Path(__file__).resolve().parent / "results"
_said: list[str] = []
_regressions: list[str] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print every ratio, for a passed test says nothing else, and then what is more than 10 % worse than it was."""
    for line in _said:
        terminalreporter.write_line(line)
    for line in _regressions:
        terminalreporter.write_line(f"REGRESSION {line}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for a ratio that is more than 10 % worse than the one kept of a machine of this kind."""
    if _regressions and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def calibration() -> TileSource:
    """64 tiles to calibrate on: oral tissue where the real tiles are here."""
    source = edgepath.open_tiles(SOURCE)
    return source.select([i * len(source) // 64 for i in range(64)])


@pytest.fixture(scope="session")
def other_tiles() -> TileSource:
    """Tiles of other organs and scanners than calibration saw: skin and bone, else synthetic ones of another seed."""
    if not REAL.is_dir():
        return edgepath.open_tiles("synthetic:110:1")
    return edgepath.open_tiles([REAL / "cmu1", REAL / "osteosarcoma"])


@pytest.fixture(scope="session")
def bundles() -> Bundles:
    """Return the bundle of a target, exported at first use: with random weights unless others are given."""

    def bundle(target: str, *, model: str = MODEL, weights: str | Path | None = "random", kind: str = "") -> Any:
        out = BUILD / (kind or "plain")
        folder = out / f"{model}-{target}"
        if folder.exists():
            found = edgepath.open_bundle(folder)
            if found.manifest["versions"]["edgepath"] == edgepath.__version__:
                return found
        return edgepath.export(
            target,
            model=model,
            weights=weights,
            calibration=SOURCE,
            calibration_tiles=64,
            out=out,
            force=True,
            device="cpu",
        ).bundle

    return bundle


@pytest.fixture(scope="session")
def contenders(bundles: Bundles, calibration: TileSource) -> Iterator[dict[str, Contender]]:
    """All that is compared, by name, with the same cores and threads, and loaded together."""
    tiles = calibration.read()
    with pinned(THREADS), ExitStack() as stack:
        loaded = {target: bundle_contender(bundles(target), target, THREADS, stack) for target in TARGETS}
        model = full_model(bundles("openvino-int8"), "random")
        whole = built("whole.xml", lambda folder: build_full_precision(model.folded(), _recipe("openvino"), folder))
        loaded[FP32] = file_contender(FP32, "full precision", "openvino", whole, THREADS, stack)
        for backend, full in (("openvino", whole), ("onnxruntime", bundles("onnx-fp32").artifact)):
            for name in peers.OF[backend]:
                path = peer(name, full, tiles, "plain")
                loaded[name] = file_contender(name, "peer", backend, path, THREADS, stack)
        for one in torch_contenders(model, THREADS, stack):
            loaded[one.name] = one
        yield loaded


@pytest.fixture(scope="session")
def with_outliers() -> Path:
    """The model's random weights with outliers, as a file."""
    from safetensors.torch import save_file

    path = BUILD / f"{MODEL}-outliers.safetensors"
    vit, spec, _ = load_model(find_model(MODEL), "random")
    tiles = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    before = reference.Runner(copy.deepcopy(vit), spec.mean, spec.std)(tiles)
    after = reference.Runner(inject(vit), spec.mean, spec.std)(tiles)
    assert np.allclose(before, after, atol=2e-3 * np.abs(before).max()), "injected outliers changed the function"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in vit.state_dict().items()}, path)
    return path


def peer(name: str, whole: Path, tiles: np.ndarray, kind: str) -> Path:
    """Return a peer's artifact, made at first use."""
    return built(f"{kind}/{name}", lambda folder: peers.build_peer(name, whole, tiles, folder))


def built(name: str, build: Callable[[Path], Path]) -> Path:
    """Return the file that `build` makes in a folder of its own, made once for a version of edgepath."""
    folder = BUILD / "peers" / edgepath.__version__ / MODEL / name
    done = folder / "done.txt"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        done.write_text(build(folder).name, encoding="utf-8")
    return folder / done.read_text(encoding="utf-8")


def _recipe(backend: str) -> edgepath.Recipe:
    return find_recipe({"openvino": "openvino-int8", "onnxruntime": "onnx-int8"}[backend])


@pytest.fixture(scope="session")
def record() -> Record:
    """Keep a measured figure, with the machine it was measured on, in `build/benchmarks/figures.json`."""

    machine = _machine()
    before = kept(machine["with"], KEPT_RESULTS) if MODEL == "h0-mini" else {}

    def keep(name: str, value: Any) -> None:
        known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        known |= {"schema": 1, "model": f"{MODEL}, random weights", "machine": machine, name: value}
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        if isinstance(value, float):
            _said.append(f"{name}: {value}")
            if worse := regression(name, value, before):
                _regressions.append(worse)

    return keep


def _machine() -> dict[str, Any]:
    from edgepath.backends.doctor import diagnose
    from edgepath.machine.packages import versions

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
