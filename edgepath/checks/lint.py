"""What a TensorRT, ONNX Runtime or OpenVINO would stumble over in a quantized ONNX graph, read from the file alone.

Every rule is a function over the graph that yields findings; each finding names the node, the rule, where the rule
comes from, and what to do. A graph without Q/DQ passes the rules that are about them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..backends import builds_of
from ..backends.onnx.graph import PRODUCTS, Graph, read_graph
from ..bundle.manifest import MANIFEST, parse, read_manifest
from ..errors import UsageError
from ..recipes.recipe import Recipe

if TYPE_CHECKING:
    from onnx import NodeProto

Level = Literal["error", "warning"]
_KEPT = ("Softmax", "LayerNormalization", "Gelu", "Sigmoid", "Erf", "Swish")  # stay in floating point
_SMALLEST_NORMAL = 2.0**-14
_OPSETS = (9, 24)
_TENSORRT = "TensorRT documentation, Working with Quantized Types"
_OURS = "edgepath's choice for vision transformers"
_E4M3 = "FLOAT8E4M3FN"
_LINEARS_ONLY = "leave Q/DQ to the linears, and measure where not"


@dataclass(frozen=True)
class Finding:
    """One place in a graph where a rule is broken."""

    level: Level
    rule: str
    node: str
    found: str
    remedy: str
    source: str

    def to_json(self) -> dict[str, str]:
        """Return the finding as JSON-able values."""
        return asdict(self)


def lint(path: str | Path) -> list[Finding]:
    """Check an ONNX file, or the one in a bundle folder, and return what was found, errors first.

    Of a bundle also what nobody has shown of its target. Raises UsageError for what is no ONNX file, or one whose
    weights (external data) are missing, BundleError for a bundle that cannot be read.
    """
    graph = read_graph(onnx_file(path))
    findings = [finding for rule in RULES for finding in rule(graph)] + _not_shown(Path(path))
    return sorted(findings, key=lambda finding: finding.level != "error")


def onnx_file(path: str | Path) -> Path:
    """Return the ONNX file that is meant: itself, or the one in a bundle folder. Raises UsageError for none."""
    file = Path(path)
    if file.is_dir():
        file = file / "model.onnx"
        if not file.is_file() and (Path(path) / MANIFEST).is_file():
            raise UsageError(
                f"lint {path}: this bundle holds no ONNX graph; lint checks targets whose artifact is model.onnx "
                "(`edgepath targets`); check others with edgepath verify"
            )
    if not file.is_file():
        raise UsageError(f"lint {path}: no such ONNX file; give a .onnx file or a bundle that holds model.onnx")
    return file


def _not_shown(path: Path) -> list[Finding]:
    if not (path / MANIFEST).is_file():
        return []
    who = f"bundle {path}"
    recipe = Recipe.from_json(parse(read_manifest(path), who).get("recipe", {}), who)
    note = builds_of(recipe.backend).int8_note if recipe.int8 else ""
    remedy = "run kit/check.py on the device"
    return [Finding("warning", "not run", "graph", note, remedy, f"edgepath, target {recipe.target}")] if note else []


def opset(graph: Graph) -> Iterator[Finding]:
    """Operations and FP16 scales have to be ones the parser knows."""
    low, high = _OPSETS
    if not low <= graph.opset <= high:
        yield Finding(
            "error",
            "opset",
            "graph",
            f"opset {graph.opset}",
            f"export with opset {low} to {high}",
            "TensorRT 10 ONNX operators",
        )
    halves = [
        node
        for node in graph.of("QuantizeLinear", "DequantizeLinear")
        if (scale := graph.array(node.input[1])) is not None and scale.dtype == np.float16
    ]
    if halves and graph.opset < 19:
        problem = f"FP16 scale in opset {graph.opset}"
        yield Finding(
            "error", "opset", _name(halves[0]), problem, "export with opset 19 or later", "ONNX QuantizeLinear-19"
        )
    floats = [node for node in graph.of("QuantizeLinear", "DequantizeLinear") if _is_float8(graph.quantized_type(node))]
    if floats and graph.opset < 19:
        problem = f"8-bit floats in opset {graph.opset}"
        yield _error("opset", floats[0], problem, "export with opset 19 or later", "ONNX QuantizeLinear-19")


def symmetric(graph: Graph) -> Iterator[Finding]:
    """Of 8-bit numbers TensorRT takes signed integers and E4M3, with a zero-point of 0."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        kind = graph.quantized_type(node)
        if kind in ("UINT8", "INT16", "UINT16", "INT32", "UINT4", "UINT2"):
            yield _error("symmetric", node, f"{kind} values", "quantize to INT8, zero-point 0", _TENSORRT)
        if _is_float8(kind) and kind != _E4M3:
            yield _error("symmetric", node, f"{kind} values", "of 8-bit floats, take E4M3 (FLOAT8E4M3FN)", _TENSORRT)
        if len(node.input) > 2 and node.input[2]:
            zero = graph.array(node.input[2])
            if zero is None:
                yield _error("symmetric", node, "a zero-point that is computed", "make it a constant 0", _TENSORRT)
            elif zero.astype(np.float32).any():
                problem = f"zero-point {max(zero.astype(np.float32).ravel().tolist(), key=abs):g}"
                yield _error("symmetric", node, problem, "quantize symmetrically, zero-point 0", _TENSORRT)


