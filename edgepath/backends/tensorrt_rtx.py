"""TensorRT-RTX on NVIDIA RTX workstations: the graph of TensorRT, and an engine of it that is built without a GPU.

One engine serves the recipe's compute capabilities; what it does not serve (another release of TensorRT-RTX, another
GPU) is built anew from the graph where it runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..machine.tables import shown
from . import onnxruntime
from .backend import Backend, Builds
from .runners.tensorrt_rtx import BATCHES, Refused, serialize
from .tensorrt_network.network import Network, parse_onnx

# What TensorRT-RTX 1.6 and 1.7 build for without a GPU.
_CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Write `model.onnx` (FP16 tensors, INT8 Q/DQ), `model.engine` and `plan.json`; return the graph's path."""
    import onnx
    import tensorrt_rtx_bindings

    path, size, capabilities = folder / "model.onnx", program.model.size, recipe.deploy.compute_capabilities
    onnx.save(program.onnx_fp16(), path)
    shapes = {"tiles": {name: [batch, size, size, 3] for name, batch in BATCHES.items()}}
    try:
        engine = serialize(tensorrt_rtx_bindings, path, shapes, capabilities)
    except Refused as error:
        raise UsageError(f"export {recipe.target}: {error}") from None
    path.with_suffix(".engine").write_bytes(engine)
    plan = {"schema": 1, "shapes": shapes, "compute_capabilities": list(capabilities)}
    plan |= {"tensorrt_rtx": tensorrt_rtx_bindings.__version__}
    (folder / "plan.json").write_text(json.dumps(plan, indent=2) + "\n")
    return path


def check_capabilities(recipe: Any) -> str:
    """Say what is wrong with the GPU architectures that a recipe names, "" for nothing."""
    asked = recipe.deploy.compute_capabilities
    if asked and sorted(asked) == sorted(set(asked) & set(_CAPABILITIES)):
        return ""
    return f"deploy.compute_capabilities = {shown(list(asked))}; expected some of {', '.join(_CAPABILITIES)}"


def parsed(artifact: Path) -> Network:
    """Return the network that TensorRT's ONNX parser makes of a graph."""
    import tensorrt_rtx_bindings

    return parse_onnx(tensorrt_rtx_bindings, artifact)


INT8_NOTE = (
    "TensorRT-RTX built the INT8 engine, and it was not run. Torch-TensorRT's documents disagree on whether INT8 "
    "activations run there: its quantization page says no, its change 4156 says since 1.4."
)

BACKEND = Backend(
    name="tensorrt_rtx",
    title="TensorRT-RTX",
    package="tensorrt_rtx_bindings",
    distribution="tensorrt-rtx-cu13-bindings",
    extra="rtx",
    runner="edgepath.backends.runners.tensorrt_rtx",
    builds=Builds(
        build=_build,
        needs="tensorrt-rtx-cu13-bindings",
        kit="rtx",
        precisions=(("fp16", "fp16"), ("int8", "fp16")),
        checked_with="onnx_fp16",
        was_checked_with="onnxruntime",
        suffix=".onnx",
        read=onnxruntime.read,
        layers=onnxruntime.layers,
        reads_with=("onnx", "export"),
        check=check_capabilities,
        checked_how="evaluating its graph; engine built",
        stand_in="The graph was evaluated in torch, rounded to FP16 after each node; its engine, built without a GPU, "
        "was not run: run kit/check.py on one.",
        int8_note=INT8_NOTE,
        network=parsed,
        network_needs=("tensorrt_rtx_bindings",),
    ),
)
