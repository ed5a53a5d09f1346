"""What the files of an artifact hold, in terms that all backends share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Product:
    """A product with weights: `weight` (out, in) for a linear, (out, 3, P, P) for the patch convolution.

    int8 or float8_e4m3fn where it is quantized; then `scale` (out,) is its weights', and `input_scales` those it
    quantizes and dequantizes its input with, None where the input is the class token as it is. `bias` (out,) is zero
    where there is none. `tokens` is `first` or `rest` where a cut before it leaves one token, or all but one; a
    program's is empty where that is not compared.
    """

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray | None = None
    input_scales: tuple[float, float] | None = None
    tokens: str = ""


@dataclass(frozen=True)
class Norm:
    """A LayerNorm: `weight` and `bias` (width,)."""

    epsilon: float
    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Parts:
    """Products and norms in the order they run in, and other `tables` of numbers; an artifact's may have no names.

    `rounded` is how many factors of products of two activations are rounded; a program's never are.
    `scalars` are all single numbers that something is multiplied by, `attentions` how many attentions are one operation
    that scales by itself; of those that split what they are given into heads, too, `heads` says into how many.
    """

    products: tuple[Product, ...]
    norms: tuple[Norm, ...]
    tables: tuple[np.ndarray, ...]
    scalars: tuple[float, ...] = ()
    attentions: int = 0
    rounded: int = 0
    heads: tuple[int, ...] = ()


Found = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """A quantized linear of an artifact. `half`: its floating-point numbers are FP16, so what it is given has to be.

    `run` takes float32 (1, T, in) and returns its 8-bit numbers (1, T, in), and its output, float32 (1, T, out), as
    the file says and as the runtime's fused kernels compute it.
    """

    half: bool
    run: Callable[[np.ndarray], Found]
