"""Tokens that are merged: as a loop over them says, and nothing lost where they are equal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from token_merging import MergingBlocks, merged

from edgepath.models.catalogue import find_model
from edgepath.models.weights import random_model
from edgepath.program.fold import fold

PREFIX = 5


def merged_one_by_one(x: np.ndarray, keys: np.ndarray, sizes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (T - count, width) and sizes of one tile, pair by pair."""
    first, second = list(range(PREFIX, len(x), 2)), list(range(PREFIX + 1, len(x), 2))
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    nearest = {i: second[int(np.argmax([unit[i] @ unit[j] for j in second]))] for i in first}
    alike = sorted(first, key=lambda i: -float(unit[i] @ unit[nearest[i]]))
    tokens = {j: [(float(sizes[j]), x[j])] for j in second}
    for i in alike[:count]:
        tokens[nearest[i]].append((float(sizes[i]), x[i]))
    left = [*[[(float(sizes[i]), x[i])] for i in range(PREFIX)], *[[(float(sizes[i]), x[i])] for i in alike[count:]]]
    left += [tokens[j] for j in second]
    total = np.array([sum(size for size, _ in parts) for parts in left])
    return np.array([sum(size * values for size, values in parts) for parts in left]) / total[:, None], total


def test_tokens_are_merged_as_a_loop_over_them_does() -> None:
    draw = torch.Generator().manual_seed(0)
    x, keys = torch.randn(2, 25, 6, generator=draw), torch.randn(2, 25, 4, generator=draw)
    sizes = torch.randint(1, 4, (2, 25, 1), generator=draw).float()
    tokens, left = merged(x, keys, sizes, 7, PREFIX)
    assert tokens.shape == (2, 18, 6)
    for tile in range(2):
        wanted, total = merged_one_by_one(x[tile].numpy(), keys[tile].numpy(), sizes[tile, :, 0].numpy(), 7)
        np.testing.assert_allclose(tokens[tile].numpy(), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(left[tile, :, 0].numpy(), total)


def test_equal_tokens_are_merged_without_a_trace() -> None:
    """Attention counts a merged token as often as it stands for patches, so nothing is lost of equal ones."""
    h0_mini = find_model("h0-mini")
    tiny = replace(h0_mini, timm_args={**h0_mini.timm_args, "embed_dim": 96, "num_heads": 3, "depth": 4})
    vit: Any = random_model(tiny)
    vit.pos_embed.data.zero_()
    net, tile = fold(vit, tiny), np.zeros((1, 224, 224, 3), np.uint8)
    draw = np.random.default_rng(0)
    for row in range(16):  # each patch twice, side by side
        for column in range(0, 16, 2):
            patch = draw.integers(0, 256, (14, 14, 3), np.uint8)
            for side in (column, column + 1):
                tile[0, row * 14 : row * 14 + 14, side * 14 : side * 14 + 14] = patch
    pixels = torch.from_numpy(tile)
    with torch.inference_mode():
        exact = net(pixels)
        net.vit.blocks = MergingBlocks(net.vit.blocks, (0, 128, 0, 0), PREFIX)
        torch.testing.assert_close(net(pixels), exact, atol=1e-5, rtol=1e-5)
        net.vit.blocks.counts = (0, 128, 64, 0)  # 64 that are not alike
        assert not torch.allclose(net(pixels), exact, atol=1e-4, rtol=1e-4)
