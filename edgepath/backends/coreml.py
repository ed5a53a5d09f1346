"""Core ML on Apple devices: an ML program, `model.mlpackage`, that takes an RGB image; it is built on any machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..machine.packages import pip_install
from ..machine.tables import quoted
from .backend import Backend, Builds, Found
from .contents import Layer, Parts

# Releases with blockwise INT8 weights next to quantized activations come last.
_OLDER_OS, _INT8_OS = ("iOS16", "iOS17", "macOS13", "macOS14"), ("iOS18", "iOS26", "macOS15", "macOS26")


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Convert the program behind an image input and write `model.mlpackage`; return its path.

    Core ML cannot scale an image's colours one by one, which is why the normalisation had to be folded before.
    """
    import coremltools

    _register_operations()
    size = program.model.size
    image = coremltools.ImageType(name="tile", shape=(1, 3, size, size), color_layout=coremltools.colorlayout.RGB)
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
    path = folder / "model.mlpackage"
    package.save(str(path))
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


def _read(path: Path) -> Parts:
    from .mil_program.parts import read

    return read(path)


def _layers(path: Path) -> Mapping[int, Layer]:
    from .mil_program.layers import layers

    return layers(path)


def _check(recipe: Any) -> str:
    systems = _INT8_OS if recipe.int8 else _OLDER_OS + _INT8_OS
    if (found := recipe.deploy.minimum_os) in systems:
        return ""
    return f"deploy.minimum_os = {quoted(found)}; known: {', '.join(systems)}"


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
        read=_read,
        layers=_layers,
        reads_with=("coremltools", "coreml"),
        check=_check,
        stand_in="The artifact was evaluated operation by operation in torch, not run by Core ML: a device may round "
        "and sum in another way. Run kit/check.py on one.",
    ),
)
