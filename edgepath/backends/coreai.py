"""Core AI on Apple devices: a program, `model.aimodel`, that takes raw tiles; it is built on any machine."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, first_line
from ..machine.packages import pip_install
from ..machine.quiet import quiet
from ..machine.tables import quoted
from .backend import Backend, Builds, Found
from .coreai_program import layers, read
from .runners.coreai import VERSION

_SYSTEMS = ("iOS27", "macOS27")


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Convert the program, its values in the recipe's precision, and write `model.aimodel`; return its path.

    The number of tiles stays open. Of the way here nothing is kept: no stack traces, no paths.
    """
    import torch

    with quiet():  # it warns that torch is newer than what it was tried with
        import coreai_torch
        import coreai_torch._compression.custom_layers  # registers `torch.ops.coreai`

        model = _as_module(program, recipe.precision)
        example = torch.zeros(2, program.model.size, program.model.size, 3, dtype=torch.uint8)
        with torch.no_grad():
            exported = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        converter = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)
        converter.register_torch_lowering("aten::linear.default")(_linear)
        table = coreai_torch.get_decomp_table()
        table.pop(torch.ops.aten.linear.default)
        try:
            converter.add_exported_program(
                exported.run_decompositions(table), input_names=["tiles"], output_names=list(program.outputs)
            )
        except ValueError as error:  # it names the operations that it cannot convert
            raise UsageError(f"export {recipe.target}: {first_line(error)}") from None
        converted = converter.to_coreai()
    path = folder / "model.aimodel"
    converted.save_asset(path, _metadata(program, recipe))
    return path


def _linear(values: Any, node: Any, loc: Any) -> Any:
    """Lower a linear to one product: taken apart by torch, that of a cut of the tokens copies its weights per tile."""
    from coreai._compiler.dialects import coreai

    x, weight, *bias = (values[argument.name] for argument in node.args if argument is not None)
    turned = coreai.transpose(weight, np.array([1, 0], np.uint32))
    product = coreai.broadcasting_batch_matmul(x, turned)
    return coreai.broadcasting_add(product, bias[0]) if bias else product


def _as_module(program: Any, precision: Any) -> Any:
    """Return the program as a module of Core AI's own operations: uint8 (N, S, S, 3) -> float32 outputs.

    Integers and scales are the program's: FP16 can hold them.
    """
    import torch
    from torch import nn

    names = torch.ops.coreai
    kind = torch.float16 if precision.other == "fp16" else torch.float32
    start = torch.float32 if precision.first_block == "fp32" else kind

    class Linear(nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            for name in ("weight", "weight_scale", "bias"):
                self.register_buffer(name, getattr(layer, name))
            self.register_buffer("input_scale", torch.tensor(layer.input_scale, dtype=torch.float32))

        def forward(self, x: Any) -> Any:
            numbers: Any = self
            integers = names.quantize(x, numbers.input_scale, torch.int8)
            weight = names.dequantize(numbers.weight, numbers.weight_scale, axis=0)
            return nn.functional.linear(names.dequantize(integers, numbers.input_scale), weight, numbers.bias)

    class Whole(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, tiles: Any) -> Any:
            outputs = self.model.encode(tiles.to(start).permute(0, 3, 1, 2))
            return tuple(output.float() for output in outputs) if isinstance(outputs, tuple) else outputs.float()

    class Cast(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.to(kind)

    model = program.with_linears(Linear)
    if start == kind:
        return Whole(model.to(kind)).eval()
    for part in (*model.vit.blocks[1:], model.vit.norm):
        part.to(kind)
    model.vit.blocks.insert(1, Cast())
    return Whole(model).eval()


def _metadata(program: Any, recipe: Any) -> Any:
    from coreai.runtime import AIModelAssetMetadata

    metadata = AIModelAssetMetadata()
    metadata.author, metadata.model_description = "edgepath", f"{recipe.target}: RGB tiles -> embeddings"
    metadata.license = program.facts.get("licence", "")
    for key, value in program.facts.items():
        metadata.set_custom(key, value)
    return metadata


def _check(recipe: Any) -> str:
    minimum_os = recipe.deploy.minimum_os
    return "" if minimum_os in _SYSTEMS else f"deploy.minimum_os = {quoted(minimum_os)}; known: {', '.join(_SYSTEMS)}"


def _look() -> Found:
    if BACKEND.version is None:
        return Found(False, "not installed", pip_install("coreai"))
    if BACKEND.version != VERSION:
        return Found(False, f"coreai-core {BACKEND.version}; it takes {VERSION}", pip_install("coreai"))
    if int(platform.mac_ver()[0].partition(".")[0] or 0) < 27:
        return Found(False, f"coreai-core {BACKEND.version}: builds and checks here", "runs only on macOS 27 or later")
    return Found(True, f"coreai-core {BACKEND.version}", "")


BACKEND = Backend(
    name="coreai",
    title="Core AI",
    package="coreai-core",
    distribution="coreai-core",
    extra="coreai",
    runner="edgepath.backends.runners.coreai",
    look=_look,
    builds=Builds(
        build=_build,
        needs="coreai-torch",
        kit="coreai",
        precisions=(("fp32", "fp32"), ("fp16", "fp16"), ("int8", "fp32"), ("int8", "fp16")),
        checked_with="coreai_interpreter",
        wide_first_block=True,
        suffix=".aimodel",
        read=read,
        layers=layers,
        reads_with=("coreai", "coreai"),
        check=_check,
        checked_how="Apple's interpreter",
        stand_in="The artifact was run by the interpreter in Apple's coreai-core, with matmuls that add up in FP32: a "
        "device may round and sum in another way, and takes another time. Run kit/check.py on one.",
    ),
)