def float8(graph: Graph) -> Iterator[Finding]:
    """E4M3 has no infinity: what does not saturate becomes NaN, and one NaN among weights spoils all that they make."""
    for node in graph.of("QuantizeLinear"):
        saturates = all(attribute.i for attribute in node.attribute if attribute.name == "saturate")
        if _is_float8(graph.quantized_type(node)) and not saturates:
            problem, remedy = "values above 448 become NaN", "leave saturate at 1"
            yield _error("float8", node, problem, remedy, "ONNX QuantizeLinear-19")
    for node in graph.of("DequantizeLinear"):
        weight = graph.array(node.input[0]) if _is_float8(graph.quantized_type(node)) else None
        if weight is not None and (odd := int(np.isnan(weight.astype(np.float32)).sum())):
            yield _error("float8", node, f"{odd} weights are NaN", "export it again", "E4M3: arXiv 2209.05433")


def operators(graph: Graph) -> Iterator[Finding]:
    """TensorRT reads Q/DQ pairs around ordinary operations, not operations on integers."""
    for node in graph.of("QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"):
        problem, remedy = f"{node.op_type}, an operation on integers", "export in the QDQ format, statically quantized"
        yield _error("operators", node, problem, remedy, _TENSORRT)
    inner = sum(
        attribute.HasField("g") or bool(attribute.graphs) for node in graph.nodes for attribute in node.attribute
    )
    inner += len(graph.model.functions)
    if inner:
        problem, remedy = f"{inner} subgraphs or functions", "inline them: they were not checked"
        yield Finding("warning", "operators", "graph", problem, remedy, "edgepath reads the main graph")


