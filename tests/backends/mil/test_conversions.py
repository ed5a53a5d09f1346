"""Casts, quantization and packed weights, against NumPy formulas and coremltools' own decompression."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgepath.backends.mil.ops import OPERATIONS

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
    assert run("constexpr_cast", source_val=x, output_dtype="fp32").tolist() == x.tolist()


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


def test_affine_weights() -> None:
    data, zero = RNG.integers(0, 256, (3, 4)).astype(np.uint8), np.array([128, 0, 7], np.uint8)
    scale = f32(0.1, 0.2, 0.3)
    found = run("constexpr_affine_dequantize", quantized_data=data, zero_point=zero, scale=scale, axis=np.int32(0))
    np.testing.assert_allclose(found, scale[:, None] * (data.astype(int) - zero[:, None]), rtol=1e-6)


def test_tables_of_the_documentation() -> None:
    lut = f32(1, 5, 9, 13, 2, 10, 18, 26).reshape(2, 1, 4, 1)
    indices = np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], np.uint8).reshape(6, 2)
    assert run("constexpr_lut_to_dense", indices=indices, lut=lut).tolist() == [
        [9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26],
    ]  # fmt: skip


def test_packed_table_of_ios16() -> None:
    # The documentation's own: shape (5,), 2 bits an index, indices 0, 3, 2, 1, 3.
    packed = np.array([0b01101100, 0b00000011], np.uint8)
    found = run("constexpr_lut_to_dense", indices=packed, lut=f32(10, 11, 12, 13), shape=np.array([5]))
    assert found.tolist() == [10, 13, 12, 11, 13]
    six = [63, 0, 33, 5]  # 24 bits, over the edges of bytes
    stream = sum(index << (6 * place) for place, index in enumerate(six))
    packed = np.array([stream >> shift & 255 for shift in (0, 8, 16)], np.uint8)
    lut = RNG.random(64).astype(np.float32)
    found = run("constexpr_lut_to_dense", indices=packed, lut=lut, shape=np.array([2, 2]))
    np.testing.assert_array_equal(found, lut[six].reshape(2, 2))


def test_sparse_weights() -> None:
    # iOS16, as documented: the mask 0b01100 of five elements, lowest bit first.
    found = run(
        "constexpr_sparse_to_dense", nonzero_data=f32(7, 8), mask=np.array([0b01100], np.uint8), shape=np.array([5])
    )
    assert found.tolist() == [0, 0, 7, 8, 0]
    mask = np.array([[1, 0, 1], [0, 0, 1]], np.uint8)  # iOS18
    found = run("constexpr_sparse_to_dense", nonzero_data=np.array([5, -6, 7], np.int8), mask=mask)
    assert (found.dtype, found.tolist()) == (np.int8, [[5, 0, -6], [0, 0, 7]])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_vectors_of_a_table_fill_their_axis(axis: int) -> None:
    from coremltools.optimize._utils import lut_to_dense

    indices, lut = RNG.integers(0, 4, (2, 6, 4)).astype(np.uint8), RNG.random((1, 1, 1, 4, 3)).astype(np.float32)
    found = run("constexpr_lut_to_dense", indices=indices, lut=lut, vector_axis=np.int32(axis))
    np.testing.assert_array_equal(found, lut_to_dense(indices, lut, axis))
