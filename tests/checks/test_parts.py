"""A fault in an artifact is found where it is, in the files of every runtime; and nothing else is."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgepath
from edgepath.backends import builds_of
from edgepath.backends.mil_program.program import load_program
from edgepath.backends.reading import read_parts
from edgepath.bundle.bundle import Bundle, open_bundle
from edgepath.checks.gates import parts_gate
from edgepath.checks.parts import differences, named_parts, named_tables
from edgepath.errors import BundleError
from edgepath.exporting import Exported
from edgepath.program.delegable import BOUNDS
from edgepath.program.forms import Program
from edgepath.program.rebuilding import rebuild, same_weights
from edgepath.recipes.recipe import Recipe

Exports = Callable[[str], Exported]
Altered = Callable[[str, Callable[[Path], object]], Bundle]
NEEDS_TORCHTRT = pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("torch_tensorrt", "tensorrt_rtx_bindings")),
    reason="needs the extra torchtrt",
)
TARGETS = (
    *("onnx-fp32", "onnx-int8", "openvino-fp16", "openvino-int8"),
    *("jetson-fp16", "jetson-int8", "rtx-fp16", "rtx-int8", "coreml-fp16", "coreml-int8"),
    *(pytest.param(target, marks=NEEDS_TORCHTRT) for target in ("torchtrt-fp16", "torchtrt-int8")),
    *("executorch-fp32", "executorch-int8", "thor-fp8"),
)
PROJ = ("vit.blocks.0.attn.proj", "vit.blocks.1.attn.proj")  # of one shape
QKV = "vit.blocks.0.attn.qkv"


def program_of(bundle: Bundle) -> Any:
    """Return a bundle's program as its artifact was lowered from it."""
    vit, spec, _ = same_weights(bundle, None)
    recipe = Recipe.from_json(bundle.manifest["recipe"])
    return Program(rebuild(bundle, recipe, vit, spec), recipe).lowered


def first_product(bundle: Bundle) -> str:
    """Return the name of the first product of the first block: of query, key and value, or of the query alone."""
    return f"{QKV}.0" if is_cut(bundle) else QKV


def is_cut(bundle: Bundle) -> bool:
    return builds_of(bundle.backend).split_projections and bundle.manifest["recipe"]["precision"]["linear"] == "int8"


@functools.cache
def program_in(path: Path) -> Any:
    """Return the program of a bundle that stays as it is, built once."""
    return program_of(open_bundle(path))


def found_in(bundle: Bundle) -> list[str]:
    return list(map(str, differences(program_of(bundle), bundle.artifact)))


@pytest.mark.parametrize("target", TARGETS)
def test_every_artifact_is_its_program(exports: Exports, target: str) -> None:
    done = exports(target)
    assert found_in(done.bundle) == []
    products, norms = named_parts(program_of(done.bundle))
    read = read_parts(done.bundle.artifact)
    count = 15 if is_cut(done.bundle) else 10
    assert (len(read.products), len(read.norms)) == (len(products), len(norms)) == (count, 5)
    int8 = target.endswith("int8")
    assert sum(product.weight.dtype == np.int8 for product in read.products) == (count - 1 if int8 else 0)
    assert parts_gate([]).to_json() in done.report["gates"]


