"""FP16 graphs evaluated as they are written: what `tensorrt` and `tensorrt_rtx` build is checked with this."""

from __future__ import annotations

from .backend import Backend

BACKEND = Backend(
    name="onnx_fp16",
    title="ONNX evaluator, FP16 rounding",
    package="torch and onnx",
    distribution="onnx",
    extra="export",
    runner="edgepath.backends.runners.onnx_fp16",
    on_cpu=True,
    needs=(("torch", "export"), ("onnx", "export")),
)
