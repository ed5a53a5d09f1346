"""TensorRT-RTX on NVIDIA RTX workstations: the graph of TensorRT, and an engine of it that is built without a GPU.

One engine serves the recipe's compute capabilities; what it does not serve (another release of TensorRT-RTX, another
GPU) is built anew from the graph where it runs. It stands alone (NumPy, the bindings, polygraphy): the same
file is copied into a bundle's kit. The engine was not run by edgepath's own tests: they have no GPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HOUR = 3600
BATCHES = {"min": 1, "opt": 1, "max": 16}


class Refused(RuntimeError):
    """TensorRT-RTX took no graph or built no engine: `node` is where ("" where it does not say), `reason` its words."""

    def __init__(self, what: str, node: str, reason: str) -> None:
        super().__init__(f"{what}{': ' * bool(node)}{node}: {reason}")
        self.node, self.reason = node, reason


class Runner:
    """Embeds tiles on an RTX GPU: `uint8 (N, S, S, 3) -> float32 (N, D)`, up to 16 at once. Use it in a `with` block.

    Takes the bundle's engine, or one that kit/build.py left in `cache`, by default `$EDGEPATH_CACHE/engines`, else
    `~/.cache/edgepath/engines`. Threads may call it at the same time; they are served one after the other. Pickled
    or copied, it loads the engine again, by `reopen`. OSError without a driver, or where neither engine is for this GPU
    and TensorRT-RTX.
    """

    def __init__(self, artifact: Path, *, cache: Path | None = None) -> None:
        self.reopen: Callable[[], Runner] = functools.partial(Runner, Path(artifact).absolute(), cache=cache)
        import tensorrt_rtx_bindings

        engine = find_engine(tensorrt_rtx_bindings, artifact, cache)
        # Polygraphy asks for the module by the name of a package that only hands these bindings on.
        sys.modules.setdefault("tensorrt_rtx", tensorrt_rtx_bindings)
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"  # read when polygraphy is imported
        from polygraphy.backend.trt import TrtRunner, engine_from_bytes

        self._runner: Any = TrtRunner(engine_from_bytes(engine.read_bytes()))
        self._runner.activate()
        self._process = os.getpid()
        self._lock = threading.Lock()  # a context computes one batch at a time, and its outputs lie in one place
        self._largest, self.size = read_plan(artifact)["shapes"]["tiles"]["max"][:2]
        self.runtime = f"TensorRT-RTX {tensorrt_rtx_bindings.__version__}, {engine.name}"

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


def find_engine(trt: Any, artifact: Path, cache: Path | None = None) -> Path:
    """Return the engine of `artifact` that fits this GPU and TensorRT-RTX: the bundle's, else the one in the cache.

    Raises OSError without a driver, or with the reason why neither fits and what to do.
    """
    require_driver()
    shipped = artifact.with_suffix(".engine")
    if not (why := unfit(trt, shipped)):
        return shipped
    built = engine_file(trt, artifact, cache)
    if built.exists() and not unfit(trt, built):
        return built
    raise OSError(f"{shipped.name} does not fit this machine ({why}); build one from {artifact.name}: kit/build.py")


def prepare(trt: Any, artifact: Path, cache: Path | None = None, capabilities: Sequence[str] = ()) -> Path:
    """Return the engine that fits this machine, built and kept in the cache where there is none yet.

    With `capabilities`, build one for those, whatever GPU is here. Raises what `find_engine` and `serialize` raise.
    """
    if not capabilities:
        require_driver()
        try:
            return find_engine(trt, artifact, cache)
        except OSError:
            capabilities = ("CURRENT",)
    return keep(trt, artifact, serialize(trt, artifact, read_plan(artifact)["shapes"], capabilities), cache)


def keep(trt: Any, artifact: Path, engine: bytes, cache: Path | None = None) -> Path:
    """Keep an engine of `artifact` where `find_engine` looks, and return its file."""
    path = engine_file(trt, artifact, cache)
    _write(path, engine)
    return path


def unfit(trt: Any, engine: Path) -> str:
    """Return why an engine file cannot run here (another release, another GPU, no engine at all), "" where it can."""
    log = _log(trt)
    validity, reasons = trt.Runtime(log).get_engine_validity(engine.read_bytes())
    if validity != trt.EngineValidity.INVALID:
        return ""
    flags = [name for name, flag in trt.EngineInvalidityDiagnostics.__members__.items() if reasons & int(flag)]
    return log.messages[0] if log.messages else ", ".join(flags) or "no reason given"


def serialize(
    trt: Any, artifact: Path, shapes: Mapping[str, Mapping[str, Sequence[int]]], capabilities: Sequence[str]
) -> bytes:
    """Build the engine of an ONNX file for `capabilities` ("SM86", or "CURRENT": this machine's) and return it.

    `trt` is the bindings' module; `shapes` are `min`, `opt` and `max` of each input by its name. Types are those that
    the graph names. Takes seconds, and a GPU only for "CURRENT". Raises Refused with the node and TensorRT-RTX's words.
    """
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(artifact)):
        error = parser.get_error(0)
        node = f"{error.node_operator()} {error.node_name()}".strip()
        raise Refused(f"TensorRT-RTX {trt.__version__} cannot read {artifact.name}", node, _words(error.desc()))
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        known = trt.ComputeCapability.__members__
        if capability not in known or not config.set_compute_capability(known[capability], index):
            raise Refused(f"TensorRT-RTX {trt.__version__}", "", f"{capability} cannot be built for here")
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, *(tuple(shape[key]) for key in ("min", "opt", "max")))
    config.add_optimization_profile(profile)
    log.messages.clear()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        reason = _words(next(iter(log.messages), "no reason given"))
        raise Refused(f"TensorRT-RTX {trt.__version__} could not build {artifact.name}", "", reason)
    return bytes(engine)


def _words(text: str) -> str:
    """Return what matters of a message: the parser's own first line often only repeats the node's name."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return next((line for line in lines if not line.startswith("Invalid Node - ")), text.strip())


def _log(trt: Any) -> Any:
    """Return a logger that keeps what TensorRT-RTX says instead of printing it: reasons are shown with what failed."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity != trt.Logger.VERBOSE:
                self.messages.append(message)

    return Log()


def read_plan(artifact: Path) -> dict[str, Any]:
    """Return what `plan.json` beside an artifact says."""
    plan: dict[str, Any] = json.loads((artifact.parent / "plan.json").read_text(encoding="utf-8"))
    return plan


def engine_file(trt: Any, artifact: Path, cache: Path | None = None) -> Path:
    """Return where an engine built on this machine is kept, named by graph and TensorRT-RTX; the GPU is looked at."""
    folder = cache or _engines()
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()[:16]
    return folder / f"{digest}-tensorrt-rtx{trt.__version__}.engine"


def require_driver() -> None:
    """Raise OSError where there is no NVIDIA driver."""
    name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise OSError(f"no NVIDIA driver on this machine ({error}); TensorRT-RTX runs beside an RTX GPU") from None


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
