"""Quantized linears cut out of an OpenVINO IR, each a model of its own.

As its file says it is computed by OpenVINO's reference implementations (`Model.evaluate`); fused, by the CPU's kernels.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..parts.openvino import bias_of, is_product, open_model, quantizer_of
from . import Found, Layer


def layers(path: Path) -> dict[int, Layer]:
    """Return the layers by their place among the products of an IR that `parts.openvino` reads."""
    model, found = open_model(path), {}
    products = [node for node in model.get_ordered_ops() if is_product(node)]
    for place, node in enumerate(products):
        quantizer = quantizer_of(node)
        if quantizer is not None:
            last = bias_of(node, path)[0] or node
            # With the layer goes the model: it owns the nodes.
            found[place] = Layer(False, partial(_run, model, quantizer, last))
    return found


def _run(model: Any, quantizer: Any, last: Any, x: np.ndarray) -> Found:
    """Return the integers that enter, and the output by reference and by the CPU's kernels."""
    import openvino

    given = openvino.opset13.parameter(list(x.shape), openvino.Type.f32)
    before = quantizer.input_value(0)
    quantizer.input(0).replace_source_output(given.output(0))
    try:
        integers, whole = (openvino.Model([node.output(0)], [given], "layer") for node in (quantizer, last))
        compiled = openvino.Core().compile_model(
            whole, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
        )
        fused = np.array(compiled([x])[0], np.float32)
        return np.rint(_evaluated(integers, x)).astype(np.int8), _evaluated(whole, x), fused
    finally:
        quantizer.input(0).replace_source_output(before)


def _evaluated(model: Any, x: np.ndarray) -> np.ndarray:
    import openvino

    model.validate_nodes_and_infer_types()  # it was cut out of one with other shapes
    output = openvino.Tensor(model.output(0).get_element_type(), model.output(0).get_shape())
    if not model.evaluate([output], [openvino.Tensor(np.ascontiguousarray(x))]):
        raise RuntimeError("OpenVINO has no reference implementation of one of a layer's operations")
    return np.array(output.data, np.float32)
