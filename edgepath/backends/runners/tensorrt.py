"""TensorRT on NVIDIA Jetson: explicit-QDQ ONNX with FP16 tensors, and the plan to build its engine on the device.

Engines do not move between GPU architectures, so the bundle holds the graph and `plan.json`; the engine is built where
it runs. It stands alone (NumPy, tensorrt and polygraphy): the same file is copied into a bundle's kit.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

STRONG_TYPING_COMPLETE = (10, 12)
# The flags of trtexec that are settings of the builder in Python; `--stronglyTyped` is one of the network.
BUILDER_FLAGS = {"--fp16": "FP16", "--int8": "INT8"}
_HOUR = 3600
BATCHES = {"min": 1, "opt": 1, "max": 16}


class Runner:
    """Embeds tiles on a Jetson: `uint8 (N, S, S, 3) -> float32 (N, D)`, as many at once as the plan allows.

    Builds the engine at first use (minutes) and keeps it in `cache`, by default `$EDGEPATH_CACHE/engines`, else
    `~/.cache/edgepath/engines`. Use it in a `with` block. Threads may call it at the same time; they are served one
    after the other. Pickled or copied, it loads the engine again, by `reopen`. Not run by edgepath's own tests: they
    have no Jetson.
    """

    def __init__(self, artifact: Path, *, cache: Path | None = None) -> None:
        self.reopen: Callable[[], Runner] = functools.partial(Runner, Path(artifact).absolute(), cache=cache)
        import tensorrt
        from polygraphy.backend.trt import TrtRunner, engine_from_bytes

        engine = prepare(tensorrt, artifact, cache=cache)
        self._runner: Any = TrtRunner(engine_from_bytes(engine.read_bytes()))
        self._runner.activate()
        self._process = os.getpid()
        self._lock = threading.Lock()  # a context computes one batch at a time, and its outputs lie in one place
        self._largest, self.size = read_plans(artifact)["shapes"]["max"][:2]
        self.runtime = f"TensorRT {tensorrt.__version__}, {gpu()}"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return every output by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, W)."""
        _check(tiles, self.size)
        parts = []
        for start in range(0, len(tiles), self._largest):
            feed = {"tiles": np.ascontiguousarray(tiles[start : start + self._largest])}
            if self._process != os.getpid():
                raise RuntimeError("this runner was opened before a fork, which CUDA does not outlive; open one here")
            with self._lock:
                if self._runner is None:
                    raise RuntimeError("this runner is closed; open another")
                parts.append({name: np.array(value) for name, value in self._runner.infer(feed).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def __reduce__(self) -> tuple[Callable[[], Runner], tuple[()]]:
        return self.reopen, ()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process == os.getpid():
            with self._lock:
                if self._runner is not None:
                    self._runner.deactivate()
                self._runner = None


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        given = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {given}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")


def prepare(trt: Any, artifact: Path, *, cache: Path | None = None) -> Path:
    """Return the file of `artifact`'s engine for this GPU and this TensorRT (`trt` is its module), built if need be.

    Raises OSError without an NVIDIA driver, where TensorRT is too old or the GPU lacks a format, RuntimeError where the
    engine cannot be built.
    """
    require_capability(artifact)
    path = engine_file(artifact, trt.__version__, gpu(), cache)
    if not path.exists():
        plans = read_plans(artifact)
        engine = serialize(trt, artifact, pick_plan(plans["plans"], trt.__version__), plans["shapes"])
        _write(path, engine)
    return path


def read_plans(artifact: Path) -> dict[str, Any]:
    """Return what `plan.json` beside an artifact says."""
    plans: dict[str, Any] = json.loads((artifact.parent / "plan.json").read_text(encoding="utf-8"))
    return plans


def require_capability(artifact: Path) -> None:
    """Raise OSError where this GPU lacks the number format of an artifact, by the capability that its plan asks for."""
    wanted = read_plans(artifact).get("fp8_since")
    if wanted is None:
        return
    name = gpu()
    capability = re.search(r", sm(\d+)(\d),", name)
    if capability is None or (int(capability[1]), int(capability[2])) < tuple(wanted):
        raise OSError(f"{name} has no FP8, which this bundle computes in; take a bundle of jetson-int8")


def pick_plan(plans: Sequence[Mapping[str, Any]], version: str) -> Mapping[str, Any]:
    """Return the newest plan that the TensorRT of this version is not too old for; OSError where there is none."""
    usable = [plan for plan in plans if tuple(plan["since"]) <= parse_version(version)]
    if not usable:
        oldest = min((plan["since"] for plan in plans), default=None)
        needed = f"{oldest[0]}.{oldest[1]} or later is needed" if oldest else "the bundle has no plan for any"
        raise OSError(f"TensorRT {version} is installed; {needed}")
    return max(usable, key=lambda plan: tuple(plan["since"]))


def serialize(
    trt: Any,
    artifact: Path,
    plan: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    adjust: Callable[[Any], object] = lambda config: None,
) -> bytes:
    """Build the engine of an ONNX file as `plan` says and return it serialized; minutes on a small device.

    `trt` is the module `tensorrt`, or one with its API; `adjust` may change the builder's configuration. Raises
    RuntimeError with what TensorRT did not accept.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, plan))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(artifact)):
        raise RuntimeError(f"TensorRT {trt.__version__} cannot read {artifact.name}: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    for flag, name in BUILDER_FLAGS.items():
        if flag in plan["flags"]:
            config.set_flag(getattr(trt.BuilderFlag, name))
    profile = builder.create_optimization_profile()
    profile.set_shape("tiles", *(tuple(shapes[name]) for name in ("min", "opt", "max")))
    config.add_optimization_profile(profile)
    adjust(config)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"TensorRT {trt.__version__} could not build {artifact.name}; its own lines above say why")
    return bytes(engine)


def _network_flags(trt: Any, plan: Mapping[str, Any]) -> int:
    """Strong typing where the plan asks for it; a TensorRT that dropped the flag has no other typing."""
    strong = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 1 << int(strong) if plan["strongly_typed"] and strong is not None else 0


def engine_file(artifact: Path, version: str, gpu: str, cache: Path | None = None) -> Path:
    """Return where the engine is kept, named by all that it depends on: graph and plan, TensorRT, GPU."""
    folder = cache or _engines()
    digest = hashlib.sha256(artifact.read_bytes())
    digest.update((artifact.parent / "plan.json").read_bytes())
    return folder / f"{digest.hexdigest()[:16]}-tensorrt{version}-{re.sub('[^0-9A-Za-z.]+', '-', gpu)}.engine"


def _engines() -> Path:
    """Return where engines are kept where no other place is named. OSError for a user without a home."""
    if named := os.environ.get("EDGEPATH_CACHE"):
        return Path(named) / "engines"
    try:
        return Path.home() / ".cache" / "edgepath" / "engines"
    except RuntimeError:
        raise OSError("no home folder to keep the engine in; set EDGEPATH_CACHE to a folder") from None


def _write(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename: a process that is killed leaves no half engine to be loaded."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.partial"):
        if left.stat().st_mtime < time.time() - _HOUR:  # of a process that was killed
            left.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def gpu() -> str:
    """Return the first GPU's name, compute capability and multiprocessors: what an engine is built for.

    Asked of the driver (CUDA driver API, `cuDeviceGetAttribute`): no CUDA package is needed. OSError without a driver.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise OSError(
            f"no NVIDIA driver on this machine ({error}); TensorRT runs on a Jetson or beside another"
        ) from None
    name, number, values = ctypes.create_string_buffer(256), ctypes.c_int(), []
    status = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(number), 0)
    status = status or cuda.cuDeviceGetName(name, len(name), number)
    for attribute in (75, 76, 16):  # compute capability major and minor, multiprocessors
        value = ctypes.c_int()
        status = status or cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, number)
        values.append(value.value)
    if status:
        raise OSError(f"the NVIDIA driver offers no GPU to this process (CUDA error {status})")
    return f"{name.value.decode(errors='replace')}, sm{values[0]}{values[1]}, {values[2]} multiprocessors"


def parse_version(text: str) -> tuple[int, int]:
    """Return major and minor of a version."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
