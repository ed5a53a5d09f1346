"""What a TensorRT, ONNX Runtime or OpenVINO would stumble over in a quantized ONNX graph, read from the file alone.

Every rule is a function over the graph that yields findings; each finding names the node, the rule, where the rule
comes from, and what to do. A graph without Q/DQ passes the rules that are about them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .errors import UsageError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Level = Literal["error", "warning"]
HEADER = ["", "rule", "node", "found", "what to do"]
_PRODUCTS = ("MatMul", "Gemm", "Conv")
_KEPT = ("Softmax", "LayerNormalization", "Gelu", "Sigmoid", "Erf", "Swish")  # stay in floating point
_SMALLEST_NORMAL = 2.0**-14
_OPSETS = (9, 24)
_TENSORRT = "TensorRT documentation, Working with Quantized Types"


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


class Graph:
    """An ONNX graph with what makes and what uses each value."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.made_by = {name: node for node in self.nodes for name in node.output}
        self.used_by: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.used_by.setdefault(name, []).append(node)
        self.opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)

    def array(self, name: str) -> np.ndarray | None:
        """Return a constant's values, None for a value that is computed."""
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def maker(self, name: str) -> str:
        """Return the operation that makes a value, "" for a constant or an input."""
        node = self.made_by.get(name)
        return "" if node is None else node.op_type

    def of(self, *kinds: str) -> Iterator[NodeProto]:
        """Yield the nodes of some kinds."""
        return (node for node in self.nodes if node.op_type in kinds)


def lint(path: str | Path) -> list[Finding]:
    """Check an ONNX file, or the one in a bundle folder, and return what was found, errors first.

    Raises UsageError for what is no ONNX file, or one whose weights (external data) are missing.
    """
    file = Path(path)
    if file.is_dir():
        file = file / "model.onnx"
    if not file.is_file():
        raise UsageError(f"lint {path}: no such ONNX file; give a .onnx file or a bundle that holds model.onnx")
    graph = Graph(_read(file))
    found = [finding for rule in RULES for finding in rule(graph)]
    return sorted(found, key=lambda finding: finding.level != "error")


def finding_rows(findings: Sequence[Finding]) -> list[list[str]]:
    """Return a row a finding, as `HEADER` names its columns."""
    return [[f.level, f"{f.rule} [{f.source}]", f.node, f.found, f.remedy] for f in findings]


