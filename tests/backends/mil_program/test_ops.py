"""Each operation alone, against formulas in NumPy written from the documentation of MIL's operations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from edgepath.backends.mil_program.ops import OPERATIONS

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
    ("reduce_mean", {"x": X}, X.mean()),
    ("reduce_mean", {"x": X, "axes": [1]}, X.mean(1)),
    ("reduce_mean", {"x": X, "axes": [0, -1], "keep_dims": True}, X.mean((0, 2), keepdims=True)),
    ("reshape", {"x": X, "shape": [4, 6]}, X.reshape(4, 6)),
    ("reshape", {"x": X, "shape": [2, -1]}, X.reshape(2, 12)),
    ("reshape", {"x": X, "shape": [0, 2, -1]}, X.reshape(2, 2, 6)),  # 0: as x has it
    ("transpose", {"x": X, "perm": [2, 0, 1]}, X.transpose(2, 0, 1)),
    ("squeeze", {"x": X[:1, :, :1], "axes": [0]}, X[0, :, :1]),
    ("squeeze", {"x": X[:1, :, :1], "axes": [-1, 0, 1]}, X[0, :, 0]),  # what is not 1 long is left alone
    ("squeeze", {"x": X[:1, :, :1]}, X[0, :, 0]),
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
    ("add", {"x": X, "y": Y[0]}, X + Y[0]),
    ("sub", {"x": X, "y": Y}, X - Y),
    ("mul", {"x": X, "y": 0.5}, X * np.float32(0.5)),
    ("real_div", {"x": X, "y": Y}, X / Y),
    ("sigmoid", {"x": X}, 1 / (1 + np.exp(-X))),
    ("relu", {"x": X}, np.maximum(X, 0)),
    ("silu", {"x": 3 * X}, 3 * X / (1 + np.exp(-3 * X))),
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


def test_every_operation_is_tested() -> None:
    elsewhere = {
        name
        for name, function in OPERATIONS.items()
        if function.__module__ == "edgepath.backends.mil_program.conversions"
    }
    # Those have a file of their own.
    assert {case[0] for case in CASES} == set(OPERATIONS) - elsewhere


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
