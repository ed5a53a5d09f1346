"""Core ML on Apple devices: an ML program, `model.mlpackage`, that takes an RGB image; it is built on any machine."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from ..machine.packages import pip_install
from ..machine.scratch import scratch_of_libraries
from ..machine.tables import quoted
from .backend import Backend, Builds, Found
from .mil_program.layers import layers
from .mil_program.parts import read

# Releases with blockwise INT8 weights next to quantized activations come last.
_DEBUG_NAMES = "executorch_debug_handle_mapping.json"  # for another exporter; no manifest names it
_OLDER_OS, _INT8_OS = ("iOS16", "iOS17", "macOS13", "macOS14"), ("iOS18", "iOS26", "macOS15", "macOS26")


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Convert the program behind an image input and write `model.mlpackage`; return its path.

    Core ML cannot scale an image's colours one by one, which is why the normalisation had to be folded before.
    """
    import coremltools

    _register_operations()
    size = program.model.size
    image = coremltools.ImageType(name="tile", shape=(1, 3, size, size), color_layout=coremltools.colorlayout.RGB)
    path = folder / "model.mlpackage"
    with scratch_of_libraries("coreml"):  # coremltools writes all weights there before it copies them
        package = coremltools.convert(
            program.image_program().run_decompositions({}),
            inputs=[image],
            outputs=[coremltools.TensorType(name=name, dtype=np.float32) for name in program.outputs],
            convert_to="mlprogram",
            compute_precision=getattr(coremltools.precision, f"FLOAT{recipe.precision.other[2:]}"),
            minimum_deployment_target=getattr(coremltools.target, recipe.deploy.minimum_os),
            skip_model_load=True,
        )
        package.author, package.short_description = "edgepath", f"{recipe.target}: RGB tile -> embedding"
        package.license, package.version = program.facts.get("licence", ""), program.facts.get("edgepath", "")
        package.user_defined_metadata.update(program.facts)
        package.save(str(path))
    (path / _DEBUG_NAMES).unlink(missing_ok=True)
    return path


def _register_operations() -> None:
    """Tell coremltools what the program's own operations (`program.operations`) are in an ML program."""
    from coremltools.converters.mil import Builder, register_torch_op

    def edgepath_quantize(context: Any, node: Any) -> None:
        x, scale = node.inputs
        context.add(Builder.quantize(input=context[x], scale=np.float32(scale), output_dtype="int8", name=node.name))

    def edgepath_dequantize(context: Any, node: Any) -> None:
        integers, scale = node.inputs
        context.add(Builder.dequantize(input=context[integers], scale=np.float32(scale), name=node.name))

    def edgepath_dequantize_rows(context: Any, node: Any) -> None:
        data, scale = (context[name].val for name in node.inputs)
        weight = Builder.constexpr_blockwise_shift_scale(data=data, scale=scale[:, None], name=node.name)
        context.add(weight)

    for function in (edgepath_quantize, edgepath_dequantize, edgepath_dequantize_rows):
        name = function.__name__.removeprefix("edgepath_")
        register_torch_op(function, torch_alias=[f"edgepath::{name}", f"edgepath.{name}"], override=True)


def _check(recipe: Any) -> str:
    systems = _INT8_OS if recipe.int8 else _OLDER_OS + _INT8_OS
    if (minimum_os := recipe.deploy.minimum_os) in systems:
        return ""
    return f"deploy.minimum_os = {quoted(minimum_os)}; known: {', '.join(systems)}"


def _look() -> Found:
    if BACKEND.version is None:
        return Found(False, "not installed", pip_install("coreml"))
    if platform.system() != "Darwin":
        return Found(False, f"coremltools {BACKEND.version}: builds here", "runs only on macOS")
    return Found(True, f"coremltools {BACKEND.version}", "")


BACKEND = Backend(
    name="coreml",
    title="Core ML",
    package="coremltools",
    extra="coreml",
    runner="edgepath.backends.runners.coreml",
    look=_look,
    builds=Builds(
        build=_build,
        needs="coremltools",
        kit="coreml",
        precisions=(("fp32", "fp32"), ("fp16", "fp16"), ("int8", "fp16")),
        checked_with="mil",
        suffix=".mlpackage",
        read=read,
        layers=layers,
        reads_with=("coremltools", "coreml"),
        check=_check,
        checked_how="evaluating the package",
        stand_in="The artifact was evaluated operation by operation in torch, not run by Core ML: a device may round "
        "and sum in another way. Run kit/check.py on one.",
    ),
)
