"""OpenVINO on Intel CPUs (GPU and NPU by name): an IR, `model.xml` and `model.bin`.

`Runner` stands alone (NumPy and openvino only): the same file is copied into a bundle's kit and runs there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PACKAGE = "openvino"
EXTRA = "openvino"


def build(program: Any, folder: Path, recipe: Any) -> Path:
    """Convert the program's ONNX form and write `model.xml` and `model.bin` into `folder`; return the `.xml`."""
    import onnx
    import openvino

    source = folder / "source.onnx"  # OpenVINO reads ONNX from disk; large models do not fit its in-memory route
    onnx.save(program.onnx(), source)
    try:
        # Not convert_model: it reports each use over the network, and the process it forks for that can hang NumPy.
        model = openvino.Core().read_model(source)
        path = folder / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=recipe.precision.other == "fp16")
    finally:
        source.unlink()
    return path


class Runner:
    """Embeds tiles with an OpenVINO IR: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    `threads` is the number of CPU threads, 0 lets OpenVINO choose; `device` is OpenVINO's device name; `precision` is
    the inference precision for what is not INT8 (`f32`, `f16`, `bf16`); `profile` keeps times per operation; `hint` is
    `latency`, or `throughput` for several streams side by side (`stream`); `cache` is a folder that keeps the compiled
    model, for a quicker start the next time.
    """

    def __init__(
        self,
        artifact: Path,
        *,
        threads: int = 0,
        device: str = "CPU",
        precision: str = "f32",
        profile: bool = False,
        hint: str = "latency",
        cache: str = "",
    ) -> None:
        import openvino

        options: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper(), "INFERENCE_PRECISION_HINT": precision}
        if cache:
            options["CACHE_DIR"] = cache
        if device == "CPU":
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # what the program does not round, the runtime shall not
        if device == "CPU" and threads:
            options["INFERENCE_NUM_THREADS"] = threads
        if profile:
            options["PERF_COUNT"] = True
        self._compiled = openvino.Core().compile_model(artifact, device, options)
        self._request = self._compiled.create_infer_request()
        self._side_by_side: list[Any] = []
        self.size = self._compiled.input(0).partial_shape[1].get_length()
        self.runtime = f"OpenVINO {openvino.__version__.split('-')[0]}, {device}, {precision}"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return outputs by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width)."""
        _check(tiles, self.size)
        results = self._request.infer({0: np.ascontiguousarray(tiles)})
        return {port.get_any_name(): np.array(values) for port, values in results.items()}

    def requests(self) -> int:
        """Return how many batches the runtime wants to have at hand at a time."""
        return int(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def stream(self, batches: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Embed batches side by side, as many at a time as the runtime has requests for; in the order given."""
        # Not AsyncInferQueue: deleting one that had a callback waits for a thread that waits for the interpreter.
        while len(self._side_by_side) < self.requests():
            self._side_by_side.append(self._compiled.create_infer_request())
        found: list[np.ndarray] = []
        started: list[Any] = []

        def collect() -> None:
            request = started.pop(0)
            request.wait()
            found.append(np.array(request.get_tensor("embedding").data))

        for index, tiles in enumerate(batches):
            _check(tiles, self.size)
            if len(started) == len(self._side_by_side):
                collect()
            request = self._side_by_side[index % len(self._side_by_side)]
            request.start_async({0: np.ascontiguousarray(tiles)})
            started.append(request)
        while started:
            collect()
        return found

    def linears(self) -> dict[str, int]:
        """Count the matrix products with weights by the precision they execute in, as the runtime reports it."""
        counts: dict[str, int] = {}
        for operation in self._compiled.get_runtime_model().get_ops():
            info = operation.get_rt_info()
            if info["layerType"].astype(str) == "FullyConnected":
                precision = info["runtimePrecision"].astype(str)
                counts[precision] = counts.get(precision, 0) + 1
        return counts

    def operations(self) -> list[tuple[str, str, float]]:
        """Return type, execution precision and milliseconds of what the last call executed, where `profile` is set."""
        return [
            (info.node_type, info.exec_type.rpartition("_")[2].lower(), info.real_time.total_seconds() * 1e3)
            for info in self._request.get_profiling_info()
            if info.status == info.Status.EXECUTED
        ]

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        del self._side_by_side, self._request, self._compiled


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        found = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {found}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")