def _read(file: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(file)
    except (FileNotFoundError, onnx.checker.ValidationError) as error:
        why = next(iter(str(error).splitlines()), "external data is missing")
        raise UsageError(f"lint {file}: its weights lie in another file ({why}); copy that file beside it") from None
    except (DecodeError, ValueError, OSError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"lint {file}: not a whole ONNX file ({why})") from None
    if not model.graph.node:
        raise UsageError(f"lint {file}: not an ONNX graph: it holds no node")
    return model


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
        found = f"FP16 scale in opset {graph.opset}"
        yield Finding(
            "error", "opset", _name(halves[0]), found, "export with opset 19 or later", "ONNX QuantizeLinear-19"
        )


def symmetric(graph: Graph) -> Iterator[Finding]:
    """INT8 with a zero-point of 0 is all that TensorRT takes."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        if len(node.input) < 3 or not node.input[2]:
            continue
        zero = graph.array(node.input[2])
        if zero is None:
            yield _error("symmetric", node, "a zero-point that is computed", "make it a constant 0")
        elif zero.dtype != np.int8:
            yield _error("symmetric", node, f"{zero.dtype} values", "quantize to int8")
        elif zero.any():
            found = f"zero-point {int(max(zero.ravel().tolist(), key=abs))}"
            yield _error("symmetric", node, found, "quantize symmetrically, zero-point 0")


def scales(graph: Graph) -> Iterator[Finding]:
    """A scale that FP16 rounds badly, or a zero, turns a layer into noise."""
    for node in graph.of("QuantizeLinear", "DequantizeLinear"):
        values = graph.array(node.input[1])
        if values is None:
            yield _error("scale", node, "a scale that is computed", "use static quantization: TensorRT needs constants")
        elif not np.isfinite(values).all() or (values <= 0).any():
            yield _error(
                "scale", node, f"scale {float(values.min()):g}", "calibrate again: a scale is above 0 and finite"
            )
        elif values.dtype == np.float16 and (values < _SMALLEST_NORMAL).any():
            found = f"{int((values < _SMALLEST_NORMAL).sum())} FP16 scales below {_SMALLEST_NORMAL:.1e}"
            remedy = "round the weights with the scale as it is stored, as edgepath does"
            yield Finding("warning", "scale", _name(node), found, remedy, "IEEE 754 binary16: subnormal numbers")


def granularity(graph: Graph) -> Iterator[Finding]:
    """Activations have one scale, weights one a channel."""
    for node in graph.of("QuantizeLinear"):
        values = graph.array(node.input[1])
        if node.input[0] not in graph.constants and values is not None and values.size > 1:
            yield _error("granularity", node, f"{values.size} scales for an activation", "use one scale a tensor")
    for node in graph.of("DequantizeLinear"):
        values, weight = graph.array(node.input[1]), graph.constants.get(node.input[0])
        if weight is not None and len(weight.dims) > 1 and values is not None and values.size == 1:
            found, remedy = "one scale for all of a weight", "use one scale an output channel"
            yield Finding("warning", "granularity", _name(node), found, remedy, _TENSORRT)


def both_inputs(graph: Graph) -> Iterator[Finding]:
    """A product runs in INT8 only where activation and weight both come from a DequantizeLinear."""
    for node in graph.of(*_PRODUCTS):
        quantized = [graph.maker(name) == "DequantizeLinear" for name in node.input[:2]]
        behind = [_behind_transpose(graph, name) for name in node.input[:2]]
        if any(behind):
            yield _error(
                "both inputs",
                node,
                "a Transpose between DequantizeLinear and the product",
                "store the weight transposed",
            )
        elif any(quantized) and not all(quantized):
            which = ("activation", "weight")[quantized.index(False)]
            yield _error("both inputs", node, f"its {which} is not quantized, the other is", "put Q/DQ on both")


def kept_in_floating_point(graph: Graph) -> Iterator[Finding]:
    """Norms, softmax, activations and residual sums lose more in INT8 than they gain."""
    for node in graph.of(*_KEPT):
        if node.input and graph.maker(node.input[0]) == "DequantizeLinear":
            yield _error("floating point", node, f"{node.op_type} of a quantized value", "leave Q/DQ to the linears")
    for node in graph.of("Add"):
        if all(graph.maker(name) == "DequantizeLinear" for name in node.input):
            yield _error("floating point", node, "a residual sum of two quantized values", "leave Q/DQ to the linears")


def fused_norm(graph: Graph) -> Iterator[Finding]:
    """A LayerNormalization that was taken apart overflows in FP16."""
    for node in graph.of("ReduceMean"):
        squared = graph.made_by.get(node.input[0])
        if squared is None or not _squares(squared):
            continue
        centred = graph.made_by.get(squared.input[0])
        if centred is not None and centred.op_type == "Sub" and graph.maker(centred.input[1]) == "ReduceMean":
            remedy = "export LayerNormalization as one operation (opset 17 or later)"
            yield _error("fused norm", node, "a LayerNormalization taken apart", remedy)


def shared_zero_point(graph: Graph) -> Iterator[Finding]:
    """OpenVINO leaves layers in FP32 whose weights share the constant of their zero-point."""
    users: dict[str, list[NodeProto]] = {}
    for node in graph.of("DequantizeLinear"):
        if len(node.input) > 2 and node.input[2] and node.input[0] in graph.constants:
            users.setdefault(node.input[2], []).append(node)
    for zero, nodes in users.items():
        if len(nodes) > 1:
            found = f"{len(nodes)} weights share the zero-point {zero}"
            remedy = "leave zero-points of 0 out"
            yield Finding(
                "warning", "shared zero-point", _name(nodes[0]), found, remedy, "measured with OpenVINO 2026.4"
            )


def strong_typing(graph: Graph) -> Iterator[Finding]:
    """TensorRT 11 computes in the types that the graph names, and nothing else."""
    from onnx import TensorProto

    wide = [name for name, one in graph.constants.items() if one.data_type == TensorProto.FLOAT and len(one.dims) > 1]
    if wide:
        found, remedy = f"{len(wide)} FP32 weights", "for TensorRT, convert all but input and output to FP16"
        yield Finding("warning", "strong typing", wide[0], found, remedy, "TensorRT 11: no weakly typed networks")


RULES: tuple[Callable[[Graph], Iterator[Finding]], ...] = (
    opset,
    symmetric,
    scales,
    granularity,
    both_inputs,
    kept_in_floating_point,
    fused_norm,
    shared_zero_point,
    strong_typing,
)


def _behind_transpose(graph: Graph, name: str) -> bool:
    node = graph.made_by.get(name)
    return node is not None and node.op_type == "Transpose" and graph.maker(node.input[0]) == "DequantizeLinear"


def _squares(node: Any) -> bool:
    return bool(node.op_type == "Pow" or (node.op_type == "Mul" and node.input[0] == node.input[1]))


def _name(node: Any) -> str:
    return node.name or f"{node.op_type} -> {node.output[0]}"


def _error(rule: str, node: Any, found: str, remedy: str) -> Finding:
    return Finding("error", rule, _name(node), found, remedy, _TENSORRT)
