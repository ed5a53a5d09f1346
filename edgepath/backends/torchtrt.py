"""Torch-TensorRT on NVIDIA RTX workstations: an exported program, and the engine its front end makes of it.

The second way to such an engine, beside the ONNX parser of `tensorrt_rtx`: two front ends that share no code, of one
program. The engine runs with the same runner, and is built anew from the program where it does not fit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..machine.packages import version_of
from . import tensorrt_rtx, torchtrt_program
from .backend import Backend, Builds, Found
from .runners.tensorrt_rtx import BATCHES
from .tensorrt_network.network import Network
from .tensorrt_network.products import products
from .torchtrt_process import convert_apart


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Write `model.pt2` (FP16 tensors, INT8 linears), `model.engine` and `plan.json`; return the program's path."""
    import tensorrt_rtx_bindings
    import torch

    path, size, capabilities = folder / "model.pt2", program.model.size, recipe.deploy.compute_capabilities
    torch.export.save(program.exported_fp16(), path)
    shapes = {name: [batch, size, size, 3] for name, batch in BATCHES.items()}
    try:
        converted = convert_apart(path, shapes, program.outputs, capabilities)
    except UsageError as error:
        raise UsageError(f"export {recipe.target}: {error}") from None
    floats = [product for product in products(converted.network) if product.scale is None]
    if recipe.int8 and len(floats) > len(recipe.quantize.keep):
        raise UsageError(f"export {recipe.target}: Torch-TensorRT left {len(floats)} linears in floating point")
    path.with_suffix(".engine").write_bytes(converted.engine)
    plan = {"schema": 1, "shapes": {"tiles": shapes}, "outputs": list(program.outputs)}
    plan |= {"compute_capabilities": list(capabilities), "tensorrt_rtx": tensorrt_rtx_bindings.__version__}
    (folder / "plan.json").write_text(json.dumps(plan, indent=2) + "\n")
    return path


def _network(artifact: Path) -> Network:
    """Return the network that Torch-TensorRT makes of a program, converted once more."""
    plan = json.loads((artifact.parent / "plan.json").read_text(encoding="utf-8"))
    return convert_apart(artifact, plan["shapes"]["tiles"], plan["outputs"], plan["compute_capabilities"]).network


def _look() -> Found:
    """It needs TensorRT-RTX below 1.7; converting works without a GPU, its own import without edgepath does not."""
    version, runtime = version_of("torch-tensorrt-rtx"), tensorrt_rtx.BACKEND.version
    install = "pip install 'edgepath[torchtrt]' (Linux, x86-64; it brings TensorRT-RTX 1.6)"
    if version is None or runtime is None:
        return Found(False, f"{version or 'not installed'}; TensorRT-RTX {runtime or 'not installed'}", install)
    fits = version.startswith("2.14.") and runtime.startswith("1.6.")
    return Found(fits, f"{version}, TensorRT-RTX {runtime}", install)


BACKEND = Backend(
    name="torchtrt",
    title="Torch-TensorRT",
    package="tensorrt_rtx_bindings",
    distribution="tensorrt-rtx-cu13-bindings",
    extra="torchtrt",
    runner="edgepath.backends.runners.tensorrt_rtx",
    look=_look,
    builds=Builds(
        build=_build,
        needs="torch-tensorrt-rtx",
        kit="torchtrt",
        kit_modules=("edgepath.backends.runners.exported", "edgepath.backends.runners.torchtrt"),
        precisions=(("fp16", "fp16"), ("int8", "fp16")),
        checked_with="exported",
        suffix=".pt2",
        read=torchtrt_program.read,
        layers=torchtrt_program.layers,
        reads_with=("torch", "export"),
        check=tensorrt_rtx.check_capabilities,
        checked_how="PyTorch; engine built",
        stand_in="The program was run by PyTorch, rounded to FP16 after each operation; its engine, built without a "
        "GPU, was not run: run kit/check.py on one.",
        network=_network,
        network_needs=("torch_tensorrt", "tensorrt_rtx_bindings"),
        int8_note=tensorrt_rtx.INT8_NOTE,
    ),
)
