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


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Write `model.onnx` (FP16 tensors, INT8 Q/DQ as in the program) and `plan.json`; return the graph's path."""
    import onnx

    path = folder / "model.onnx"
    onnx.save(program.onnx_fp16(), path)
    size = program.model.size
    shapes = {name: [batch, size, size, 3] for name, batch in BATCHES.items()}
    plans = [_plan(plan, shapes) for plan in recipe.deploy.plan]
    (folder / "plan.json").write_text(json.dumps({"schema": 1, "shapes": shapes, "plans": plans}, indent=2) + "\n")
    return path


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
        precisions=(("fp16", "fp16"), ("int8", "fp16")),
        checked_with="onnx_fp16",
        was_checked_with="onnxruntime",
        suffix=".onnx",
        read=onnxruntime.read,
        layers=onnxruntime.layers,
        reads_with=("onnx", "export"),
        network=parsed,
        network_needs=("tensorrt_rtx_bindings",),
        stand_in="The graph was evaluated in torch, rounded to FP16 after each node, not run by TensorRT: run "
        "kit/check.py on the device.",
    ),
)
