"""ExecuTorch for phones and Arm boards: `model.pte`, whose linears its XNNPACK delegate runs, and `model.json`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..machine.quiet import quiet
from .backend import Backend, Builds
from .pte.layers import layers
from .pte.parts import read
from .pte.program import load_pte
from .runners.executorch import about_file


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Lower the program of one tile, and write `model.pte` and `model.json`; return the `.pte`.

    Raises UsageError for a linear that the delegate did not take, or took in floating point where it is quantized.
    """
    with quiet("root", "torch.utils._pytree"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(
            program.delegable(),
            partitioner=[XnnpackPartitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False),  # of ours, it was checked by torch.export
        )
        _refuse_left(edge.exported_program().graph, recipe)
        data = bytes(edge.to_executorch().buffer)
    path = folder / "model.pte"
    path.write_bytes(data)
    nodes = load_pte(path).nodes()
    _refuse_float(nodes, program, recipe)
    size = program.model.size
    about = {
        "schema": 1,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "tile": [1, size, size, 3],
        "outputs": list(program.outputs),
        **nodes,
        "facts": program.facts,
    }
    about_file(path).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return path


def _refuse_left(graph: Any, recipe: Any) -> None:
    """Raise UsageError for a product, or a step of its quantization, that the delegate leaves to other kernels."""
    left = [str(node.target._op) for node in graph.nodes if hasattr(node.target, "_op")]
    if odd := [name for name in left if any(word in name for word in ("linear", "mm.", "conv", "quantize_per"))]:
        raise UsageError(f"export {recipe.target}: XNNPACK does not take {odd[0]}; another executorch may")


def _refuse_float(nodes: dict[str, dict[str, int]], program: Any, recipe: Any) -> None:
    """Raise UsageError unless the delegate computes every quantized linear in INT8."""
    wanted = sum(hasattr(layer, "input_scale") for layer in program.lowered.modules())
    delegated = nodes["delegated"].get("XNNFullyConnected, INT8", 0)
    if delegated != wanted:
        raise UsageError(
            f"export {recipe.target}: XNNPACK runs {delegated} linears in INT8, {wanted} are quantized; "
            "another executorch may run them all"
        )


BACKEND = Backend(
    name="executorch",
    title="ExecuTorch",
    package="executorch",
    extra="executorch",
    runner="edgepath.backends.runners.executorch",
    on_cpu=True,
    builds=Builds(
        build=_build,
        needs="executorch",
        kit="executorch",
        precisions=(("fp32", "fp32"), ("int8", "fp32")),
        checked_with="executorch",
        suffix=".pte",
        read=read,
        layers=layers,
        reads_with=("executorch", "executorch"),
        ran_on="x86-64",
    ),
)
