"""Parts of a TensorRT-RTX engine, which can be built without a GPU but not run.

The file's format is not documented; weights stand in it as bytes. TensorRT-RTX 1.7.1 keeps those of INT8 products as
the graph has them, (in, out) row by row, and rearranges some of FP16: only integers are looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from . import Product


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
