"""Quantized linears of a Core ML package, each evaluated alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contents import Found, Layer
from .program import Operation, load_program

if TYPE_CHECKING:
    from .evaluation import Evaluator


def layers(path: Path) -> dict[int, Layer]:
    """Return the layers by their place among the products of a package that `backends.mil.parts` reads."""
    from .evaluation import Evaluator

    program, by_place = load_program(path), {}
    evaluate = Evaluator(program)
    products = [operation for operation in program.operations if operation.kind in ("linear", "conv")]
    for place, product in enumerate(products):
        weight = program.made_by.get(product.inputs["weight"][0])
        if weight is None:
            continue  # not quantized
        after = program.made_by[product.inputs["x"][0]]
        before = program.made_by[after.inputs["input"][0]]
        half = next(iter(after.outputs.values())).dtype == "fp16"
        by_place[place] = Layer(half, partial(_run, evaluate, (before, after, weight, product)))
    return by_place


def _run(evaluate: Evaluator, operations: Sequence[Operation], x: np.ndarray) -> Found:
    import torch

    before, product = operations[0], operations[-1]
    values: dict[str, Any] = {before.inputs["input"][0]: torch.from_numpy(x)}
    for operation in operations:
        values |= evaluate.compute(operation, values)
    output = values[product.name].numpy()
    return values[before.name].numpy().astype(np.int8), output, output  # the evaluator fuses nothing
