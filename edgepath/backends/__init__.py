"""One module per runtime, each with two names: `build` makes the artifact, `Runner` runs it."""

from typing import Literal, get_args

Name = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "coreml"]
NAMES: tuple[Name, ...] = get_args(Name)
WITH_THREADS = ("onnxruntime", "openvino", "mil")
"""Those whose `Runner` takes `threads`: they run on a CPU."""
