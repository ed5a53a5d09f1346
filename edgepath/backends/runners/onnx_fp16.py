"""FP16 graphs of devices that are not here: ONNX computed in torch, rounded to FP16 after each node.

What this shows is that the graph, executed as it is written, embeds what its model does, and does not overflow; not
how the device's fused kernels round.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping


class Runner:
    """Embeds tiles with an ONNX artifact: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    `threads` is torch's number of threads, 0 leaves it as it is. Raises BundleError for a graph with an operation that
    is not known here.
    """

    def __init__(self, artifact: Path, *, threads: int = 0) -> None:
        import torch

        from ..onnx.evaluation import Evaluator

        self._torch, self._threads = torch, threads
        self._evaluate = Evaluator(artifact)
        self.size = self._evaluate.size
        self.runtime = f"ONNX evaluator (torch {torch.__version__.split('+')[0]}, FP16 rounding), not TensorRT"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return outputs by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width)."""
        _check(tiles, self.size)
        before = self._torch.get_num_threads()
        self._torch.set_num_threads(self._threads or before)
        try:
            # A copy: torch takes neither negative strides nor, without a warning, arrays that are read-only.
            outputs = self._evaluate({self._evaluate.inputs[0]: self._torch.from_numpy(np.array(tiles, order="C"))})
        finally:
            self._torch.set_num_threads(before)
        return {name: values.numpy() for name, values in outputs.items()}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        del self._evaluate


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        given = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {given}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")
