"""TODO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..machine.packages import require
from .contents import Layer, Parts, Product


def require_reader(artifact: Path) -> None:
    """Raise MissingRuntime unless what reads an artifact's files is here."""
    package, extra = {".onnx": ("onnx", "export"), ".xml": ("openvino", "openvino")}.get(
        artifact.suffix, ("coremltools", "coreml")
    )
    require(package, extra)


def read_parts(artifact: Path) -> Parts:
    """Return the parts of a `.onnx`, `.xml` (OpenVINO) or `.mlpackage`. Raises BundleError for what cannot be read."""
    require_reader(artifact)
    if artifact.suffix == ".onnx":
        from .onnx.parts import read
    elif artifact.suffix == ".xml":
        from .openvino_ir import read
    else:
        from .mil.parts import read
    return read(artifact)


def missing(engine: Path, products: Mapping[str, Product]) -> list[str]:
    """Return, a line each, of which quantized products an engine does not hold the integers.

    What it does with them, and all scales, are not seen: the graph beside it is what they are checked in.
    """
    data = engine.read_bytes()
    return [
        f"{name}: {engine.name} does not hold its integers"
        for name, product in products.items()
        if product.scale is not None and np.ascontiguousarray(product.weight.T).tobytes() not in data
    ]


def _layers(artifact: Path) -> Mapping[int, Layer]:
    """Return the quantized layers of an artifact by their place among its products."""
    if artifact.suffix == ".onnx":
        from .onnx.layers import layers
    elif artifact.suffix == ".xml":
        from .openvino_ir import layers
    else:
        from .mil.layers import layers
    return layers(artifact)
