"""Casts, quantization and packed weights, against NumPy formulas and coremltools' own decompression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgepath.backends.mil_program.ops import OPERATIONS

RNG = np.random.default_rng(1)


def run(operation: str, **inputs: Any) -> np.ndarray:
    tensors = {k: v if isinstance(v, str) else torch.from_numpy(np.array(v)) for k, v in inputs.items()}
    found: np.ndarray = OPERATIONS[operation](**tensors).numpy()
    return found


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_halves_round_to_even_and_the_whole_range_is_used() -> None:
    found = run(
        "quantize",
        input=f32(-0.5, 0.5, 1.5, 2.5, -2.5, 126.5, 127.5, 500, -128, -129.5),
        scale=np.float32(1),
        output_dtype="int8",
    )
    assert found.tolist() == [0, 0, 2, 2, -2, 126, 127, 127, -128, -128]


def test_zero_point_is_added_after_rounding_and_before_clipping() -> None:
    x = f32(-1.5, 0, 0.25, 30, 400)
    found = run("quantize", input=x, scale=np.float32(0.5), zero_point=np.uint8(100), output_dtype="uint8")
    assert found.tolist() == [97, 100, 100, 160, 255]
    back = run("dequantize", input=found.astype(np.uint8), scale=np.float32(0.5), zero_point=np.uint8(100))
    assert back.tolist() == [-1.5, 0, 0, 30, 77.5]


@pytest.mark.parametrize("axis", [1, -2])
def test_vectors_run_along_their_axis(axis: int) -> None:
    x, scale = RNG.standard_normal((2, 3, 4)).astype(np.float32), f32(0.1, 0.2, 0.05)
    zero = np.array([1, -2, 3], np.int8)
    wanted = np.clip(np.round(x / scale[:, None]) + zero[:, None], -128, 127)
    found = run("quantize", input=x, scale=scale, zero_point=zero, axis=np.int32(axis), output_dtype="int8")
    np.testing.assert_array_equal(found, wanted)
    back = run("dequantize", input=found.astype(np.int8), scale=scale, zero_point=zero, axis=np.int32(axis))
    np.testing.assert_allclose(back, (wanted - zero[:, None]) * scale[:, None], rtol=1e-6)


def test_quantizing_is_what_coremltools_evaluates() -> None:
    from coremltools.optimize._utils import quantize_by_scale_and_zp

    x = (RNG.standard_normal(10_000) * 3).astype(np.float32)
    wanted = quantize_by_scale_and_zp(x, np.float32(0.037), None, "int8")
    np.testing.assert_array_equal(run("quantize", input=x, scale=np.float32(0.037), output_dtype="int8"), wanted)
    assert len(np.unique(wanted)) > 200


def test_nan_stays_and_infinity_is_clipped() -> None:
    found = run("quantize", input=f32(np.nan, np.inf, -np.inf), scale=np.float32(0.1), output_dtype="int8")
    assert np.isnan(found[0])
    assert found[1:].tolist() == [127, -128]


def test_casts() -> None:
    x = f32(-1.75, -0.5, 0, 0.5, 1.75)
    assert run("cast", x=x, dtype="int32").tolist() == [-1, 0, 0, 0, 1]
    assert run("cast", x=x, dtype="bool").tolist() == [True, True, False, True, True]
    assert run("cast", x=np.array([3, -4]), dtype="fp16").tolist() == [3.0, -4.0]


@pytest.mark.parametrize("blocks", [(6, 1), (1, 1), (1, 4), (2, 4), (6, 8), (3, 2)])
@pytest.mark.parametrize("offset", [False, True])
def test_blocks_of_weights_have_a_scale_each(blocks: tuple[int, int], offset: bool) -> None:
    data = RNG.integers(-128, 128, (6, 8)).astype(np.int8)
    scale = RNG.random(blocks).astype(np.float32)
    shift = RNG.integers(-9, 9, blocks).astype(np.int8)
    wanted = np.empty((6, 8))
    for i in range(6):
        for j in range(8):  # i0 = floor(i / block_size), as documented
            at = (i // (6 // blocks[0]), j // (8 // blocks[1]))
            wanted[i, j] = float(scale[at]) * (int(data[i, j]) - (int(shift[at]) if offset else 0))
    given = {"data": data, "scale": scale} | ({"offset": shift} if offset else {})
    np.testing.assert_allclose(run("constexpr_blockwise_shift_scale", **given), wanted, rtol=1e-6)