class Faults:
    """The four faults, as a change to the files of one kind of artifact."""

    def __init__(self, stored: dict[str, np.ndarray], first: str, scale: np.ndarray, file: str, wider: int) -> None:
        self.stored, self.first, self.scale, self.file = stored, first, scale, file
        weight = stored[first]
        numbers = weight[:, : weight.shape[1] - wider]
        self.other = np.pad(numbers.T.reshape(numbers.shape), ((0, 0), (0, wider)))

    def swapped(self, folder: Path) -> None:
        one, other = (self.stored[name].tobytes() for name in PROJ)
        data = bytearray((folder / self.file).read_bytes())
        assert data.count(one) == data.count(other) == 1
        places = data.index(one), data.index(other)
        data[places[0] : places[0] + len(one)], data[places[1] : places[1] + len(one)] = other, one
        (folder / self.file).write_bytes(data)

    def transposed(self, folder: Path) -> None:
        self._replace(folder, self.stored[self.first], self.other)

    def scaled(self, folder: Path) -> None:
        self._replace(folder, self.scale, (self.scale * 1.25).astype(self.scale.dtype))

    def _replace(self, folder: Path, old: np.ndarray, new: np.ndarray) -> None:
        data = (folder / self.file).read_bytes()
        assert data.count(old.tobytes()) == 1
        (folder / self.file).write_bytes(data.replace(old.tobytes(), new.tobytes()))


def faults(bundle: Bundle) -> Faults:
    """Return the numbers of a bundle's program as its artifact stores them."""
    products, _ = named_parts(program_of(bundle))
    turned = bundle.backend not in ("coreml", "executorch")  # ONNX and OpenVINO store (in, out)
    wider = BOUNDS if bundle.backend == "executorch" else 0
    stored = {
        name: np.pad(product.weight.T if turned else product.weight, ((0, 0), (0, wider)))
        for name, product in products.items()
        if product.scale is not None
    }
    half = bundle.backend in ("coreml", "tensorrt")
    first = first_product(bundle)
    scale = products[first].scale
    assert scale is not None
    kept = scale.astype(np.float16 if half else np.float32)
    return Faults(stored, first, kept, weights_file(bundle), wider)


def weights_file(bundle: Bundle) -> str:
    file = {"openvino": "model.bin", "coreml": "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"}
    return file.get(bundle.backend, "model.pte" if bundle.backend == "executorch" else "model.onnx")


@pytest.mark.parametrize(
    "target", ["onnx-int8", "jetson-int8", "thor-fp8", "openvino-int8", "coreml-int8", "executorch-int8"]
)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("swapped", rf"^{re.escape(PROJ[0])}: \d+ of 9216 (integers|weights) differ$"),
        ("transposed", r"^FIRST: \d+ of (27648|9216) (integers|weights) differ$"),
        ("scaled", r"^FIRST: scales of its weights differ \(relative L2 0\.25\)$"),
    ],
)
def test_a_swapped_transposed_or_scaled_weight_is_found(
    exports: Exports, altered: Altered, target: str, fault: str, said: str
) -> None:
    bundle = exports(target).bundle
    found = found_in(altered(target, getattr(faults(bundle), fault)))
    assert len(found) == (2 if fault == "swapped" else 1)
    assert re.search(said.replace("FIRST", re.escape(first_product(bundle))), found[0])


