"""Each layer of an artifact, alone, computes what the program's does; a fault in one shows in that one only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.backends import builds_of
from edgepath.backends.contents import Layer, Product
from edgepath.bundle.bundle import Bundle
from edgepath.checks.debugging import debug
from edgepath.checks.layerwise import Proof, _hold, expected, prove, quantized
from edgepath.exporting import Exported
from edgepath.program.delegable import BOUNDS
from edgepath.program.formats import FP8, INT8, to_numpy
from edgepath.program.forms import Program
from edgepath.program.rebuilding import rebuild, same_weights
from edgepath.recipes.recipe import Recipe
from edgepath.reports.tables.checks import layer_table

Exports = Callable[[str], Exported]
Altered = Callable[[str, Callable[[Path], object]], Bundle]
QUANTIZED = ("thor-fp8", "onnx-int8", "jetson-int8", "openvino-int8", "coreml-int8", "executorch-int8")
FC2 = "vit.blocks.0.mlp.fc2"
PROJ = ("vit.blocks.0.attn.proj", "vit.blocks.1.attn.proj")  # of one shape


def program_of(bundle: Bundle) -> Any:
    vit, spec, _ = same_weights(bundle, None)
    recipe = Recipe.from_json(bundle.manifest["recipe"])
    return Program(rebuild(bundle, recipe, vit, spec), recipe).lowered


def proofs_of(bundle: Bundle) -> dict[str, Proof]:
    return prove(program_of(bundle), bundle.artifact, bundle.golden()[0][:1])


@pytest.mark.parametrize("target", QUANTIZED)
def test_every_layer_computes_the_programs_integers(exports: Exports, target: str) -> None:
    proofs = proofs_of(exports(target).bundle)
    assert len(proofs) == (14 if builds_of(exports(target).bundle.backend).split_projections else 9)
    for name, proof in proofs.items():
        assert proof.holds, (name, proof)
        # 261 tokens enter all but the last block's query and what comes after it, which are of the class token.
        assert proof.integers in (96, 256, 261 * 96, 261 * 256)
        assert proof.differ <= 1e-4 * proof.integers
        # FP32 loses next to nothing of sums this short; FP16 keeps 11 bits of them.
        # E4M3's largest number is 3.5 times that of integers, and a step here is that of 1, not of the largest.
        exact = target in ("onnx-int8", "openvino-int8", "executorch-int8")
        assert proof.error_steps < (0.5 if exact else 2500 if target == "thor-fp8" else 200)


def test_nothing_is_proved_where_nothing_is_quantized(exports: Exports) -> None:
    assert proofs_of(exports("onnx-fp32").bundle) == {}


def swapped(weights: list[np.ndarray], file: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        one, other = (weight.tobytes() for weight in weights)
        data = bytearray((folder / file).read_bytes())
        assert data.count(one) == data.count(other) == 1
        first, second = data.index(one), data.index(other)
        data[first : first + len(one)], data[second : second + len(one)] = other, one
        (folder / file).write_bytes(data)

    return change


@pytest.mark.parametrize("target", QUANTIZED)
def test_a_swapped_weight_shows_in_its_layers_alone(exports: Exports, altered: Altered, target: str) -> None:
    program = program_of(exports(target).bundle)
    weights = [to_numpy(program.get_submodule(name).weight) for name in PROJ]
    if target == "executorch-int8":
        weights = [np.pad(weight, ((0, 0), (0, BOUNDS))) for weight in weights]
    elif target != "coreml-int8":
        weights = [np.ascontiguousarray(weight.T) for weight in weights]
    file = {"openvino-int8": "model.bin", "coreml-int8": "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"}
    file["executorch-int8"] = "model.pte"
    proofs = proofs_of(altered(target, swapped(weights, file.get(target, "model.onnx"))))
    assert [name for name, proof in proofs.items() if not proof.holds] == list(PROJ)
    assert all(proofs[name].error_of_bound > 2 and not proofs[name].unexplained for name in PROJ)


def input_scale(folder: Path) -> None:
    """Round one layer's input with a scale a hundredth larger."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / "model.onnx")
    node = [one for one in model.graph.node if one.op_type == "QuantizeLinear"][3]
    old = numpy_helper.to_array(next(one for one in model.graph.initializer if one.name == node.input[1]))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(old * 1.01, old.dtype), "other_scale"))
    node.input[1] = "other_scale"
    onnx.save(model, folder / "model.onnx")


