"""What other tools make of the same full-precision model with their defaults: what a bundle has to beat.

They are given the model as edgepath folds it, so they have its folded normalisation and CLS-only last block too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.runners.openvino import core
from ..machine.packages import require
from ..machine.quiet import quiet

NNCF = "NNCF default INT8 (OpenVINO)"
STATIC = "ONNX Runtime static INT8"
DYNAMIC = "ONNX Runtime dynamic INT8"
OF = {"openvino": (NNCF,), "onnxruntime": (STATIC, DYNAMIC)}
"""The peers in each runtime."""


def build_peer(name: str, model: Path, tiles: np.ndarray, folder: Path) -> Path:
    """Quantize `model`, a full-precision IR or ONNX file, the way `name` says and return the file; in `folder`.

    `tiles`, uint8 (N, S, S, 3), are what is calibrated on. Raises MissingRuntime without the tool.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name == NNCF:
        return _nncf(model, tiles, folder / "nncf.xml")
    with quiet("root"):
        return _static(model, tiles, folder) if name == STATIC else _dynamic(model, folder)


def _nncf(model: Path, tiles: np.ndarray, path: Path) -> Path:
    """As NNCF's documentation does for a transformer."""
    require("nncf", "nncf")
    import nncf
    import openvino

    with quiet("nncf"):
        data = nncf.Dataset([tile[None] for tile in tiles])
        graph = core().read_model(model)
        quantized = nncf.quantize(graph, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(tiles))
    openvino.save_model(quantized, path, compress_to_fp16=False)
    return path


def _static(model: Path, tiles: np.ndarray, folder: Path) -> Path:
    """As ONNX Runtime's documentation does: its own preparation, then QDQ with every default."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Mapping[str, Any]] = iter([{"tiles": tile[None]} for tile in tiles])

        def get_next(self) -> Mapping[str, Any] | None:
            return next(self._left, None)

    prepared, path = folder / "prepared.onnx", folder / "static.onnx"
    # The symbolic shape inference knows fewer operators than ONNX's own, which runs either way.
    quant_pre_process(model, prepared, skip_symbolic_shape=True)
    quantize_static(prepared, path, Reader())
    return path


def _dynamic(model: Path, folder: Path) -> Path:
    """Only what its documentation advises for transformers: MatMul (its CPU provider has no INT8 patch convolution)."""
    from onnxruntime.quantization import quantize_dynamic

    path = folder / "dynamic.onnx"
    quantize_dynamic(model, path, op_types_to_quantize=["MatMul", "Gemm"])
    return path