def onnx_epsilon(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    norm = [node for node in model.graph.node if node.op_type == "LayerNormalization"][1]
    next(one for one in norm.attribute if one.name == "epsilon").f = 1e-3
    onnx.save(model, folder / "model.onnx")


def openvino_epsilon(folder: Path) -> None:
    text = (folder / "model.xml").read_text()
    places = [match.span() for match in re.finditer(r'(?<=eps=")[^"]+', text)]
    assert len(places) == 5
    (folder / "model.xml").write_text(text[: places[1][0]] + "0.001" + text[places[1][1] :])


def coreml_epsilon(folder: Path) -> None:
    from coremltools.proto import Model_pb2

    path = folder / "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    spec = Model_pb2.Model()
    spec.ParseFromString(path.read_bytes())
    function = spec.mlProgram.functions["main"]
    operations = function.block_specializations[function.opset].operations
    norm = [one for one in operations if one.type == "layer_norm"][1]
    name = norm.inputs["epsilon"].arguments[0].name
    const = next(one for one in operations if one.outputs and one.outputs[0].name == name)
    const.attributes["val"].immediateValue.tensor.bytes.values = np.float16(1e-3).tobytes()
    path.write_bytes(spec.SerializeToString())


@pytest.mark.parametrize(
    ("target", "change"),
    [
        ("onnx-int8", onnx_epsilon),
        ("onnx-fp32", onnx_epsilon),
        ("jetson-int8", onnx_epsilon),
        ("thor-fp8", onnx_epsilon),
        ("openvino-int8", openvino_epsilon),
        ("openvino-fp16", openvino_epsilon),
        ("coreml-int8", coreml_epsilon),
        ("coreml-fp16", coreml_epsilon),
    ],
)
def test_another_epsilon_is_found(altered: Altered, target: str, change: Callable[[Path], None]) -> None:
    bundle = altered(target, change)
    assert found_in(bundle) == ["vit.blocks.0.norm2: epsilon 0.001, the program's is 1e-06"]


def input_scale(folder: Path) -> None:
    """Quantize and dequantize one layer's input with scales of their own."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / "model.onnx")
    node = [one for one in model.graph.node if one.op_type == "QuantizeLinear"][3]
    old = next(one for one in model.graph.initializer if one.name == node.input[1])
    model.graph.initializer.append(
        numpy_helper.from_array(np.asarray(numpy_helper.to_array(old) * 3, np.float32), "other_scale")
    )
    node.input[1] = "other_scale"
    onnx.save(model, folder / "model.onnx")


def test_an_input_rounded_with_another_scale_is_found(altered: Altered) -> None:
    (line,) = found_in(altered("onnx-int8", input_scale))
    assert re.fullmatch(r"vit\.blocks\.0\.mlp\.fc2: its input is quantized with \S+, the program's scale is \S+", line)


def test_verify_fails_by_the_parts_what_no_cosine_shows(altered: Altered, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = altered("openvino-int8", openvino_epsilon)
    result = edgepath.verify(bundle, tiles="synthetic:8:5", device="cpu", threads=2)
    assert not result["passed"]
    assert [gate["gate"] for gate in result["tiles"]["gates"] if not gate["passed"]] == ["other parts"]
    assert any("vit.blocks.0.norm2: epsilon 0.001" in note for note in result["notes"])


def test_another_bias_is_found(exports: Exports, altered: Altered) -> None:
    first = first_product(exports("openvino-int8").bundle)
    bias = program_of(exports("openvino-int8").bundle).get_submodule(first).bias.numpy()

    def change(folder: Path) -> None:
        data = (folder / "model.bin").read_bytes()
        assert data.count(bias.tobytes()) == 1
        (folder / "model.bin").write_bytes(data.replace(bias.tobytes(), (bias * 2).tobytes()))

    assert found_in(altered("openvino-int8", change)) == [f"{first}: another bias (relative L2 1)"]


def test_a_float_weight_in_another_place_is_found(exports: Exports, altered: Altered) -> None:
    products, _ = named_parts(program_of(exports("onnx-fp32").bundle))
    weight = np.ascontiguousarray(products[PROJ[0]].weight.T)

    def change(folder: Path) -> None:
        data = (folder / "model.onnx").read_bytes()
        assert data.count(weight.tobytes()) == 1
        (folder / "model.onnx").write_bytes(data.replace(weight.tobytes(), np.ascontiguousarray(weight.T).tobytes()))

    (line,) = found_in(altered("onnx-fp32", change))
    assert line.startswith(f"{PROJ[0]}: other weights (relative L2 1.")


def replaced(folder: Path, file: str, old: np.ndarray, new: np.ndarray) -> None:
    data = (folder / file).read_bytes()
    assert data.count(old.tobytes()) == 1
    (folder / file).write_bytes(data.replace(old.tobytes(), new.tobytes()))


# Of each: the table, and what happens to it.
TABLE_FAULTS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "class token turned": ("vit.cls_token", lambda table: table[..., ::-1]),
    "a register set to zero": ("vit.reg_token", lambda table: table * np.array([1, 1, 0, 1])[None, :, None]),
    "positions shuffled": ("vit.pos_embed", lambda table: table[:, np.roll(np.arange(table.shape[1]), 1)]),
    "LayerScale doubled": ("vit.blocks.1.ls1.gamma", lambda table: table * 2),
    "one gamma off by a hundredth": ("vit.blocks.0.ls2.gamma", lambda table: table * (1 + 0.01 * (np.arange(96) == 7))),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
@pytest.mark.parametrize(
    "target", ["onnx-fp32", "jetson-int8", "openvino-fp16", "openvino-int8", "coreml-int8", "executorch-int8"]
)
def test_a_fault_in_another_table_is_found(exports: Exports, altered: Altered, target: str, fault: str) -> None:
    bundle, program = exports(target).bundle, program_in(exports(target).bundle.path)
    name, change = TABLE_FAULTS[fault]
    half = target in ("jetson-int8", "openvino-fp16", "coreml-int8")
    table = named_tables(program)[name].astype(np.float16 if half else np.float32)
    other = np.ascontiguousarray(change(table)).astype(table.dtype)
    found = altered(target, lambda folder: replaced(folder, weights_file(bundle), table, other))
    (line,) = map(str, differences(program, found.artifact))
    assert re.fullmatch(rf"{re.escape(name)}: other numbers \(relative L2 \S+\)", line)


def test_swapped_gammas_are_found(exports: Exports, altered: Altered) -> None:
    names = ("vit.blocks.0.ls1.gamma", "vit.blocks.1.ls1.gamma")
    one, other = (named_tables(program_of(exports("openvino-int8").bundle))[name] for name in names)

    def change(folder: Path) -> None:
        aside = np.full_like(one, 3.0)
        for old, new in ((one, aside), (other, one), (aside, other)):
            replaced(folder, "model.bin", old, new)

    assert [line.split(":")[0] for line in found_in(altered("openvino-int8", change))] == list(names)


def test_a_table_too_many_is_counted(altered: Altered) -> None:
    def change(folder: Path) -> None:
        import onnx
        from onnx import helper, numpy_helper

        model = onnx.load(folder / "model.onnx")
        model.graph.initializer.append(numpy_helper.from_array(np.ones(96, np.float32), "extra"))
        last = model.graph.node[-1]
        last.output[0] = "before"
        model.graph.node.append(helper.make_node("Mul", ["before", "extra"], ["embedding"]))
        onnx.save(model, folder / "model.onnx")

    # The class token has 96 numbers, and so has each of the four gammas.
    assert found_in(altered("onnx-fp32", change)) == ["6 other constants of 96 numbers, the program has 5"]


def onnx_attention(folder: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / "model.onnx")
    scale = np.float32(32) ** np.float32(-0.25)
    (name,) = [
        one.name
        for one in model.graph.initializer
        if numpy_helper.to_array(one).size == 1 and np.allclose(numpy_helper.to_array(one).astype(np.float32), scale)
    ]
    users = [node for node in model.graph.node if node.op_type == "Mul" and name in node.input]
    assert len(users) == 4  # queries and keys of two blocks
    model.graph.initializer.append(numpy_helper.from_array(np.array([scale**2], np.float32), "unrooted"))
    users[3].input[list(users[3].input).index(name)] = "unrooted"
    onnx.save(model, folder / "model.onnx")


def onnx_fused_attention(folder: Path) -> None:
    import onnx
    from onnx import helper

    model = onnx.load(folder / "model.onnx")
    first = next(node for node in model.graph.node if node.op_type == "MultiHeadAttention")
    first.attribute.append(helper.make_attribute("scale", 1.0))
    onnx.save(model, folder / "model.onnx")


def openvino_attention(folder: Path) -> None:
    import openvino

    from edgepath.backends.runners.openvino import core

    model = core().read_model(folder / "model.xml")
    first = next(node for node in model.get_ordered_ops() if node.get_type_name() == "Softmax")
    scaled = first.input_value(0).get_node()
    assert scaled.get_type_name() == "Multiply"
    scaled.output(0).replace(scaled.input_value(0))
    (folder / "model.bin").unlink()
    openvino.save_model(model, folder / "aside.xml", compress_to_fp16=False)
    (folder / "aside.xml").replace(folder / "model.xml")
    (folder / "aside.bin").replace(folder / "model.bin")


@pytest.mark.parametrize(
    ("target", "change"),
    [
        ("onnx-fp32", onnx_attention),
        ("onnx-int8", onnx_fused_attention),
        ("openvino-int8", openvino_attention),
    ],
)
def test_an_attention_scaled_otherwise_is_found(altered: Altered, target: str, change: Callable[[Path], None]) -> None:
    (line,) = found_in(altered(target, change))
    assert re.fullmatch(r"(1|2\.5) attentions scaled by 1/sqrt\(d\), the program has 2", line)


def fused(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Return what changes the first attention of an ONNX file that is one operation."""

    def altered_file(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / "model.onnx")
        change(next(node for node in model.graph.node if node.op_type == "MultiHeadAttention"))
        onnx.save(model, folder / "model.onnx")

    return altered_file


@pytest.mark.parametrize("scale", [(), (32**-0.5,)])
def test_other_heads_are_found(scale: tuple[float, ...], altered: Altered) -> None:
    """On random weights 6 heads for 3 change the embedding by less than INT8 itself does."""
    from onnx import helper

    def change(node: Any) -> None:
        next(one for one in node.attribute if one.name == "num_heads").i = 6
        node.attribute.extend(helper.make_attribute("scale", one) for one in scale)

    assert found_in(altered("onnx-int8", fused(change))) == ["6 heads in an attention, the program has 3"]


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2)])
def test_queries_keys_and_values_in_another_order_are_refused(one: int, other: int, altered: Altered) -> None:
    def change(node: Any) -> None:
        node.input[one], node.input[other] = node.input[other], node.input[one]

    with pytest.raises(BundleError, match="takes queries, keys and values in another order; export it again"):
        found_in(altered("onnx-int8", fused(change)))


