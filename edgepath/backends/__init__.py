"""One module per runtime, each with two names: `build` makes the artifact, `Runner` runs it."""

from typing import Literal, get_args

Name = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "coreml"]
NAMES: tuple[Name, ...] = get_args(Name)
WITH_THREADS = ("onnxruntime", "openvino", "mil")
"""Those whose `Runner` takes `threads`: they run on a CPU."""
CUT: tuple[Name, ...] = ("openvino",)
"""Those that get an INT8 program with its products cut (`program.split_projections`): that was measured to be faster.

In FP32 OpenVINO is slower with them on AVX2: its quickest kernel fuses nothing. ONNX Runtime leaves products that share
their rounded input in FP32.
"""
SCORES: tuple[Name, ...] = ("openvino", "tensorrt", "tensorrt_rtx")
"""Those whose runtimes multiply two INT8 activations, so that attention's scores can be INT8 (`program.scores`)."""
CLASS_TOKEN: tuple[Name, ...] = ("openvino",)
"""Those where the class token's activations can stay in floating point (`program.linear`).

OpenVINO multiplies one row with packed integers as they are. ONNX Runtime unpacks all weights anew at every call, which
costs more than it is worth; with the builders of the others it was not run.
"""
