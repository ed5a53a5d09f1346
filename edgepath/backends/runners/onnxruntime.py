"""ONNX Runtime on the CPU: any `.onnx` artifact of a bundle.

`Runner` stands alone (NumPy and onnxruntime only): the same file is copied into a bundle's kit and runs there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = "onnxruntime"
EXTRA = "onnxruntime"


def build(program: Any, folder: Path, recipe: Any) -> Path:
    """Write `model.onnx` into `folder` and return its path.

    INT8 is for speed and takes an operation of ONNX Runtime's own for attention; FP32 is for any reader of ONNX.
    """
    import onnx

    path = folder / "model.onnx"
    onnx.save(program.onnx_fused() if recipe.int8 else program.onnx(), path)
    return path


class Runner:
    """Embeds tiles with an ONNX artifact: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    `threads` is the number of CPU threads; 0 lets ONNX Runtime choose among the cores this process may use.
    """

    def __init__(self, artifact: Path, *, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _allowed()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        tiles = self._session.get_inputs()[0]
        self._input, self.size = tiles.name, tiles.shape[1]
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}, CPU"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return outputs by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width)."""
        _check(tiles, self.size)
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {self._input: np.ascontiguousarray(tiles)}), strict=True))

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        del self._session


def _allowed() -> int:
    """Return how many threads suit a process that is kept to some of the machine's cores, of which ONNX Runtime does
    not know; else 0, its own choice."""
    if not hasattr(os, "sched_getaffinity"):
        return 0
    cores = len(os.sched_getaffinity(0))
    return cores if cores < (os.cpu_count() or 1) else 0


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        found = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {found}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")
