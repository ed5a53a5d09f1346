"""Core ML on Apple devices: an ML program, `model.mlpackage`, that takes an RGB image.

Building works on any machine; running needs macOS. `Runner` stands alone (NumPy, Pillow and coremltools only): the same
file is copied into a bundle's kit and runs there.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Runner:
    """Embeds tiles with a Core ML package: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block, on macOS.

    `compute` is coremltools' compute unit: `ALL`, `CPU_ONLY`, `CPU_AND_GPU` or `CPU_AND_NE`. Threads may call it at the
    same time; they are served one after the other. Pickled or copied, it loads the package again, by `reopen`.
    """

    def __init__(self, artifact: Path, *, compute: str = "ALL") -> None:
        host: str = sys.platform
        if host != "darwin":
            raise OSError(f"Core ML runs only on macOS, this is {host}; the bundle is complete, open it there")
        self.reopen: Callable[[], Runner] = functools.partial(Runner, Path(artifact).absolute(), compute=compute)
        import coremltools

        self._process = os.getpid()
        self._model: Any = coremltools.models.MLModel(str(artifact), compute_units=coremltools.ComputeUnit[compute])
        self._lock = threading.Lock()  # Apple: use an MLModel instance on one thread at a time
        self.size = int(self._model.get_spec().description.input[0].type.imageType.width)
        self.runtime = f"Core ML through coremltools {coremltools.__version__}, {compute}"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return every output by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width).

        The package takes one image a call, so the batch is a loop here.
        """
        from PIL import Image

        _check(tiles, self.size)
        if self._process != os.getpid():
            raise RuntimeError("this runner was opened before a fork, which Core ML does not outlive; open one here")
        with self._lock:
            if self._model is None:
                raise RuntimeError("this runner is closed; open another")
            rows = [_copied(self._model.predict({"tile": Image.fromarray(tile)})) for tile in tiles]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def __reduce__(self) -> tuple[Callable[[], Runner], tuple[()]]:
        return self.reopen, ()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._model = None


def _copied(row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(values, np.float32) for name, values in row.items()}


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        given = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {given}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")
