"""A graph that TensorRT-RTX reads and builds on this machine, without a GPU: what its makers' own builder refuses.

Its parser and builder are TensorRT's, so this is the nearest thing to a Jetson that a plain machine has. It builds for
the compute capabilities next to a Jetson's: SM86 for Orin's 8.7, SM120 for Thor's; a graph in FP8, which no Orin has,
for SM89 and SM120. The engine is thrown away, not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..backends.onnx.graph import read_graph
from ..backends.runners.tensorrt_rtx import BATCHES, Refused, serialize
from ..machine.packages import require
from .lint import Finding, onnx_file

if TYPE_CHECKING:
    from onnx import ValueInfoProto

NEAREST = ("SM86", "SM120")
WITH_FP8 = ("SM89", "SM120")


def trial_build(path: str | Path, capabilities: Sequence[str] = ()) -> list[Finding]:
    """Build an ONNX file, or the one in a bundle folder; return what was refused, with the node's name: one or none.

    `capabilities` are GPU architectures, those nearest to a Jetson's where none are given. Sizes that the graph leaves
    open are 1 to 16. Raises what `lint` raises, MissingRuntime without TensorRT-RTX.
    """
    require("tensorrt-rtx-cu13-bindings", "rtx")
    import tensorrt_rtx_bindings

    file = onnx_file(path)
    graph = read_graph(file)
    model = graph.model
    if not capabilities:
        nodes = graph.of("QuantizeLinear")
        capabilities = WITH_FP8 if any(graph.quantized_type(node).startswith("FLOAT8") for node in nodes) else NEAREST
    fixed = {tensor.name for tensor in model.graph.initializer}
    shapes = {tensor.name: _shapes(tensor) for tensor in model.graph.input if tensor.name not in fixed}
    try:
        serialize(tensorrt_rtx_bindings, file, shapes, capabilities)
    except Refused as error:
        source = f"TensorRT-RTX {tensorrt_rtx_bindings.__version__}, built for {', '.join(capabilities)}"
        remedy = "export this operation in another form, or leave it out"
        return [Finding("error", "refused", error.node or "graph", error.reason, remedy, source)]
    return []


def _shapes(value: ValueInfoProto) -> dict[str, list[int]]:
    """Return the smallest, likeliest and largest shape of an input."""
    sizes = value.type.tensor_type.shape.dim
    return {name: [size.dim_value or batch for size in sizes] for name, batch in BATCHES.items()}