@pytest.mark.parametrize("target", ["onnx-int8", "jetson-int8", "thor-fp8"])
def test_an_input_rounded_otherwise_shows_in_its_integers(altered: Altered, target: str) -> None:
    proofs = proofs_of(altered(target, input_scale))
    assert [name for name, proof in proofs.items() if proof.unexplained] == [FC2]
    assert proofs[FC2].unexplained > 0.001 * proofs[FC2].integers


def test_debug_shows_proofs_and_names_what_is_unproved(exports: Exports, altered: Altered) -> None:
    result = debug(exports("onnx-int8").bundle, tiles="synthetic:2")
    assert result["unproved"] == []
    assert all(row["proof"]["integers"] > 0 for row in result["layers"])
    shown = layer_table(result)
    assert len(shown.rows[0]) == len(shown.header)
    assert str(shown.rows[0][shown.header.index("integers differ")]).startswith("0 of ")
    assert debug(altered("onnx-int8", input_scale), tiles="synthetic:2")["unproved"] == [FC2]


def test_an_artifact_of_another_form_is_not_proved_but_named(altered: Altered) -> None:
    def change(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / "model.onnx")
        norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
        norm.op_type = "Identity"
        del norm.input[1:], norm.attribute[:]
        onnx.save(model, folder / "model.onnx")

    result = debug(altered("onnx-int8", change), tiles="synthetic:1")
    assert result["parts"]["differences"] == ["4 norms, the program has 5"]
    assert {row["proof"] for row in result["layers"]} == {None}


# --- the arithmetic it is held against


def test_exact_output_and_bound() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (5, 64)).astype(np.int8)
    scale, bias = rng.uniform(0.001, 0.01, 5).astype(np.float32), rng.standard_normal(5).astype(np.float32)
    product = Product(weight, bias, scale, (0.25, 0.5))
    integers = rng.integers(-128, 128, (1, 7, 64)).astype(np.int8)
    exact, bound, unit = expected(product, integers, half=False)
    for token in range(7):
        for row in range(5):
            whole = sum(int(a) * int(b) for a, b in zip(integers[0, token], weight[row], strict=True))
            # Dequantized with the second of its scales.
            assert exact[0, token, row] == pytest.approx(whole * 0.5 * float(scale[row]) + float(bias[row]), rel=1e-12)
    np.testing.assert_allclose(unit, 0.5 * scale.astype(np.float64))
    assert (bound > 0).all()
    factors = [integers.astype(np.float32) * np.float32(0.5), weight.astype(np.float32) * scale[:, None]]
    assert (np.abs(factors[0] @ factors[1].T + bias - exact) <= bound).all()
    halves = [factor.astype(np.float16).astype(np.float32) for factor in factors]
    computed = (halves[0] @ halves[1].T).astype(np.float16) + bias.astype(np.float16)
    exact, wide, _ = expected(product, integers, half=True)
    assert (np.abs(computed.astype(np.float64) - exact) <= wide).all()
    assert (np.abs(computed.astype(np.float64) - exact) > bound).any(), "FP16 was not rounded"


def test_8_bit_numbers_are_rounded_half_to_even_and_clipped() -> None:
    x = np.array([0.5, 1.5, -0.5, -1.5, 2.4, 300, -300], np.float32) * np.float32(0.25)
    assert quantized(x, 0.25, INT8).tolist() == [0, 2, 0, -2, 2, 127, -128]
    x = np.array([1.0625, 1.1875, -1.1, 500, -500, 1e-3, 9e-4], np.float32) * np.float32(0.25)
    assert quantized(x, 0.25, FP8).tolist() == [1.0, 1.25, -1.125, 448, -448, 2**-9, 0]


def test_a_layer_that_says_no_number_is_not_proved() -> None:
    rng = np.random.default_rng(0)
    weight, scale = rng.integers(-127, 128, (4, 8)).astype(np.int8), np.full(4, 0.01, np.float32)
    product = Product(weight, np.zeros(4, np.float32), scale, (0.02, 0.02))
    x = rng.normal(size=(1, 3, 8)).astype(np.float32)
    integers = quantized(x, 0.02, INT8).astype(np.int8)
    exact = expected(product, integers, half=False)[0].astype(np.float32)
    for output, holds in ((exact, True), (np.full_like(exact, np.nan), False)):
        proof = Proof()
        _hold(proof, product, Layer(False, lambda _, output=output: (integers, output, output)), x)  # type: ignore[misc]
        assert proof.holds == holds
