"""How much each INT8 layer alone moves the embedding, and how much work it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .calibrate import (
    SCORES,
    Ranges,
    attentions,
    linears,
)
from .fold import EdgeModel
from .linear import quantize_linear, replace_layer, spare_class_token
from .scores import rounded_norms

BATCH = 8


def sensitivities(
    model: EdgeModel,
    ranges: Ranges,
    tiles: np.ndarray,
    *,
    weight_bits: int = 8,
    scores: bool = False,
    class_token: str = "int8",
    skip: Collection[str] = (),
) -> Iterator[tuple[str, float]]:
    """Yield each linear's name and what it does to the embedding as the only INT8 layer: 1 - mean cosine over `tiles`.

    With `scores`, also those of every attention; `class_token` is the recipe's. `model` and `ranges` are smoothed;
    `tiles` is uint8 (N, S, S, 3). What enters each block is kept, so a layer costs the blocks from its own on. Layers
    in `skip` are left out.
    """
    starts = [_embedded(model, tiles[start : start + BATCH]) for start in range(0, len(tiles), BATCH)]
    inputs = [torch.cat(parts) for parts in zip(*(blocks for _, blocks in starts), strict=True)]
    exact = torch.cat([embeddings for embeddings, _ in starts])
    for name, replaced in _arms(model, ranges, weight_bits, scores, skip):
        block = int(name.split("blocks.")[1].split(".")[0])
        before = {place: model.get_submodule(place) for place in replaced}
        try:
            for place, module in replaced.items():
                replace_layer(model, place, module)
            if class_token == "float":
                spare_class_token(model)
            found = torch.cat([_from(model, block, part) for part in torch.split(inputs[block], BATCH)])
        finally:
            for place, module in before.items():
                replace_layer(model, place, module)
        yield name, float(1 - nn.functional.cosine_similarity(found.double(), exact.double()).mean())


def _arms(
    model: EdgeModel, ranges: Ranges, bits: int, scores: bool, skip: Collection[str]
) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    """Yield what can be INT8 by name, and the modules that make it so by their places."""
    for name, layer in linears(model).items():
        if name not in skip:
            yield name, {name: quantize_linear(layer, ranges.limit(name), bits)}
    for name, attn in attentions(model).items() if scores else ():
        if name + SCORES not in skip:
            query, key = rounded_norms(attn, ranges.scores[name])
            yield name + SCORES, {f"{name}.q_norm": query, f"{name}.k_norm": key}


def multiply_adds(model: EdgeModel, *, scores: bool = False) -> dict[str, int]:
    """Return the multiply-adds of each linear for one tile, with `scores` also those of queries with keys."""
    found: dict[str, int] = {}
    hooks = []
    for name, attn in attentions(model).items() if scores else ():

        def note(of: nn.Module, inputs: Any, output: Tensor, name: str = name + SCORES) -> None:
            """Queries pass first, float32 (1, heads, T, d), then keys."""
            found[name] = output.numel() if name not in found else found[name] * output.shape[-2]

        hooks += [norm.register_forward_hook(note) for norm in (attn.q_norm, attn.k_norm)]
    for name, layer in linears(model).items():

        def count(of: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            found[name] = output.numel() * inputs[0].shape[-1]

        hooks.append(layer.register_forward_hook(count))
    try:
        with torch.inference_mode():
            model(torch.zeros(1, model.size, model.size, 3, dtype=torch.uint8))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _embedded(model: EdgeModel, tiles: np.ndarray) -> tuple[Tensor, list[Tensor]]:
    """Return embeddings (N, D), and of every block what enters it (N, T, width)."""
    inputs: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in model.vit.blocks]
    try:
        with torch.inference_mode():
            found = model(torch.from_numpy(np.array(tiles, order="C")))
    finally:
        for hook in hooks:
            hook.remove()
    return _embedding(found), inputs


def _from(model: EdgeModel, block: int, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return _embedding(model.finish(model.vit.blocks[block:](inputs)))


def _embedding(found: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return found if isinstance(found, Tensor) else found[0]
