"""How much each INT8 layer alone moves the embedding, and how much work it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from ..machine.inference import inference
from .calibrate import NO_PLAN, Plan, Ranges, linears
from .fold import EdgeModel
from .linear import quantize_linear, replace_layer, spare_class_token

BATCH = 8


def sensitivities(
    model: EdgeModel,
    ranges: Ranges,
    tiles: np.ndarray,
    *,
    plan: Plan = NO_PLAN,
    weight_bits: int = 8,
    class_token: str = "int8",
    skip: Collection[str] = (),
) -> Iterator[tuple[str, float]]:
    """Yield each linear's name and what it does to the embedding as the only INT8 layer: 1 - mean cosine over `tiles`.

    `class_token` is the recipe's. `model` and `ranges` are smoothed; `tiles` is uint8 (N, S, S, 3). What enters each
    block is kept, so a layer costs the blocks from its own on. Layers in `skip` are left out.
    """
    starts = [_embedded(model, tiles[start : start + BATCH]) for start in range(0, len(tiles), BATCH)]
    inputs = [torch.cat(parts) for parts in zip(*(blocks for _, blocks in starts), strict=True)]
    exact = torch.cat([embeddings for embeddings, _ in starts])
    for name, layer in linears(model).items():
        if name in skip:
            continue
        block = int(name.split("blocks.")[1].split(".")[0])
        try:
            replace_layer(model, name, quantize_linear(layer, plan.limit(name, ranges), weight_bits))
            if class_token == "float":
                spare_class_token(model)
            quantized = torch.cat([_from(model, block, part) for part in torch.split(inputs[block], BATCH)])
        finally:
            replace_layer(model, name, layer)
        yield name, float(1 - nn.functional.cosine_similarity(quantized.double(), exact.double()).mean())


def multiply_adds(model: EdgeModel) -> dict[str, int]:
    """Return the multiply-adds of each linear for one tile."""
    counts: dict[str, int] = {}
    with ExitStack() as hooks, inference():
        for name, layer in linears(model).items():

            def count(of: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                counts[name] = output.numel() * inputs[0].shape[-1]

            hooks.enter_context(layer.register_forward_hook(count))
        model(torch.zeros(1, model.size, model.size, 3, dtype=torch.uint8))
    return counts


def _embedded(model: EdgeModel, tiles: np.ndarray) -> tuple[Tensor, list[Tensor]]:
    """Return embeddings (N, D), and of every block what enters it (N, T, width)."""
    inputs: list[Tensor] = []
    with ExitStack() as hooks, inference():
        for block in model.vit.blocks:
            hooks.enter_context(block.register_forward_pre_hook(lambda _, given: inputs.append(given[0])))
        outputs = model(torch.from_numpy(np.array(tiles, order="C")))
    return _embedding(outputs), inputs


def _from(model: EdgeModel, block: int, inputs: Tensor) -> Tensor:
    with inference():
        return _embedding(model.finish(model.vit.blocks[block:](inputs)))


def _embedding(outputs: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]
