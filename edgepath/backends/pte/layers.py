"""Quantized linears cut out of a `.pte`, each run by ExecuTorch as a program of its own."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...machine.quiet import quiet
from ...machine.scratch import scratch
from ..contents import Found, Layer, Product
from ..runners.executorch import load
from .parts import PRODUCTS, product, rounding
from .program import Graph, Pte, load_pte, named, xnnpack_schema

_BOUNDS = 2
_INPUT, _OUTPUT, _NO_EXTERNAL = 1, 2, 2**32 - 1
_ALIGNED = 64


def layers(path: Path) -> dict[int, Layer]:
    """Return the layers by their place among the products of a program that `read` reads."""
    pte, by_place, place = load_pte(path), {}, 0
    for call in pte.calls:
        if not isinstance(call, Graph):
            continue
        for kind, fields in call.nodes:
            if kind not in PRODUCTS:
                continue
            numbers = product(pte, call, kind, fields, path)
            if numbers.input_scales is not None:
                nodes = [*rounding(call, fields, path)[1], (kind, fields)]
                by_place[place] = Layer(False, partial(_run, pte, call, nodes, numbers))
            place += 1
    return by_place


def _run(pte: Pte, graph: Graph, nodes: list[tuple[str, dict[str, Any]]], numbers: Product, x: np.ndarray) -> Found:
    """Return the integers that enter, and the output by the file's numbers and by the delegate's kernels.

    No operation gives the integers away. They are the output of the same nodes with weights that hand each through.
    """
    assert numbers.scale is not None and numbers.input_scales is not None
    width = x.shape[-1]
    through = np.pad(np.eye(width, dtype=np.int8), ((0, 0), (0, _BOUNDS)))
    seen = _execute(_cut(pte, graph, nodes, x, (through, np.ones(width, np.float32), np.zeros(width, np.float32))), x)
    fused = _execute(_cut(pte, graph, nodes, x, None), x)
    step = np.float32(numbers.input_scales[0])
    integers = np.rint(seen / step)
    plain = (integers * step) @ (numbers.weight * numbers.scale[:, None]).T + numbers.bias
    return integers.astype(np.int8), plain.astype(np.float32), fused


def _cut(pte: Pte, graph: Graph, nodes: Any, x: np.ndarray, other: Any) -> bytes:
    """Return a `.pte` of these nodes alone, with (weights, scales, bias) of its own or those that the file has."""
    raw = copy.deepcopy(graph.raw)
    ours = [fields for _, fields in nodes]
    first, last = ours[0]["input_id"], ours[-1]["output_id"]
    ids = {value_id for fields in ours for value_id in (*graph.inputs(fields), fields["output_id"])}
    makers = {fields["output_id"] for fields in ours}
    raw["xnodes"] = [xnode for xnode in raw["xnodes"] if xnode["xnode_union"]["output_id"] in makers]
    raw["xvalues"] = [xvalue for xvalue in raw["xvalues"] if _tensor(xvalue)["id_out"] in ids]
    filter_id, bias_id = ours[-1]["filter_id"], ours[-1]["bias_id"]
    constants = []
    for xvalue in raw["xvalues"]:
        value, tensor = xvalue["xvalue_union"], _tensor(xvalue)
        tensor["external_id"], tensor["flags"] = _NO_EXTERNAL, 0
        if tensor["id_out"] in (first, last):
            tensor["external_id"], tensor["flags"] = (0, _INPUT) if tensor["id_out"] == first else (1, _OUTPUT)
        if other is not None and tensor["id_out"] == filter_id:
            tensor["dims"] = list(other[0].shape)
            constants += [(raw["constant_data"][tensor["constant_buffer_idx"]], other[0])]
            constants += [(raw["constant_data"][value["quant_params"]["scale_buffer_idx"]], other[1])]
            value["quant_params"]["num_scales"] = len(other[1])
        elif other is not None and tensor["id_out"] == bias_id:
            tensor["dims"] = list(other[2].shape)
            constants += [(raw["constant_data"][tensor["constant_buffer_idx"]], other[2])]
        elif other is not None and tensor["id_out"] == last:
            tensor["dims"] = [*x.shape[:-1], len(other[1])]
    raw |= {"num_externs": 2, "input_ids": [first], "output_ids": [last]}
    shape = next(_tensor(xvalue)["dims"] for xvalue in raw["xvalues"] if _tensor(xvalue)["id_out"] == last)
    return _program(_delegate(pte, raw, constants), x.shape, shape)


def _tensor(xvalue: dict[str, Any]) -> dict[str, Any]:
    value = xvalue["xvalue_union"]
    tensor: dict[str, Any] = value.get("tensor_value", value)
    return tensor


def _delegate(pte: Pte, raw: dict[str, Any], other: list[tuple[dict[str, Any], np.ndarray]]) -> bytes:
    """Write a graph as the delegate reads it, with its constants behind it instead of by name."""
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_compile

    used = {_tensor(xvalue)["constant_buffer_idx"] for xvalue in raw["xvalues"]}
    used |= {(xvalue["xvalue_union"].get("quant_params") or {}).get("scale_buffer_idx", 0) for xvalue in raw["xvalues"]}
    replaced = {id(entry): value.tobytes() for entry, value in other}
    data = b""
    for index, entry in enumerate(raw["constant_data"]):
        kept = (replaced.get(id(entry)) or named(pte.stored, entry)) if index and index in used else b""
        entry |= {"offset": len(data), "size": len(kept), "named_key": None}
        data += _padded(kept)
    with scratch("layer") as folder:
        for name, text in (("schema.fbs", xnnpack_schema()), ("schema.json", json.dumps(_stored(raw)))):
            (folder / name).write_text(text)
        with quiet("root", "torch.utils._pytree"):
            _flatc_compile(str(folder), str(folder / "schema.fbs"), str(folder / "schema.json"))
        graph = (folder / "schema.bin").read_bytes()
    header = XNNHeader(_ALIGNED, len(graph), _ALIGNED + len(_padded(graph)), len(data)).to_bytes()
    return _padded(header) + _padded(graph) + data


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNED)


def _stored(value: Any) -> Any:
    """Leave out what a table does not hold: for the delegate an empty name is one, too."""
    if isinstance(value, dict):
        return {key: _stored(field) for key, field in value.items() if field is not None and field != ""}
    return [_stored(element) for element in value] if isinstance(value, list) else value


def _program(blob: bytes, given: Any, made: Any) -> bytes:
    """Wrap a delegate's data into a program of one call, float32 in and out."""
    from executorch.exir import schema as et
    from executorch.exir._serialize._program import PTEFile, serialize_pte_binary
    from executorch.exir.scalar_type import ScalarType

    sizes = [4 * int(np.prod(shape)) for shape in (given, made)]
    starts = [0, sizes[0] + -sizes[0] % 16]
    values = [
        et.EValue(
            et.Tensor(
                scalar_type=ScalarType.FLOAT,
                storage_offset=0,
                sizes=list(shape),
                dim_order=list(range(len(shape))),
                requires_grad=False,
                layout=0,
                data_buffer_idx=0,
                allocation_info=et.AllocationDetails(1, start, 0),
                shape_dynamism=et.TensorShapeDynamism.STATIC,
            )
        )
        for shape, start in zip((given, made), starts, strict=True)
    ]
    where = et.BackendDelegateDataReference(et.DataLocation.INLINE, 0)
    plan = et.ExecutionPlan(
        name="forward",
        container_meta_type=et.ContainerMetadata("", ""),
        values=values,
        inputs=[0],
        outputs=[1],
        chains=[et.Chain([0], [1], [et.Instruction(et.DelegateCall(0, [0, 1]))], None)],
        operators=[],
        delegates=[et.BackendDelegate("XnnpackBackend", where, [])],
        non_const_buffer_sizes=[0, starts[1] + sizes[1] + 16],
    )
    program = et.Program(
        version=0,
        execution_plan=[plan],
        constant_buffer=[et.Buffer(b"")],
        backend_delegate_data=[et.BackendDelegateInlineData(blob)],
        segments=[],
        constant_segment=et.SubsegmentOffsets(0, []),
    )
    return bytes(serialize_pte_binary(PTEFile(program)))


def _execute(data: bytes, x: np.ndarray) -> np.ndarray:
    return load(data)(x)[0]
