"""The ONNX form is what every consumer recognises as INT8, says nothing of the machine, and is exact layer by layer."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from edgepath.models.catalogue import ModelSpec, find_model
from edgepath.models.weights import build, random_model
from edgepath.program.calibrate import calibrate
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.forms import Program, capture, capture_image, to_fp16, to_onnx
from edgepath.program.linear import QuantizedLinear, quantize
from edgepath.program.smooth import smooth


def quantized(spec: ModelSpec, tiles: np.ndarray, **options: object) -> EdgeModel:
    model = fold(random_model(spec), spec, **options)  # type: ignore[arg-type]
    return quantize(model, smooth(model, calibrate(model, [tiles[:4]])))


@pytest.fixture(scope="module")
def gelu(tiny: ModelSpec) -> ModelSpec:
    spec = find_model("timm:vit_tiny_patch16_224")
    return replace(spec, timm_args={**spec.timm_args, "depth": 2})


@pytest.fixture(scope="module")
def forms(tiny: ModelSpec, gelu: ModelSpec, tiles: np.ndarray) -> dict[str, tuple[EdgeModel, onnx.ModelProto]]:
    """Folded models and their ONNX form: H0-mini's blocks in FP32, INT8 and with tokens, and timm's GELU ViT."""
    models = {
        "fp32": fold(random_model(tiny), tiny),
        "int8": quantized(tiny, tiles),
        "int8 tokens": quantized(tiny, tiles, embedding="cls+mean", tokens=True),
        "gelu int8": quantized(gelu, tiles),
    }
    return {name: (model, to_onnx(model)) for name, model in models.items()}


@pytest.fixture(scope="module")
def half(forms: dict[str, tuple[EdgeModel, onnx.ModelProto]]) -> dict[str, onnx.ModelProto]:
    return {name: to_fp16(copy.deepcopy(model)) for name, (_, model) in forms.items()}


INT8 = ["int8", "int8 tokens", "gelu int8"]
FORMS = ["fp32", *INT8]
Forms = dict[str, tuple[EdgeModel, onnx.ModelProto]]


def session(model: onnx.ModelProto, *, optimized: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimized else level.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


# --- what the file is


@pytest.mark.parametrize("name", FORMS)
def test_onnx_passes_the_checker_at_opset_20(name: str, forms: Forms, half: dict[str, onnx.ModelProto]) -> None:
    for model in (forms[name][1], half[name]):
        onnx.checker.check_model(model, full_check=True)
        assert {entry.domain: entry.version for entry in model.opset_import}[""] == 20
        assert {node.domain for node in model.graph.node} == {""}  # nothing that only one runtime knows
        assert not model.functions


@pytest.mark.parametrize("name", FORMS)
def test_inputs_and_outputs_keep_the_contract(name: str, forms: Forms, half: dict[str, onnx.ModelProto]) -> None:
    tokens = name == "int8 tokens"
    width = 192 if name == "gelu int8" or tokens else 96
    for model in (forms[name][1], half[name]):
        opened = session(model)
        (tiles,) = opened.get_inputs()
        assert (tiles.name, tiles.type, tiles.shape[1:]) == ("tiles", "tensor(uint8)", [224, 224, 3])
        assert isinstance(tiles.shape[0], str)  # any batch
        found = [(output.name, output.type, output.shape[1:]) for output in opened.get_outputs()]
        assert found == [("embedding", "tensor(float)", [width])] + tokens * [("tokens", "tensor(float)", [256, 96])]


@pytest.mark.parametrize("name", FORMS)
def test_norms_stay_fused(name: str, forms: Forms, half: dict[str, onnx.ModelProto]) -> None:
    # Taken apart, a LayerNorm overflows in FP16 on devices.
    norms = sum(isinstance(layer, nn.LayerNorm) for layer in forms[name][0].modules())
    assert norms == 5
    for model in (forms[name][1], half[name]):
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("LayerNormalization") == norms
        assert not {"ReduceMean", "Pow", "Sqrt", "ReduceL2"} & set(kinds) or name == "int8 tokens"
        assert kinds.count("ReduceMean") == (name == "int8 tokens")  # the mean of the patch tokens


@pytest.mark.parametrize("name", FORMS)
def test_file_says_nothing_of_the_machine(name: str, forms: Forms, half: dict[str, onnx.ModelProto]) -> None:
    for model in (forms[name][1], half[name]):
        content = model.SerializeToString()
        for word in (b"site-packages", b"Traceback", b"pkg.torch", b".py", b"stack_trace", b"edgepath/program"):
            assert word not in content, word
        # Text that starts with a root folder; weights are bytes, so only what protobuf calls a string is looked at.
        without_weights = copy.deepcopy(model)
        for tensor in without_weights.graph.initializer:
            tensor.raw_data = b""
        assert not re.search(rb"/(home|root|tmp|usr|work|opt|Users|var)/", without_weights.SerializeToString())
        assert not model.metadata_props
        assert not model.doc_string
        assert not model.graph.doc_string
        assert not model.graph.metadata_props
        parts = [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]
        for part in [*parts, *model.graph.initializer]:
            assert not part.metadata_props, part.name
            assert not part.doc_string, part.name
        assert (model.producer_name, model.producer_version) == ("edgepath", "")


# --- INT8 as consumers recognise it


@pytest.mark.parametrize("precision", ["fp32 around", "fp16 around"])
@pytest.mark.parametrize("name", INT8)
def test_every_linear_has_q_dq_on_both_inputs(
    name: str, precision: str, forms: Forms, half: dict[str, onnx.ModelProto]
) -> None:
    net, model = forms[name][0], forms[name][1] if precision == "fp32 around" else half[name]
    float_type = np.float32 if precision == "fp32 around" else np.float16
    layers = [layer for layer in net.modules() if isinstance(layer, QuantizedLinear)]
    made_by, constants = producers(model), initializers(model)
    products = [
        node
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and made_by.get(node.input[1], node).op_type == "DequantizeLinear"
    ]
    assert len(products) == len(layers) == (8 if "tokens" in name else 9)
    weights = []
    for node in products:
        activation, weight = (made_by[value] for value in node.input[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        quantizer = made_by[activation.input[0]]
        assert quantizer.op_type == "QuantizeLinear"
        scale, *zero_point = (constants[value] for value in quantizer.input[1:])
        assert scale.shape == ()  # one scale for the tensor
        assert scale.dtype == float_type
        assert all(not value.any() and value.dtype == np.int8 for value in zero_point)
        np.testing.assert_array_equal(constants[activation.input[1]], scale)
        assert len(weight.input) == 2  # no zero-point
        integers, scales = constants[weight.input[0]], constants[weight.input[1]]
        assert integers.dtype == np.int8
        assert scales.dtype == float_type
        (axis,) = (attribute.i for attribute in weight.attribute if attribute.name == "axis")
        assert axis == 1
        assert scales.shape == (integers.shape[1],)  # one scale for each output
        weights.append((integers, scales, scale))
    # Every layer of the program is there with its very integers and scales.
    for layer in layers:
        assert any(
            integers.shape == (layer.in_features, layer.out_features)
            and np.array_equal(integers.T, layer.weight.numpy())
            and np.array_equal(scales.astype(np.float32), layer.weight_scale.numpy())
            and float(scale) == layer.input_scale
            for integers, scales, scale in weights
        )


@pytest.mark.parametrize("name", INT8)
def test_no_transpose_stands_behind_a_weight(name: str, forms: Forms, half: dict[str, onnx.ModelProto]) -> None:
    for model in (forms[name][1], half[name]):
        made_by, constants = producers(model), initializers(model)
        for node in model.graph.node:
            if node.op_type == "Transpose":
                assert node.input[0] not in constants
                assert made_by.get(node.input[0], node).op_type != "DequantizeLinear"
        assert not [name for name, value in constants.items() if value.dtype == np.int8 and value.ndim == 1]
        used = {value for node in model.graph.node for value in node.input}
        assert {tensor.name for tensor in model.graph.initializer} <= used


@pytest.mark.parametrize("name", FORMS)
def test_fp16_form_is_fp16_inside_and_keeps_its_borders(name: str, half: dict[str, onnx.ModelProto]) -> None:
    model = half[name]
    for tensor in model.graph.initializer:
        assert tensor.data_type != TensorProto.FLOAT, tensor.name
        if tensor.data_type == TensorProto.FLOAT16:
            assert np.isfinite(numpy_helper.to_array(tensor)).all()
    casts = [attribute.i for node in model.graph.node if node.op_type == "Cast" for attribute in node.attribute]
    assert casts.count(TensorProto.FLOAT) == len(model.graph.output)  # only at the way out
    for node in model.graph.node:
        if node.op_type == "Constant":
            assert node.attribute[0].t.data_type != TensorProto.FLOAT


@pytest.mark.parametrize("name", INT8)
def test_scales_are_in_fp16_what_they_are_in_fp32(name: str, forms: Forms, half: dict[str, onnx.ModelProto]) -> None:
    def scales(model: onnx.ModelProto) -> list[np.ndarray]:
        constants = initializers(model)
        nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
        return [constants[node.input[1]].astype(np.float32) for node in nodes]

    for full, short in zip(scales(forms[name][1]), scales(half[name]), strict=True):
        np.testing.assert_array_equal(full, short)


# --- numbers


def in_torch(net: EdgeModel, tiles: np.ndarray) -> list[np.ndarray]:
    with torch.inference_mode():
        found = net(torch.from_numpy(tiles))
    return [value.numpy() for value in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("batch", [1, 3])
def test_fp32_equals_pytorch_end_to_end(batch: int, forms: Forms, tiles: np.ndarray) -> None:
    net, model = forms["fp32"]
    wanted = in_torch(net, tiles[:batch])[0]
    for optimized in (False, True):
        (found,) = session(model, optimized=optimized).run(None, {"tiles": tiles[:batch]})
        assert found.shape == (batch, 96)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", INT8)
def test_int8_is_no_further_from_pytorch_than_rounding_carries(
    name: str, batch: int, forms: Forms, tiles: np.ndarray
) -> None:
    # End to end, a value that lies on the edge of two integers falls either way, and blocks pass that on: the program
    # differs as much from itself when its input moves by 1e-6. Layer by layer (below) there is no such excuse.
    net, model = forms[name]
    for wanted, found in zip(
        in_torch(net, tiles[:batch]), session(model).run(None, {"tiles": tiles[:batch]}), strict=True
    ):
        assert found.shape == wanted.shape
        a, b = (value.reshape(batch, -1).astype(np.float64) for value in (wanted, found))
        cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() > 0.9999


def test_fp16_is_near_fp32(forms: Forms, half: dict[str, onnx.ModelProto], tiles: np.ndarray) -> None:
    wanted = in_torch(forms["fp32"][0], tiles[:2])[0]
    (found,) = session(half["fp32"]).run(None, {"tiles": tiles[:2]})
    assert found.dtype == np.float32
    # FP16 has 11 bits: 5e-4 a rounding, some tens of them on the way.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-2 * np.abs(wanted).max())
    assert not np.array_equal(found, wanted)


class SideBySide(nn.Module):
    """Single layers, each fed from the tiles by itself, with the interface of a model: lowered by the same function."""

    size, tokens = 8, False

    def __init__(self, layers: list[QuantizedLinear]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        # Powers of two bring every layer's input to the size of its range; products and sums of such few bits are exact
        # in FP32, so both sides hand a layer the very same values.
        generator = torch.Generator().manual_seed(3)
        for index, layer in enumerate(layers):
            spread = torch.randint(-8, 9, (8 * 8 * 3, layer.in_features), generator=generator).float()
            largest = 255.0 * 8 * 40  # about 4 standard deviations of such a sum
            spread *= 2.0 ** round(float(np.log2(127 * layer.input_scale / largest)))
            self.register_buffer(f"spread{index}", spread)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        flat = tiles.to(torch.float32).reshape(-1, 1, 8 * 8 * 3)
        parts = [layer(flat @ getattr(self, f"spread{index}")) for index, layer in enumerate(self.layers)]
        return torch.cat(parts, dim=-1)[:, 0]


@pytest.mark.parametrize("name", ["int8", "gelu int8"])
def test_every_quantized_layer_by_itself_equals_pytorch(name: str, forms: Forms) -> None:
    layers = {key: layer for key, layer in forms[name][0].named_modules() if isinstance(layer, QuantizedLinear)}
    assert len(layers) == 9
    alone = SideBySide(list(layers.values()))
    tiles = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    with torch.inference_mode():
        wanted = alone(torch.from_numpy(tiles)).numpy()
    (found,) = session(to_onnx(alone)).run(None, {"tiles": tiles})  # type: ignore[arg-type]
    ends = np.cumsum([layer.out_features for layer in layers.values()])
    assert wanted.shape == (60, ends[-1])
    for (key, layer), end in zip(layers.items(), ends, strict=True):
        columns = slice(end - layer.out_features, end)
        w, f = wanted[:, columns], found[:, columns]
        largest = np.abs(w).max()
        assert largest > 0.1
        # Up to 768 products summed in another order: a few roundings of FP32. One input that rounds to the neighbouring
        # integer moves an output by about 1e-3 of the largest.
        np.testing.assert_allclose(f, w, rtol=0, atol=2e-6 * largest, err_msg=key)


# --- other entries


def test_program_equals_its_model_and_nudges_little(forms: Forms, tiles: np.ndarray) -> None:
    for name in FORMS:
        net, _ = forms[name]
        program = Program(net)
        assert program.outputs == (("embedding", "tokens") if "tokens" in name else ("embedding",))
        wanted, found, nudged = in_torch(net, tiles[:2])[0], program(tiles[:2]), program.nudged(tiles[:2])
        np.testing.assert_allclose(
            found, wanted, rtol=0, atol=(1e-2 if "int8" in name else 1e-5) * np.abs(wanted).max()
        )
        assert found.dtype == np.float32
        assert not np.array_equal(nudged, found)
        assert np.array_equal(nudged, program.nudged(tiles[:2]))  # the same nudge every time
        np.testing.assert_allclose(nudged, found, rtol=0, atol=0.1 * np.abs(found).max())


@pytest.mark.parametrize("view", [lambda t: t[::2], lambda t: t[:, ::-1], lambda t: t[:, :, ::-1, ::-1]])
def test_program_takes_any_view_of_tiles(
    view: Callable[[np.ndarray], np.ndarray], forms: Forms, tiles: np.ndarray
) -> None:
    program, seen = Program(forms["fp32"][0]), view(tiles[:2])
    np.testing.assert_array_equal(program(seen), program(np.ascontiguousarray(seen)))
    frozen = np.ascontiguousarray(seen)
    frozen.flags.writeable = False
    np.testing.assert_array_equal(program(frozen), program(seen))


def test_exported_programs_equal_their_model(forms: Forms, tiles: np.ndarray) -> None:
    net = forms["fp32"][0]
    wanted = in_torch(net, tiles[:3])[0]
    with torch.inference_mode():
        raw = capture(net).module()(torch.from_numpy(tiles[:3])).numpy()
        pixels = torch.from_numpy(np.ascontiguousarray(tiles[:1].transpose(0, 3, 1, 2))).float()
        image = capture_image(net).module()(pixels).numpy()
    np.testing.assert_allclose(raw, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(image, wanted[:1], rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_lowering_leaves_model_and_streams_alone(
    forms: Forms, tiles: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    net = forms["int8"][0]
    before = in_torch(net, tiles[:1])[0]
    capfd.readouterr()
    assert to_onnx(net).SerializeToString() == forms["int8"][1].SerializeToString()  # the same file every time
    np.testing.assert_array_equal(in_torch(net, tiles[:1])[0], before)
    assert capfd.readouterr() == ("", "")


def test_models_of_any_image_size_lower_without_resampling(tiny: ModelSpec, tiles: np.ndarray) -> None:
    fixed = random_model(tiny)
    dynamic = build(replace(tiny, timm_args={**tiny.timm_args, "dynamic_img_size": True})).eval()
    dynamic.load_state_dict(fixed.state_dict())
    forms = [capture_image(fold(vit, tiny)) for vit in (fixed, dynamic)]
    names = [[str(node.target) for node in form.graph.nodes if node.op == "call_function"] for form in forms]
    assert names[0] == names[1]
    pixels = torch.from_numpy(np.ascontiguousarray(tiles[:1].transpose(0, 3, 1, 2))).float()
    with torch.inference_mode():
        one, other = (form.module()(pixels) for form in forms)
    assert torch.equal(one, other)


def test_full_precision_becomes_onnx_in_a_process_of_its_own() -> None:
    """As `bench --against fp32` needs it: nothing else may have registered the program's operations."""
    script = """
import sys
from edgepath.models.catalogue import find_model
from edgepath.models.spec import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.fold import fold
from edgepath.program.forms import to_onnx
known = find_model("h0-mini")
args = {**known.timm_args, "embed_dim": 96, "num_heads": 3, "depth": 1}
tiny = ModelSpec("tiny", "", known.timm_name, args, known.mean, known.std, "Apache-2.0")
model = to_onnx(fold(random_model(tiny), tiny))
assert "edgepath.program.linear" not in sys.modules
print(len(model.graph.node))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 20
