"""Core ML packages without Core ML: the saved program's operations, computed in torch with its own precisions.

What this shows is that the package computes what it was lowered from; not how Core ML on a device rounds or adds up.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Where each kind of product has its activation and its weights.
_PRODUCTS = {"linear": ("x", "weight"), "conv": ("x", "weight"), "matmul": ("x", "y")}
# Where operations that unpack weights keep what is on disk.
_PACKED = ("data", "quantized_data", "indices", "source_val")
# One call at a time, for torch's number of threads is everyone's; by process, for a fork copies locks that are held.
_LOCKS: dict[int, Lock] = {}
_STARTED_IN = os.getpid()


class Runner:
    """Embeds tiles with a Core ML package: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    Values are rounded to FP16 where the program declares them so; `fp32` leaves that out. `threads` is torch's number
    of threads, 0 leaves it as it is. Threads may call it at the same time; they are served one after the other. Pickled
    or copied, it opens the package again with the same options, by `reopen`. The child of a fork takes one thread, as
    torch's others stay with the parent. Raises BundleError for a package with an operation that is not known here.
    """

    def __init__(self, artifact: Path, *, fp32: bool = False, threads: int = 0) -> None:
        _check_threads(threads)
        self.reopen: Callable[[], Runner] = functools.partial(
            Runner, Path(artifact).absolute(), fp32=fp32, threads=threads
        )
        import torch

        from ..mil_program.evaluation import Evaluator
        from ..mil_program.program import load_program

        self._torch, self._threads = torch, int(threads)
        self._program = load_program(artifact)
        self._evaluate: Any = Evaluator(self._program, fp32=fp32)
        self.size = self._program.size
        semantics = "FP32" if fp32 else "FP16 semantics"
        self.runtime = f"MIL evaluator (torch {torch.__version__.split('+')[0]}, {semantics}), not Core ML"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return every output by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width).

        The package takes one image a call, so the batch is a loop here.
        """
        _check(tiles, self.size)
        if (evaluate := self._evaluate) is None:
            raise RuntimeError("this runner is closed; open another")
        threads = self._threads if os.getpid() == _STARTED_IN else 1
        with _LOCKS.setdefault(os.getpid(), Lock()):
            before = self._torch.get_num_threads()
            self._torch.set_num_threads(threads or before)
            try:
                rows = [evaluate({self._program.image: self._pixels(tile)}) for tile in tiles]
            finally:
                self._torch.set_num_threads(before)
        return {name: np.concatenate([row[name].numpy() for row in rows]) for name in rows[0]}

    def weights(self) -> dict[str, int]:
        """Count the products with weights (linears, convolutions) by the type those have on disk, `int8` or `fp16`."""
        return dict(Counter(self._weights_of(product) for product in self._products()))

    def quantized(self) -> dict[str, int]:
        """Count the products with weights by the type their activation was rounded to last, `int8` or `fp16`."""
        return dict(Counter(self._activation_of(product) for product in self._products()))

    def _pixels(self, tile: np.ndarray) -> Any:
        # An image reaches an ML program as 0..255, channels first; a copy, for torch takes no negative strides.
        return self._torch.from_numpy(np.array(tile.transpose(2, 0, 1)[None], np.float32, order="C"))

    def _products(self) -> list[tuple[str, str]]:
        """Return the names of activation and weights of each product whose weights are constant."""
        program, products = self._program, []
        for operation in program.operations:
            if operation.kind in _PRODUCTS:
                (x,), (weight,) = (operation.inputs[name] for name in _PRODUCTS[operation.kind])
                maker = program.made_by.get(weight)
                if weight in program.constants or (maker is not None and maker.kind.startswith("constexpr_")):
                    products.append((x, weight))
        return products

    def _weights_of(self, product: tuple[str, str]) -> str:
        name = product[1]
        while name not in self._program.constants:  # a constexpr may unpack what another one does
            maker = self._program.made_by[name]
            name = next(maker.inputs[packed][0] for packed in _PACKED if packed in maker.inputs)
        return self._program.constants[name].type.dtype

    def _activation_of(self, product: tuple[str, str]) -> str:
        program, name = self._program, product[0]
        maker = program.made_by.get(name)
        if maker is not None and maker.kind == "dequantize":
            name = maker.inputs["input"][0]
            maker = program.made_by.get(name)
        declared = maker.outputs if maker is not None else program.inputs
        return declared[name].dtype

    def __reduce__(self) -> tuple[Callable[[], Runner], tuple[()]]:
        return self.reopen, ()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._evaluate = None


def _check_threads(threads: int) -> None:
    is_integer = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
    if not is_integer or not 0 <= threads <= 1024:
        raise ValueError(
            f"threads is {threads!r}; a whole number from 0 to 1024 is needed, and 0 lets the runtime choose"
        )


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        given = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {given}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")