def test_attention_that_looks_back_only_is_refused(altered: Altered) -> None:
    from onnx import helper

    change = fused(lambda node: node.attribute.append(helper.make_attribute("unidirectional", 1)))
    with pytest.raises(BundleError, match="is attention with unidirectional, which no program has; export it again"):
        found_in(altered("onnx-int8", change))


def test_an_engine_of_other_weights_is_found(exports: Exports, altered: Altered) -> None:
    products, _ = named_parts(program_of(exports("rtx-int8").bundle))
    weight = np.ascontiguousarray(products[QKV].weight.T)

    def change(folder: Path) -> None:
        data = (folder / "model.engine").read_bytes()
        assert data.count(weight.tobytes()) == 1
        other = weight.copy()
        other[17, 5] ^= 1
        (folder / "model.engine").write_bytes(data.replace(weight.tobytes(), other.tobytes()))

    assert found_in(altered("rtx-int8", change)) == [f"{QKV}: model.engine does not hold its integers"]


def test_a_layer_too_few_is_counted(altered: Altered) -> None:
    def change(folder: Path) -> None:
        import onnx

        model = onnx.load(folder / "model.onnx")
        norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
        norm.op_type = "Identity"
        del norm.input[1:], norm.attribute[:]
        onnx.save(model, folder / "model.onnx")

    assert found_in(altered("onnx-fp32", change)) == ["4 norms, the program has 5"]


def test_packages_hold_int8(exports: Exports) -> None:
    program = load_program(exports("coreml-int8").bundle.artifact)
    assert sum(one.kind == "constexpr_blockwise_shift_scale" for one in program.operations) == 9
