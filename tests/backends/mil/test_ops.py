"""Each operation alone, against formulas in NumPy written from the documentation of MIL's operations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from edgepath.backends.mil.ops import OPERATIONS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)


def given(value: Any) -> Any:
    """As the evaluator hands values over: lists and numbers are constants, so tensors too."""
    if isinstance(value, tuple):
        return [given(one) for one in value]
    if isinstance(value, str):
        return value
    array = np.array(value)
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)


def run(operation: str, **inputs: Any) -> Any:
    found = OPERATIONS[operation](**{name: given(value) for name, value in inputs.items()})
    return tuple(one.numpy() for one in found) if isinstance(found, tuple) else found.numpy()


def wide(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array.astype(np.float64) for array in arrays]


def layer_norm(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    (x,) = wide(x)
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x.astype(np.float64))
    return powers / powers.sum(axis, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel().tolist()]).reshape(x.shape)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, added: Any = 0.0) -> np.ndarray:
    return softmax(np.einsum("...le,...se->...ls", q, k) / np.sqrt(q.shape[-1]) + added, -1) @ v


def pooled(x: np.ndarray, size: tuple[int, int], step: tuple[int, int], reduce: Any) -> np.ndarray:
    """Reduce each window, place by place."""
    rows, columns = ((x.shape[2 + i] - size[i]) // step[i] + 1 for i in (0, 1))
    found = np.empty((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * step[0], j * step[1]
            found[:, :, i, j] = reduce(x[:, :, top : top + size[0], left : left + size[1]], axis=(2, 3))
    return found


def convolution(x: np.ndarray, w: np.ndarray, stride: tuple[int, int], dilation: tuple[int, int]) -> np.ndarray:
    """Sum over the kernel, place by place."""
    kh, kw = w.shape[2:]
    rows = (x.shape[2] - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    columns = (x.shape[3] - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    out = np.zeros((x.shape[0], w.shape[0], rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride[0], j * stride[1]
            part = x[:, :, top : top + kh * dilation[0] : dilation[0], left : left + kw * dilation[1] : dilation[1]]
            out[:, :, i, j] = np.einsum("nchw,ochw->no", part[:, :, :kh, :kw], w)
    return out


W, B = RNG.standard_normal((5, 4)).astype(np.float32), RNG.standard_normal(5).astype(np.float32)
GAMMA, BETA = RNG.standard_normal((3, 4)).astype(np.float32), RNG.standard_normal((3, 4)).astype(np.float32)
IMAGE, KERNEL = RNG.standard_normal((1, 2, 9, 8)), RNG.standard_normal((4, 2, 3, 2))
Q, K, V = (RNG.standard_normal((1, 2, n, e)).astype(np.float32) for n, e in ((3, 4), (5, 4), (5, 6)))
ALLOWED = np.array([True, False, True, True, False])
SMALL = X * np.float32(1e-3)
FOUR = np.array([[1, 2], [3, 4], [5, 6]], np.float32)

# Operation, inputs, what the documentation's formula gives.
CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("linear", {"x": X, "weight": W, "bias": B}, X @ W.T + B),
    ("linear", {"x": X, "weight": W}, X @ W.T),
    ("matmul", {"x": X, "y": W.T}, X @ W.T),
    ("matmul", {"x": X, "y": Y, "transpose_y": True}, X @ Y.transpose(0, 2, 1)),
    ("matmul", {"x": X, "y": Y, "transpose_x": True}, X.transpose(0, 2, 1) @ Y),
    ("matmul", {"x": X, "y": Y, "transpose_x": False, "transpose_y": True}, X @ Y.transpose(0, 2, 1)),
    ("matmul", {"x": X, "y": X[0, 0]}, X @ X[0, 0]),
    ("conv", {"x": IMAGE, "weight": KERNEL}, convolution(IMAGE, KERNEL, (1, 1), (1, 1))),
    (
        "conv",
        {"x": IMAGE, "weight": KERNEL, "strides": [3, 2], "pad_type": "valid", "pad": [9, 9, 9, 9], "bias": B[:4]},
        convolution(IMAGE, KERNEL, (3, 2), (1, 1)) + B[:4].reshape(1, 4, 1, 1),
    ),
    (
        "conv",
        {"x": IMAGE, "weight": KERNEL, "pad_type": "custom", "pad": [1, 2, 3, 0], "dilations": [2, 3]},
        convolution(np.pad(IMAGE, [(0, 0), (0, 0), (1, 2), (3, 0)]), KERNEL, (1, 1), (2, 3)),
    ),
    (
        "conv",
        {"x": IMAGE, "weight": KERNEL[:, :1], "groups": 2},
        np.concatenate(
            [convolution(IMAGE[:, g : g + 1], KERNEL[2 * g : 2 * g + 2, :1], (1, 1), (1, 1)) for g in (0, 1)], axis=1
        ),
    ),
    ("scaled_dot_product_attention", {"query": Q, "key": K, "value": V}, attention(Q, K, V)),
    (
        "scaled_dot_product_attention",
        {"query": Q, "key": K, "value": V, "attn_mask": np.stack([ALLOWED] * 3)},
        attention(Q, K, V, np.where(ALLOWED, 0.0, -np.inf)),
    ),
    (
        "scaled_dot_product_attention",
        {"query": Q, "key": K, "value": V, "attn_mask": Q[0, :, :, :1]},
        attention(Q, K, V, Q[0, :, :, :1]),
    ),
    ("layer_norm", {"x": X, "axes": [-1]}, layer_norm(X, (-1,), 1e-5)),
    ("layer_norm", {"x": X}, layer_norm(X, (0, 1, 2), 1e-5)),
    ("layer_norm", {"x": SMALL, "axes": [2], "epsilon": 1e-6}, layer_norm(SMALL, (-1,), 1e-6)),
    ("layer_norm", {"x": SMALL, "axes": [2], "epsilon": 1.0}, layer_norm(SMALL, (-1,), 1.0)),
    ("layer_norm", {"x": X, "axes": [1, 2], "gamma": GAMMA, "beta": BETA}, layer_norm(X, (1, 2), 1e-5) * GAMMA + BETA),
    ("layer_norm", {"x": X, "axes": [-1, -2], "gamma": GAMMA}, layer_norm(X, (1, 2), 1e-5) * GAMMA),
    (
        "layer_norm",
        {"x": X, "axes": [1], "gamma": B[:3], "beta": B[:3]},
        layer_norm(X, (1,), 1e-5) * B[:3, None] + B[:3, None],
    ),
    (
        "batch_norm",
        {"x": X, "mean": B[:3], "variance": B[:3] ** 2, "gamma": B[1:4], "beta": B[2:], "epsilon": 0.25},
        (X - B[:3, None]) / np.sqrt(B[:3, None] ** 2 + 0.25) * B[1:4, None] + B[2:, None],
    ),
    ("gelu", {"x": 3 * X}, gelu(3 * X)),
    ("gelu", {"x": 3 * X, "mode": "EXACT"}, gelu(3 * X)),
    (
        "gelu",
        {"x": 3 * X, "mode": "TANH_APPROXIMATION"},
        0.5 * 3 * X * (1 + np.tanh(np.sqrt(2 / np.pi) * (3 * X + 0.044715 * (3 * X) ** 3))),
    ),
    ("gelu", {"x": 3 * X, "mode": "SIGMOID_APPROXIMATION"}, 3 * X / (1 + np.exp(-1.702 * 3 * X))),
    ("softmax", {"x": X}, softmax(X, -1)),
    ("softmax", {"x": X, "axis": 1}, softmax(X, 1)),
    ("softmax", {"x": np.float32([60000, 60000, -60000])}, [0.5, 0.5, 0.0]),  # of the largest FP16 numbers
    ("clip", {"x": X, "alpha": -0.5, "beta": 0.25}, np.clip(X, -0.5, 0.25)),
    ("rsqrt", {"x": POSITIVE}, 1 / np.sqrt(POSITIVE)),
    ("rsqrt", {"x": POSITIVE, "epsilon": 0.5}, 1 / np.sqrt(POSITIVE + 0.5)),
    ("rsqrt", {"x": np.zeros(1, np.float32)}, [1e6]),  # epsilon is 1e-12 where none is given
    ("inverse", {"x": POSITIVE}, 1 / (POSITIVE + 1e-4)),
    ("inverse", {"x": POSITIVE, "epsilon": 0.5}, 1 / (POSITIVE + 0.5)),
    ("reduce_mean", {"x": X}, X.mean()),
    ("reduce_mean", {"x": X, "axes": [1]}, X.mean(1)),
    ("reduce_mean", {"x": X, "axes": [0, -1], "keep_dims": True}, X.mean((0, 2), keepdims=True)),
    ("reduce_sum", {"x": X, "axes": [-1], "keep_dims": True}, X.sum(-1, keepdims=True)),
    ("reduce_sum", {"x": X, "axes": [0, 1], "keep_dims": False}, X.sum((0, 1))),
    ("reduce_sum_square", {"x": X, "axes": [2]}, (X**2).sum(2)),
    ("reduce_max", {"x": X, "axes": [1], "keep_dims": True}, X.max(1, keepdims=True)),
    ("reduce_min", {"x": X, "axes": [0, 2]}, X.min((0, 2))),
    ("reshape", {"x": X, "shape": [4, 6]}, X.reshape(4, 6)),
    ("reshape", {"x": X, "shape": [2, -1]}, X.reshape(2, 12)),
    ("reshape", {"x": X, "shape": [0, 2, -1]}, X.reshape(2, 2, 6)),  # 0: as x has it
    ("transpose", {"x": X, "perm": [2, 0, 1]}, X.transpose(2, 0, 1)),
    ("squeeze", {"x": X[:1, :, :1], "axes": [0]}, X[0, :, :1]),
    ("squeeze", {"x": X[:1, :, :1], "axes": [-1, 0, 1]}, X[0, :, 0]),  # what is not 1 long is left alone
    ("squeeze", {"x": X[:1, :, :1]}, X[0, :, 0]),
    ("expand_dims", {"x": X, "axes": [0]}, X[None]),
    ("expand_dims", {"x": X, "axes": [-1, 1]}, X[:, None, :, :, None]),
    ("expand_dims", {"x": X, "axes": [3, 0]}, X[None, :, :, None]),
    ("concat", {"values": (X, Y), "axis": 1}, np.concatenate([X, Y], 1)),
    ("concat", {"values": (X, Y[:, :1], X), "axis": -2, "interleave": False}, np.concatenate([X, Y[:, :1], X], 1)),
    # The documentation's own example.
    (
        "concat",
        {"values": (FOUR, FOUR + 6), "axis": 0, "interleave": True},
        [[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]],
    ),
    (
        "concat",
        {"values": (FOUR, FOUR + 6), "axis": -1, "interleave": True},
        [[1, 7, 2, 8], [3, 9, 4, 10], [5, 11, 6, 12]],
    ),
    ("stack", {"values": (X, Y), "axis": 1}, np.stack([X, Y], 1)),
    ("split", {"x": X, "axis": -1, "num_splits": 2}, (X[..., :2], X[..., 2:])),
    ("split", {"x": X, "axis": 1, "split_sizes": [1, 2]}, (X[:, :1], X[:, 1:])),
    ("split", {"x": X, "axis": 2, "num_splits": 2, "split_sizes": [3, 1]}, (X[..., :3], X[..., 3:])),
    ("slice_by_index", {"x": X, "begin": [0, 1, 1], "end": [1, 3, 4]}, X[0:1, 1:3, 1:4]),
    ("slice_by_index", {"x": X, "begin": [0, -2, -4], "end": [2, -1, 3]}, X[0:2, -2:-1, -4:3]),
    ("slice_by_index", {"x": X, "begin": [0, 0, 3], "end": [2, 3, 0], "stride": [1, 2, -1]}, X[:, ::2, 3:0:-1]),
    (
        "slice_by_index",
        {"x": X, "begin": [1, 1, 1], "end": [1, 1, 1], "begin_mask": [True, False, True], "end_mask": [True] * 3},
        X[:, 1:, :],
    ),
    (
        "slice_by_index",
        {"x": X, "begin": [1, 1, 1], "end": [0, 0, 3], "squeeze_mask": [True, True, False]},
        X[1, 1, 1:3],
    ),
    (
        "slice_by_index",
        {"x": X, "begin": [-1, 0, -2], "end": [0, 3, 0], "squeeze_mask": [True, False, True]},
        X[-1, :, -2],
    ),
    (
        "slice_by_index",
        {
            "x": X,
            "begin": [0, 0, 0],
            "end": [0, 0, 0],
            "stride": [1, 1, -2],
            "begin_mask": [True] * 3,
            "end_mask": [True] * 3,
        },
        X[:, :, ::-2],
    ),
    ("slice_by_size", {"x": X, "begin": [0, 1, 2], "size": [1, -1, 2]}, X[:1, 1:, 2:4]),
    ("tile", {"x": X, "reps": [1, 2, 3]}, np.tile(X, (1, 2, 3))),
    ("pad", {"x": X, "pad": [1, 0, 2, 3], "constant_val": 7.0}, np.pad(X, [(0, 0), (1, 0), (2, 3)], constant_values=7)),
    ("pad", {"x": X, "pad": [2, 1], "mode": "reflect"}, np.pad(X, [(0, 0), (0, 0), (2, 1)], mode="reflect")),
    ("pad", {"x": X, "pad": [2, 1], "mode": "replicate"}, np.pad(X, [(0, 0), (0, 0), (2, 1)], mode="edge")),
    ("gather", {"x": X, "indices": [2, 0], "axis": 1}, X[:, [2, 0]]),
    ("gather", {"x": X, "indices": [[1, -1]], "validate_indices": False}, X[[[1, -1]]]),
    ("gather", {"x": X, "indices": 2, "axis": -1}, X[..., 2]),
    ("identity", {"x": X}, X),
    ("add", {"x": X, "y": Y[0]}, X + Y[0]),
    ("sub", {"x": X, "y": Y}, X - Y),
    ("mul", {"x": X, "y": 0.5}, X * np.float32(0.5)),
    ("real_div", {"x": X, "y": Y}, X / Y),
    ("maximum", {"x": X, "y": Y}, np.maximum(X, Y)),
    ("minimum", {"x": X, "y": Y}, np.minimum(X, Y)),
    ("pow", {"x": POSITIVE, "y": 1.5}, POSITIVE**1.5),
    ("abs", {"x": X}, np.abs(X)),
    ("exp", {"x": X}, np.exp(X)),
    ("erf", {"x": X}, np.vectorize(math.erf)(X)),
    ("sqrt", {"x": POSITIVE}, np.sqrt(POSITIVE)),
    ("square", {"x": X}, X * X),
    ("tanh", {"x": X}, np.tanh(X)),
    ("sigmoid", {"x": X}, 1 / (1 + np.exp(-X))),
    ("relu", {"x": X}, np.where(X > 0, X, 0)),
    ("silu", {"x": 3 * X}, 3 * X / (1 + np.exp(-3 * X))),
    ("log", {"x": POSITIVE}, np.log(POSITIVE)),
    ("log", {"x": POSITIVE, "epsilon": 0.5}, np.log(POSITIVE + 0.5)),
    ("floor", {"x": 3 * X}, np.floor(3 * X)),
    ("ceil", {"x": 3 * X}, np.ceil(3 * X)),
    ("round", {"x": [0.5, 1.5, -0.5, 2.4]}, np.array([0, 2, 0, 2])),
    ("sign", {"x": [-2.0, 0.0, 3.0]}, np.array([-1, 0, 1])),
    ("select", {"cond": X > 0, "a": X, "b": Y}, np.where(X > 0, X, Y)),
    ("select", {"cond": X[0, 0] > 0, "a": X, "b": 2.0}, np.where(X[0, 0] > 0, X, 2.0)),
    (
        "gather",
        {"x": X, "indices": [[2, 0], [1, 1]], "axis": 1, "batch_dims": 1},
        np.stack([X[0, [2, 0]], X[1, [1, 1]]]),
    ),
    (
        "gather",
        {"x": X, "indices": [[0, 3], [1, 1]], "axis": -1, "batch_dims": 1},
        np.stack([X[0][:, [0, 3]], X[1][:, [1, 1]]]),
    ),
    (
        "gather",
        {"x": X, "indices": np.arange(6).reshape(2, 3) % 4, "axis": 2, "batch_dims": 2},
        np.take_along_axis(X, (np.arange(6).reshape(2, 3) % 4)[..., None], 2)[..., 0],
    ),
    (
        "einsum",
        {"values": (X, Y.transpose(2, 1, 0)), "equation": "chw,whr->chr"},
        np.stack([np.stack([X[:, h] @ Y.transpose(2, 1, 0)[:, h] for h in range(3)])]).squeeze(0).transpose(1, 0, 2),
    ),
    ("max_pool", {"x": IMAGE, "kernel_sizes": [2, 3]}, pooled(IMAGE, (2, 3), (1, 1), np.max)),
    (
        "max_pool",
        {"x": IMAGE - 9, "kernel_sizes": [2, 2], "strides": [2, 3], "pad_type": "custom", "pad": [1, 0, 0, 1]},
        pooled(np.pad(IMAGE - 9, [(0, 0), (0, 0), (1, 0), (0, 1)], constant_values=-np.inf), (2, 2), (2, 3), np.max),
    ),
    ("avg_pool", {"x": IMAGE, "kernel_sizes": [2, 3], "strides": [1, 2]}, pooled(IMAGE, (2, 3), (1, 2), np.mean)),
    (
        "avg_pool",
        {"x": IMAGE, "kernel_sizes": [2, 2], "pad_type": "custom", "pad": [1, 1, 0, 1]},
        pooled(np.pad(IMAGE, [(0, 0), (0, 0), (1, 1), (0, 1)]), (2, 2), (1, 1), np.mean),
    ),
    (
        "avg_pool",
        {"x": IMAGE, "kernel_sizes": [3, 3], "pad_type": "same", "exclude_padding_from_average": True},
        pooled(np.pad(IMAGE, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=np.nan), (3, 3), (1, 1), np.nanmean),
    ),
]


@pytest.mark.parametrize(
    ("operation", "inputs", "wanted"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_operation_is_its_formula(operation: str, inputs: dict[str, Any], wanted: Any) -> None:
    found = run(operation, **inputs)
    if not isinstance(wanted, tuple):
        found, wanted = (found,), (wanted,)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == np.float32
        assert one.shape == np.shape(other)
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)  # FP32 against FP64: some 2^-24 a step


U, V = np.array([True, False, True]), np.array([True, True, False])
FLAGS: list[tuple[str, dict[str, Any], Any]] = [
    ("equal", {"x": [1.0, 2.0], "y": [1.0, 3.0]}, [True, False]),
    ("not_equal", {"x": [1.0, 2.0], "y": 1.0}, [False, True]),
    ("greater", {"x": [1.0, 2.0], "y": [1.0, 1.0]}, [False, True]),
    ("greater_equal", {"x": [1.0, 0.0], "y": 1.0}, [True, False]),
    ("less", {"x": [1.0, 0.0], "y": [[1.0], [2.0]]}, [[False, True], [True, True]]),
    ("less_equal", {"x": [1.0, 2.0], "y": 1.0}, [True, False]),
    ("logical_and", {"x": U, "y": V}, [True, False, False]),
    ("logical_or", {"x": U, "y": V}, [True, True, True]),
    ("logical_not", {"x": U}, [False, True, False]),
]


@pytest.mark.parametrize(("operation", "inputs", "wanted"), FLAGS, ids=[case[0] for case in FLAGS])
def test_flags(operation: str, inputs: dict[str, Any], wanted: Any) -> None:
    found = run(operation, **inputs)
    assert found.dtype == np.bool_
    assert found.tolist() == wanted


def test_every_operation_is_tested() -> None:
    elsewhere = {name for name, function in OPERATIONS.items() if function.__module__ == "edgepath.mil.conversions"}
    # Those have a file of their own.
    assert {case[0] for case in CASES + FLAGS} == set(OPERATIONS) - elsewhere


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_ceil_mode_is_pytorchs(size: int, stride: int) -> None:
    picture = IMAGE.astype(np.float32)
    for padding in range(size // 2 + 1):
        beyond = any(-(-(width - size) // stride) * stride >= width for width in picture.shape[2:])
        if not padding and beyond:
            continue  # MIL's documentation drops a window that begins behind the input only where there is padding
        given = {"x": picture, "kernel_sizes": [size] * 2, "strides": [stride] * 2, "ceil_mode": True}
        given |= {"pad_type": "custom", "pad": [padding] * 4}
        image, options = torch.from_numpy(picture), {"padding": padding, "ceil_mode": True}
        largest = torch.nn.functional.max_pool2d(image, size, stride, **options)
        np.testing.assert_array_equal(run("max_pool", **given), largest.numpy())
        for excluded in (True, False):
            mean = torch.nn.functional.avg_pool2d(image, size, stride, **options, count_include_pad=not excluded)
            found = run("avg_pool", **given, exclude_padding_from_average=excluded)
            np.testing.assert_allclose(found, mean.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("width", "kernel", "stride", "gap"), [(7, 3, 2, 1), (8, 4, 3, 1), (9, 2, 1, 2), (6, 2, 3, 1)])
def test_same_padding_keeps_the_shape_that_mil_infers(width: int, kernel: int, stride: int, gap: int) -> None:
    from coremltools.converters.mil.mil.ops.defs._utils import aggregated_pad

    x, weight = RNG.random((1, 1, width)).astype(np.float32), np.ones((1, 1, kernel), np.float32)
    (total,) = aggregated_pad("same", [kernel], [width], [stride], [gap])
    for kind, before in (("same", total // 2), ("same_lower", total - total // 2)):
        found = run("conv", x=x, weight=weight, strides=[stride], dilations=[gap], pad_type=kind)
        padded = np.pad(x[0, 0], (before, total - before))
        places = range(0, len(padded) - (kernel - 1) * gap, stride)
        assert found.shape[-1] == math.ceil(width / stride)
        np.testing.assert_allclose(
            found[0, 0], [padded[at : at + kernel * gap : gap].sum() for at in places], rtol=1e-5
        )


@pytest.mark.parametrize(
    ("operation", "inputs", "said"),
    [
        ("conv", {"x": IMAGE, "weight": KERNEL, "pad_type": "other"}, "pad_type 'other'"),
        ("split", {"x": X, "axis": 1, "num_splits": 2}, "3 cannot be split"),
        ("gelu", {"x": X, "mode": "OTHER"}, "OTHER"),
    ],
)
def test_what_is_not_evaluated_is_an_error(operation: str, inputs: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, KeyError), match=said):
        run(operation, **inputs)
