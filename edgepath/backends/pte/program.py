"""A `.pte`: its instructions in order, and of what the XNNPACK delegate runs the nodes, values and constants."""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BundleError, first_line
from ...machine.quiet import quiet
from .flat import Schema

Table = dict[str, Any]  # of a flatbuffer, by the names of its schema
_DTYPES = {"xnn_datatype_fp32": np.float32, "xnn_datatype_qcint8": np.int8}
_FLOAT = 6  # of ExecuTorch's scalar types
_NONE = 2**32 - 1  # the id of a value that is not there
_OFFSET, _SIZE = slice(10, 14), slice(14, 18)  # of the graph, in the header of a delegate's data


@dataclass(frozen=True)
class Kernel:
    """A call of a kernel of ExecuTorch's own; `args` are numbers, lists, arrays of constants, or None."""

    name: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Graph:
    """What the delegate runs in one call: `nodes` (kind, fields), and the `values` between them by their ids."""

    raw: Table
    nodes: list[tuple[str, Table]]
    values: dict[int, Table]
    constants: dict[int, np.ndarray]
    made_by: dict[int, tuple[str, Table]] = field(default_factory=dict)

    def dtype(self, value: int) -> str:
        """Return the type of a value's numbers, as XNNPACK has it."""
        kind: str = self.values[value]["datatype"]
        return kind

    def inputs(self, fields: Table) -> list[int]:
        """Return the values that a node takes, in order."""
        names = [name for name in fields if name.startswith("input") or name in ("filter_id", "bias_id")]
        return [fields[name] for name in names if fields[name] in self.values]


@dataclass(frozen=True)
class Pte:
    """A file as it runs: `calls` in order; `stored` is what ExecuTorch's own reader makes of it."""

    calls: list[Kernel | Graph]
    stored: Any

    def nodes(self) -> dict[str, dict[str, int]]:
        """Count what the delegate runs, linears by the type of their weights, and what ExecuTorch's kernels do."""
        ours: Counter[str] = Counter()
        delegated: Counter[str] = Counter()
        for call in self.calls:
            if isinstance(call, Kernel):
                ours[call.name] += 1
                continue
            for kind, fields in call.nodes:
                form = ""
                if kind == "XNNFullyConnected":
                    integers = {call.dtype(fields[name]) for name in ("input1_id", "filter_id")}
                    form = ", INT8" if integers == {"xnn_datatype_qdint8", "xnn_datatype_qcint8"} else ", FP32"
                delegated[kind + form] += 1
        return {"delegated": dict(sorted(delegated.items())), "undelegated": dict(sorted(ours.items()))}


def load_pte(path: Path) -> Pte:
    """Read a `.pte`. Raises BundleError for a file that is none, or that holds what edgepath does not write."""
    try:
        with quiet("root", "torch.utils._pytree"):
            from executorch.exir._serialize._program import deserialize_pte_binary

            stored = deserialize_pte_binary(path.read_bytes())
        return Pte(list(_calls(stored)), stored)
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be read ({error.strerror})") from error
    except Exception as error:  # what is damaged makes readers stumble anywhere
        raise BundleError(f"{path.name}: it is no ExecuTorch program that can be read ({first_line(error)})") from None


@cache
def xnnpack_schema() -> str:
    """Return the text of the schema of what the delegate reads."""
    where = importlib.resources.files("executorch.backends.xnnpack.serialization")
    return where.joinpath("schema.fbs").read_text()


@cache
def _schema() -> Schema:
    return Schema.parse(xnnpack_schema())


def _calls(stored: Any) -> Iterator[Kernel | Graph]:
    (plan,) = stored.program.execution_plan
    (chain,) = plan.chains
    for instruction in chain.instructions:
        call = instruction.instr_args
        values = [_constant(stored, plan.values[i].val) for i in call.args]
        if hasattr(call, "op_index"):
            yield Kernel(plan.operators[call.op_index].name, tuple(values))
        elif hasattr(call, "delegate_index"):
            yield _graph(stored, plan.delegates[call.delegate_index], values)
        else:
            raise ValueError(f"an instruction of kind {type(call).__name__}")


def _constant(stored: Any, value: Any) -> Any:
    """Return a value's content: of tensors only of constants, as an array."""
    if not hasattr(value, "data_buffer_idx"):
        return next((getattr(value, name) for name in _CONTENT if hasattr(value, name)), None)
    if not value.data_buffer_idx or value.allocation_info is not None or int(value.scalar_type) != _FLOAT:
        return None
    data = stored.program.constant_buffer[value.data_buffer_idx].storage
    return np.frombuffer(bytes(data), np.float32).reshape(value.sizes)


_CONTENT = ("int_val", "double_val", "bool_val", "string_val", "items")


def _graph(stored: Any, delegate: Any, given: list[Any]) -> Graph:
    """Read a delegate's data; `given` are the arguments it is called with, constants among them."""
    if delegate.id != "XnnpackBackend":
        raise ValueError(f"a delegate {delegate.id}")
    blob = bytes(stored.program.backend_delegate_data[delegate.processed.index].data)
    start, size = (int.from_bytes(blob[part], "little") for part in (_OFFSET, _SIZE))
    raw = _schema().read(blob[start : start + size], "XNNGraph")
    nodes = [
        (xnode["xnode_union_type"], xnode["xnode_union"] | {"range": xnode["output_min_max"]})
        for xnode in raw["xnodes"]
    ]
    values, constants = {}, {}
    for xvalue in raw["xvalues"]:
        value = xvalue["xvalue_union"]
        quantized = value.get("quant_params")
        value = value.get("tensor_value", value)
        values[value["id_out"]] = value | {"quantized": quantized}
        if index := value["constant_buffer_idx"]:
            data = named(stored, raw["constant_data"][index])
            constants[value["id_out"]] = np.frombuffer(data, _DTYPES[value["datatype"]]).reshape(value["dims"])
        elif value["external_id"] < len(given) and given[value["external_id"]] is not None:
            constants[value["id_out"]] = given[value["external_id"]]
    made_by = {fields["output_id"]: (kind, fields) for kind, fields in nodes}
    return Graph(raw, nodes, values, constants, made_by)


def named(stored: Any, entry: Table) -> bytes:
    """Return the bytes of a constant of a delegate, which the file keeps by name."""
    if not entry["named_key"]:
        raise ValueError("a constant without a name")
    data = bytes(stored.named_data.buffers[stored.named_data.pte_data[entry["named_key"]].buffer_index])
    return data[: entry["size"]]


def scales(stored: Any, graph: Graph, value: int) -> np.ndarray:
    """Return the scales of a constant's rows, float32 (out,)."""
    how = graph.values[value]["quantized"]
    if how["scale"]:
        return np.array(how["scale"], np.float32)
    return np.frombuffer(named(stored, graph.raw["constant_data"][how["scale_buffer_idx"]]), np.float32)
