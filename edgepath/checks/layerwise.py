"""Lowerings proved layer by layer: every quantized linear of an artifact alone, given what the program gives it.

End to end, rounding to 8 bits amplifies the last bit of a sum, so no two exact executions agree. One layer alone has no
such excuse. What enters a layer in the program is rounded by the artifact's own operation, cut out of its files and run
by its own runtime (a package by the evaluator): the integers have to be the program's. Only a value within rounding of
the edge between two integers may fall either way. What the layer makes of its integers, computed as its file says and
nothing fused, is held against integer arithmetic, as exact as float64 is, with the bound that rounding leaves (Higham,
Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). What the runtime's fused kernels make of them on
this machine is measured beside it: that is no property of the artifact. Products with a class token that is not
rounded make no integers, and are held by their numbers alone (`checks.parts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends.contents import Layer, Product
from ..backends.reading import read_layers, read_parts
from ..errors import BundleError
from .parts import named_parts, paired

if TYPE_CHECKING:
    from ..program.fold import EdgeModel
    from ..program.formats import NumberFormat

_FP16, _FP32 = 2.0**-11, 2.0**-24  # what rounding changes, relative
_SMALLEST = 2.0**-25  # half a step of FP16 below its smallest normal number
# What FP32 leaves of x / scale, computed in any of the usual ways: steps of integers, and a fraction of 8-bit floats.
_EDGE = {"int8": (1e-4, 0.0), "fp8": (0.0, 1e-6)}


@dataclass
class Proof:
    """What was found of one layer: of `integers` that enter it, `differ` are not the program's.

    `unexplained` of these lie on no edge between two integers, which must not be. `error_steps` is the largest error of
    an output, in units of its smallest change (scale of the input x scale of the weights), `error_of_bound` in units of
    what rounding can explain, which it must not exceed. `kernel_error_steps` is that of the runtime's fused kernels: on
    a CPU whose sums of 8-bit products saturate, it is thousands.
    """

    integers: int = 0
    differ: int = 0
    unexplained: int = 0
    error_steps: float = 0.0
    error_of_bound: float = 0.0
    kernel_error_steps: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the layer computes what the program's does."""
        return not self.unexplained and self.error_of_bound <= 1.0


def prove(
    model: EdgeModel,
    artifact: Path,
    tiles: np.ndarray,
    advance: Callable[[int], None] = lambda count: None,
    backend: str = "",
) -> dict[str, Proof]:
    """Hold each quantized linear of `artifact` against its program on `tiles`, uint8 (N, S, S, 3); proofs by name.

    Empty for a program without quantized linears. Raises BundleError for an artifact that is not cut as it was built.
    """
    products = {name: product for name, product in named_parts(model)[0].items() if product.input_scales is not None}
    if not products:
        return {}
    names, ours = list(named_parts(model)[0]), list(named_parts(model)[0].values())
    order = paired(names, ours, read_parts(artifact, backend).products)
    layers = read_layers(artifact, backend)
    if odd := [name for name in products if order[name] not in layers]:
        raise BundleError(f"{artifact.name}: the input of {odd[0]} is not quantized; export it again")
    proofs = {name: Proof() for name in products}
    for tile in tiles:
        given = _inputs(model, products, tile[None])
        for name, product in products.items():
            _hold(proofs[name], product, layers[order[name]], given.pop(name))
        advance(1)
    return proofs


def joint(proofs: Sequence[Proof]) -> Proof:
    """Return the proof of a layer from those of its parts: counts added, of errors the largest."""
    sums = {name: sum(getattr(proof, name) for proof in proofs) for name in ("integers", "differ", "unexplained")}
    errors = ("error_steps", "error_of_bound", "kernel_error_steps")
    return Proof(**sums, **{name: max(getattr(proof, name) for proof in proofs) for name in errors})


def _inputs(model: EdgeModel, names: Iterable[str], tile: np.ndarray) -> dict[str, np.ndarray]:
    """Return what enters each layer when the program embeds one tile: float32 (1, T, in)."""
    import torch

    from ..machine.inference import inference

    entering: dict[str, np.ndarray] = {}

    def hook(name: str) -> Any:
        return lambda _, inputs: entering.update({name: inputs[0].numpy().copy()})

    with ExitStack() as hooks, inference():
        for name in names:
            hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(hook(name)))
        model(torch.from_numpy(np.array(tile, order="C")))
    return entering


def _hold(proof: Proof, product: Product, layer: Layer, x: np.ndarray) -> None:
    """Run a layer of the artifact on what enters it in the program, and add what is found to its proof."""
    assert product.scale is not None and product.input_scales is not None
    x = x.astype(np.float16).astype(np.float32) if layer.half else x
    scale = product.input_scales[0]
    number_format = format_of(product)
    rounded, output, fused = layer.run(x)
    codes = rounded.astype(np.float64)
    differ = codes != quantized(x, scale, number_format)
    steps = x.astype(np.float64) / scale
    absolute, relative = _EDGE[number_format.name]
    slack = absolute + np.abs(steps) * (relative + (_FP16 if layer.half else 0.0))
    lowest, highest = (
        quantized(edge.astype(np.float32), 1.0, number_format) for edge in (steps - slack, steps + slack)
    )
    proof.integers += codes.size
    proof.differ += int(differ.sum())
    proof.unexplained += int((differ & ~((lowest <= codes) & (codes <= highest))).sum())
    exact, bound, unit = expected(product, codes, half=layer.half)
    error = _apart(output, exact)
    proof.error_steps = max(proof.error_steps, float((error / unit).max()))
    proof.error_of_bound = max(proof.error_of_bound, float((error / bound).max()))
    proof.kernel_error_steps = max(proof.kernel_error_steps, float((_apart(fused, exact) / unit).max()))


def _apart(output: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return absolute errors; what is no number is infinitely far off: with NaN, no comparison fails."""
    error = np.abs(output.astype(np.float64) - exact)
    return np.where(np.isnan(error), np.inf, error)


def format_of(product: Product) -> NumberFormat:
    """Return the format that a product's weights are stored in, and its input is rounded to."""
    from ..program.formats import FP8, INT8

    return INT8 if product.weight.dtype == np.int8 else FP8


def quantized(x: np.ndarray, scale: float, number_format: NumberFormat) -> np.ndarray:
    """Return the 8-bit numbers, float64, that the program makes of `x`: its own operation, computed in torch."""
    import torch

    codes: np.ndarray = number_format.quantize(torch.from_numpy(x), scale).double().numpy()
    return codes


def expected(product: Product, integers: np.ndarray, *, half: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the exact output of a product for 8-bit numbers (..., in), how far rounding may lead from it, and a step.

    With `half`, both factors and the bias are rounded to FP16, as are the product and its sum with the bias; sums are
    FP32 in either case, of in + 1 terms in any order.
    """
    assert product.scale is not None and product.input_scales is not None
    weight, scale = product.weight.astype(np.float64), product.input_scales[1]
    unit = scale * product.scale.astype(np.float64)
    bias = (product.bias.astype(np.float16) if half else product.bias).astype(np.float64)
    codes = integers.astype(np.float64)
    exact = codes @ weight.T * unit + bias
    size = np.abs(codes) @ np.abs(weight).T * unit + np.abs(bias)
    bound = (weight.shape[1] + 4) * _FP32 * size
    if half:
        sums = scale * np.abs(codes).sum(-1, keepdims=True) + np.abs(weight).sum(1) * product.scale
        bound += 2.01 * _FP16 * (size + np.abs(exact)) + _SMALLEST * (sums + 2)
    return exact, bound + np.finfo(np.float32).tiny, unit
