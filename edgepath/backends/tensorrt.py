"""TensorRT on NVIDIA Jetson: explicit-QDQ ONNX with FP16 tensors, and the plan to build its engine on the device.

Engines do not move between GPU architectures, so the bundle holds the graph and `plan.json`; the engine is built where
it runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..machine.hardware import jetson
from ..machine.packages import pip_install, version_of
from . import onnxruntime
from .backend import Backend, Builds, Found
from .runners.tensorrt import BATCHES, parse_version
from .tensorrt_rtx import parsed

_FP8_SINCE = (8, 9)  # compute capability: Ada, Hopper, Blackwell and Thor; an Orin's is 8.7


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Write `model.onnx` (FP16 tensors, Q/DQ as in the program) and `plan.json`; return the graph's path."""
    import onnx

    path = folder / "model.onnx"
    onnx.save(program.onnx_fp16(), path)
    size = program.model.size
    shapes = {name: [batch, size, size, 3] for name, batch in BATCHES.items()}
    plans = [_plan(plan, shapes) for plan in recipe.deploy.plan]
    contents: dict[str, Any] = {"schema": 1, "shapes": shapes, "plans": plans}
    if recipe.precision.linear == "fp8":
        contents["fp8_since"] = list(_FP8_SINCE)
    (folder / "plan.json").write_text(json.dumps(contents, indent=2) + "\n")
    return path


def _check(recipe: Any) -> str:
    """Say which device or release of an FP8 recipe has no FP8, "" where all do."""
    if recipe.precision.linear != "fp8":
        return ""
    if orins := [device for device in recipe.deploy.devices if "orin" in device.lower()]:
        return f'deploy.devices names "{orins[0]}"; an Orin has no FP8: name others, or take jetson-int8'
    weak = [plan.release for plan in recipe.deploy.plan if not plan.strongly_typed]
    if weak:
        return f'deploy.plan "{weak[0]}" is weakly typed; FP8 needs strongly_typed = true'
    return ""


def _plan(plan: Any, shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    command = ["trtexec", "--onnx=model.onnx", "--saveEngine=model.engine", *plan.flags]
    command += [f"--{name}Shapes=tiles:{'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    return {
        "release": plan.release,
        "runtime": plan.runtime,
        "since": list(parse_version(plan.since)),
        "strongly_typed": plan.strongly_typed,
        "flags": list(plan.flags),
        "trtexec": " ".join(command),
        "source": plan.source,
    }


def _look() -> Found:
    """TensorRT itself is on no public registry: a Jetson has it from JetPack."""
    get = f"tensorrt from NVIDIA's package index, then {pip_install('tensorrt')}"
    if jetson() is not None:
        get = "sudo apt install python3-libnvinfer; pip install polygraphy"
    version, polygraphy = BACKEND.version, version_of("polygraphy")
    if version is None:
        return Found(False, "not installed", get)
    return Found(polygraphy is not None, f"{version}; polygraphy {polygraphy or 'not installed'}", get)


BACKEND = Backend(
    name="tensorrt",
    title="TensorRT",
    package="tensorrt",
    extra="tensorrt",
    runner="edgepath.backends.runners.tensorrt",
    look=_look,
    builds=Builds(
        build=_build,
        needs="onnx",
        kit="jetson",
        precisions=(("fp16", "fp16"), ("int8", "fp16"), ("fp8", "fp16")),
        checked_with="onnx_fp16",
        was_checked_with="onnxruntime",
        suffix=".onnx",
        read=onnxruntime.read,
        layers=onnxruntime.layers,
        reads_with=("onnx", "export"),
        check=_check,
        network=parsed,
        network_needs=("tensorrt_rtx_bindings",),
        checked_how="evaluating its graph; TensorRT-RTX reads it",
        stand_in="The graph was evaluated in torch, rounded to FP16 after each node, not run by TensorRT: run "
        "kit/check.py on the device.",
    ),
)