def scales(graph: Graph) -> Iterator[Finding]:
    """A scale that FP16 rounds badly, or a zero, turns a layer into noise."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        values = graph.array(node.input[1])
        if values is None:
            yield _error("scale", node, "a scale that is computed", "quantize statically", _TENSORRT)
        elif not np.isfinite(values).all() or (values <= 0).any():
            yield _error(
                "scale",
                node,
                f"scale {float(values.min()):g}",
                "calibrate again: it is above 0 and finite",
                "ONNX QuantizeLinear",
            )
        elif values.dtype == np.float16 and (values < _SMALLEST_NORMAL).any():
            problem = f"{int((values < _SMALLEST_NORMAL).sum())} FP16 scales below {_SMALLEST_NORMAL:.1e}"
            remedy = "round the weights with the scale as it is stored, as edgepath does"
            yield Finding("warning", "scale", _name(node), problem, remedy, "IEEE 754 binary16: subnormal numbers")


def granularity(graph: Graph) -> Iterator[Finding]:
    """Activations have one scale, the weights of a product one an output channel."""
    for node in graph.of("QuantizeLinear"):
        values = graph.array(node.input[1])
        if node.input[0] not in graph.constants and values is not None and values.size > 1:
            problem = f"{values.size} scales for an activation"
            yield _error("granularity", node, problem, "use one scale a tensor", _TENSORRT)
    for node in graph.of("DequantizeLinear"):
        product = graph.product_of(node)
        values, weight = graph.array(node.input[1]), graph.constants.get(node.input[0])
        if product is None or values is None or weight is None or values.ndim > 1:
            continue  # no weight of a product, or scaled in blocks
        if values.size == 1:
            problem, remedy = "one scale for all of a weight", "use one scale an output channel"
            yield Finding("warning", "granularity", _name(node), problem, remedy, _TENSORRT)
            continue
        axis, wanted = _axis(node) % len(weight.dims), graph.output_axis(product, len(weight.dims))
        if axis != wanted:
            problem = f"scales along axis {axis} of a weight whose output channels are axis {wanted}"
            yield _error("granularity", node, problem, "use one scale an output channel", _TENSORRT)
        elif values.size != weight.dims[axis]:
            problem = f"{values.size} scales for {weight.dims[axis]} channels"
            yield _error("granularity", node, problem, "export it again", "ONNX DequantizeLinear")


def both_inputs(graph: Graph) -> Iterator[Finding]:
    """A product runs in INT8 only where activation and weight both come from a DequantizeLinear."""
    for node in graph.of(*PRODUCTS):
        made = [graph.made_by.get(name) for name in node.input[:2]]
        behind = [maker for maker in made if maker is not None and maker.op_type == "Transpose"]
        if any(
            graph.maker(maker.input[0]) == "DequantizeLinear" and graph.is_weight(maker.input[0]) for maker in behind
        ):
            problem = "a Transpose between DequantizeLinear and the product"
            yield _error("both inputs", node, problem, "store the weight transposed", "measured with ONNX Runtime 1.32")
            continue
        quantized = [maker is not None and maker.op_type == "DequantizeLinear" for maker in made]
        four_bits = any(maker is not None and graph.quantized_type(maker) in ("INT4", "UINT4") for maker in made)
        if any(quantized) and not all(quantized) and not four_bits:  # weights alone may have 4 bits
            which = ("activation", "weight")[quantized.index(False)]
            problem = f"its {which} is not quantized, the other is"
            yield _error("both inputs", node, problem, "put Q/DQ on both", _TENSORRT)
        kinds = {graph.quantized_type(maker) for maker in made if maker is not None} - {""}
        if len(kinds) > 1 and any(map(_is_float8, kinds)):
            problem = f"its inputs are {' and '.join(sorted(kinds))}"
            yield _error("both inputs", node, problem, "quantize both to one format", _TENSORRT)


def kept_in_floating_point(graph: Graph) -> Iterator[Finding]:
    """Norms, softmax, activations and residual sums of a vision transformer lose more in INT8 than they gain."""
    for node in graph.of(*_KEPT):
        if node.input and graph.maker(node.input[0]) == "DequantizeLinear":
            problem = f"{node.op_type} of a quantized value"
            yield Finding("warning", "floating point", _name(node), problem, _LINEARS_ONLY, _OURS)
    for node in graph.of("Add"):
        values = [name for name in node.input if name not in graph.constants and not graph.is_weight(name)]
        if len(values) == 2 and all(graph.maker(name) == "DequantizeLinear" for name in values):
            problem = "a sum of two quantized values"
            yield Finding("warning", "floating point", _name(node), problem, _LINEARS_ONLY, _OURS)


def fused_norm(graph: Graph) -> Iterator[Finding]:
    """A LayerNormalization that was taken apart overflows in FP16."""
    for node in graph.of("ReduceMean"):
        squared = graph.made_by.get(node.input[0])
        if squared is None or not graph.squares(squared):
            continue
        centred = graph.made_by.get(squared.input[0])
        mean_taken = centred is not None and centred.op_type == "Sub" and graph.maker(centred.input[1]) == "ReduceMean"
        rooted = any(then.op_type == "Sqrt" for sum_ in graph.users(node) for then in (sum_, *graph.users(sum_)))
        if mean_taken and rooted:
            remedy = "export LayerNormalization as one operation (opset 17 or later)"
            source = "measured by others on ViT-B/16: top-1 85 to 19"
            yield _error("fused norm", node, "a LayerNormalization taken apart", remedy, source)


def shared_zero_point(graph: Graph) -> Iterator[Finding]:
    """OpenVINO leaves layers in FP32 whose weights share the constant of their zero-point."""
    users: dict[str, list[NodeProto]] = {}
    for node in graph.of("DequantizeLinear"):
        if len(node.input) > 2 and node.input[2] and node.input[0] in graph.constants:
            users.setdefault(node.input[2], []).append(node)
    for zero, nodes in users.items():
        if len(nodes) > 1:
            problem = f"{len(nodes)} weights share the zero-point {zero}"
            remedy = "leave zero-points of 0 out"
            yield Finding(
                "warning", "shared zero-point", _name(nodes[0]), problem, remedy, "measured with OpenVINO 2026.4"
            )


def strong_typing(graph: Graph) -> Iterator[Finding]:
    """TensorRT 11 computes in the types that the graph names, and nothing else."""
    from onnx import TensorProto

    wide = [
        name
        for name, tensor in graph.constants.items()
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1
    ]
    if wide:
        problem, remedy = f"{len(wide)} FP32 weights", "for TensorRT, convert all but input and output to FP16"
        yield Finding("warning", "strong typing", wide[0], problem, remedy, "TensorRT 11: no weakly typed networks")


RULES: tuple[Callable[[Graph], Iterator[Finding]], ...] = (
    opset,
    operators,
    symmetric,
    float8,
    scales,
    granularity,
    both_inputs,
    kept_in_floating_point,
    fused_norm,
    shared_zero_point,
    strong_typing,
)


def _is_float8(kind: str) -> bool:
    return kind.startswith("FLOAT8")


def _axis(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def _name(node: NodeProto) -> str:
    return node.name or f"{node.op_type} -> {next(iter(node.output), 'nothing')}"


def _error(rule: str, node: NodeProto, problem: str, remedy: str, source: str) -> Finding:
    return Finding("error", rule, _name(node), problem, remedy, source)
