"""OpenVINO on Intel CPUs (GPU and NPU by name): an IR, `model.xml` and `model.bin`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import first_line
from ..machine.packages import pip_install
from .backend import Backend, Builds, Calls, Found
from .openvino_ir import layers, read
from .runners.openvino import core


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Convert the program's ONNX form, and write `model.xml` and `model.bin`; return the `.xml`."""
    import onnx
    import openvino

    source = folder / "source.onnx"  # OpenVINO reads ONNX from disk; large models do not fit its in-memory route
    onnx.save(program.onnx(), source)
    try:
        # Not convert_model: it reports each use over the network, and the process it forks for that can hang NumPy.
        model = core().read_model(source)
        path = folder / "model.xml"
        if recipe.precision.other == "bf16":
            model.set_rt_info("bf16", ["edgepath", "precision"])  # at the end of the file, where the runner looks
        openvino.save_model(model, path, compress_to_fp16=recipe.precision.other == "fp16")
    finally:
        source.unlink()
    return path


def _look() -> Found:
    version = BACKEND.version
    if version is None:
        return Found(False, "not installed", pip_install("openvino"))
    try:
        runtime = core()
        devices = [f"{name} ({runtime.get_property(name, 'FULL_DEVICE_NAME')})" for name in runtime.available_devices]
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: what its C++ side throws, a plugin's too
        return Found(False, f"{version}, but it fails: {first_line(error)}", pip_install("openvino"))
    return Found(bool(devices), f"{version}; {', '.join(devices) or 'no device'}", pip_install("openvino"))


def _profile(artifact: Path, tiles: np.ndarray, threads: int, calls: int, warm_up: int) -> Calls:
    from .runners.openvino import Runner

    per_call: Calls = []
    with Runner(artifact, threads=threads, profile=True) as runner:
        for _ in range(warm_up + calls):
            runner(tiles)
            per_call.append(runner.operations())
    return per_call[warm_up:]


BACKEND = Backend(
    name="openvino",
    title="OpenVINO",
    package="openvino",
    extra="openvino",
    runner="edgepath.backends.runners.openvino",
    on_cpu=True,
    look=_look,
    model_cache=True,
    profile=_profile,
    builds=Builds(
        build=_build,
        needs="openvino",
        kit="openvino",
        precisions=(("fp32", "fp32"), ("fp16", "fp16"), ("int8", "fp32"), ("int8", "fp16"), ("int8", "bf16")),
        checked_with="openvino",
        suffix=".xml",
        read=read,
        layers=layers,
        reads_with=("openvino", "openvino"),
        # Measured to be faster in INT8. In FP32 it is slower on AVX2: the quickest kernel there fuses nothing. ONNX
        # Runtime leaves products that share their rounded input in FP32.
        split_projections=True,
        # OpenVINO multiplies one row with packed integers as they are. ONNX Runtime unpacks all weights anew at every
        # call, which costs more than it is worth; with the builders of the others it was not run.
        float_class_token=True,
        ran_on="AMD CPU",
    ),
)
