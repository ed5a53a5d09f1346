"""ONNX Runtime on the CPU: `model.onnx`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..machine.scratch import scratch
from .backend import Backend, Builds, Calls
from .onnx.layers import layers as layers
from .onnx.parts import read as read


def _build(program: Any, folder: Path, recipe: Any) -> Path:
    """Write `model.onnx`. INT8 is for speed and takes ONNX Runtime's own attention; FP32 is for any reader of ONNX."""
    import onnx

    path = folder / "model.onnx"
    onnx.save(program.onnx_fused() if recipe.int8 else program.onnx(), path)
    return path


def _profile(artifact: Path, tiles: np.ndarray, threads: int, calls: int, warm_up: int) -> Calls:
    """Read the profile that ONNX Runtime writes: an event a node and call; its precision is that of the first input."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = threads, 3, True
    with scratch("profile") as folder:
        options.profile_file_prefix = str(folder / "profile")
        session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(warm_up + calls):
            session.run(None, {name: tiles})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    per_call: Calls = [[] for _ in range(warm_up + calls)]
    for node in events:
        if node.get("cat") == "Node" and node["name"].endswith("_kernel_time"):
            about = node["args"]
            given = next((kind for entry in about["input_type_shape"] for kind in entry), "")
            per_call[seen[node["name"]]].append((about["op_name"], given, node["dur"] / 1e3))
            seen[node["name"]] += 1
    return per_call[warm_up:]


BACKEND = Backend(
    name="onnxruntime",
    title="ONNX Runtime",
    package="onnxruntime",
    extra="onnxruntime",
    runner="edgepath.backends.runners.onnxruntime",
    on_cpu=True,
    profile=_profile,
    builds=Builds(
        build=_build,
        needs="onnxruntime",
        kit="onnx",
        precisions=(("fp32", "fp32"), ("int8", "fp32")),
        checked_with="onnxruntime",
        suffix=".onnx",
        read=read,
        layers=layers,
        reads_with=("onnx", "export"),
        ran_on="x86-64",
    ),
)
