"""Token merging: patch tokens that say the same go on as one (ToMe: Bolya et al., ICLR 2023, arXiv 2210.09461).

After a block's attention, patch tokens are dealt into two sets in turn. Each of the first finds its nearest of the
second by the cosine of their keys, and the nearest pairs become one token each, the mean of all patches they stand for.
From then on a token counts in attention as often as it stands for patches: the logarithm of its size is added to its
logits. Class token and registers are never merged. All shapes are fixed before it runs. Ranges and scales are those of
the model that merges nothing: a mean is no larger than what it is of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgepath.program.calibrate import linears
from edgepath.program.fold import ClsOnlyBlock, EdgeModel
from edgepath.program.sensitivity import multiply_adds


class MergingBlocks(nn.Sequential):
    """A transformer's blocks, float32 (N, T, width) -> (N, 1, width): block i merges `counts[i]` patch tokens."""

    def __init__(self, blocks: Any, counts: Sequence[int], prefix: int) -> None:
        super().__init__(*blocks)
        self.counts, self.prefix = tuple(counts), prefix

    def forward(self, x: Tensor) -> Tensor:
        sizes = None
        blocks: Iterator[Any] = iter(self)
        for block, count in zip(blocks, self.counts, strict=True):
            attended, keys = _attend(block, x, sizes)
            x = (x[:, :1] if isinstance(block, ClsOnlyBlock) else x) + block.ls1(attended)
            if count:
                x, sizes = merged(x, keys, torch.ones_like(x[..., :1]) if sizes is None else sizes, count, self.prefix)
            x = x + block.ls2(block.mlp(block.norm2(x)))
        return x


def merged(x: Tensor, keys: Tensor, sizes: Tensor, count: int, prefix: int) -> tuple[Tensor, Tensor]:
    """Return the tokens that are left, (N, T - count, width), and the patches each stands for, (N, T - count, 1).

    Args:
        x: Tokens (N, T, width), the first `prefix` of which are class token and registers.
        keys: What they are compared by (N, T, length).
        sizes: How many patches each stands for (N, T, 1).
        count: How many go into others, at most half of the patch tokens.
        prefix: Tokens that stay as they are.
    """
    keys = F.normalize(keys[:, prefix:], dim=-1)
    nearest, partner = (keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)).max(-1)
    first, second = x[:, prefix::2], x[:, prefix + 1 :: 2]
    firsts, seconds = sizes[:, prefix::2], sizes[:, prefix + 1 :: 2]
    # Tokens are picked and added by products with zeros and ones: a few operations that every runtime has, and quicker
    # than gathering and scattering rows.
    before = torch.ones(first.shape[1], first.shape[1], dtype=torch.bool).tril(-1)
    others, own = nearest[:, None, :], nearest[:, :, None]
    rank = ((others > own) | ((others == own) & before)).sum(-1)
    left = _one_hot(rank - count, first.shape[1] - count).transpose(1, 2)
    into = (_one_hot(partner, second.shape[1]) * (rank < count)[..., None]).transpose(1, 2)
    grown = seconds + into @ firsts
    second = (second * seconds + into @ (first * firsts)) / grown
    tokens = torch.cat([x[:, :prefix], left @ first, second], 1)
    return tokens, torch.cat([sizes[:, :prefix], left @ firsts, grown], 1)


def _one_hot(indices: Tensor, among: int) -> Tensor:
    """Return float32 (N, K, among) with a one at each of `indices` (N, K); a row of zeros for one below 0."""
    return (indices[..., None] == torch.arange(among)).float()


def merging(model: EdgeModel, counts: Sequence[int]) -> EdgeModel:
    """Let a folded model, quantized or not, merge `counts[i]` patch tokens in block i, none in the last, in place."""
    vit: Any = model.vit
    vit.blocks = MergingBlocks(vit.blocks, counts, vit.num_prefix_tokens)
    return model


def work_left(model: EdgeModel, merged: Sequence[int]) -> float:
    """Return the share of multiply-adds that a folded model's linear layers have left when blocks merge so many."""
    vit: Any = model.vit
    left, tokens = 0.0, vit.patch_embed.num_patches + vit.num_prefix_tokens
    work = multiply_adds(model)
    for name, linear in linears(model).items():
        block = int(name.split("blocks.")[1].split(".")[0])
        alone = work[name] == linear.weight.numel()  # of the class token
        before = sum(merged[: block + (".mlp." in name)])
        left += work[name] * (1 if alone else 1 - before / tokens)
    return left / sum(work.values())


def _attend(block: Any, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what a block's attention adds, (N, T or 1, width), and the mean over heads of its keys, (N, T, length)."""
    attn, given = block.attn, block.norm1(x)
    whole = hasattr(attn, "qkv")
    parts = _parts(attn.qkv, given, 3) if whole else [attn.q(given[:, :1]), *_parts(attn.kv, given, 2)]
    q, k, v = (part.unflatten(2, (attn.num_heads, attn.head_dim)).transpose(1, 2) for part in parts)
    k = attn.k_norm(k)
    logits = attn.q_norm(q) @ k.transpose(2, 3) * attn.head_dim**-0.5
    if sizes is not None:
        logits = logits + sizes.log().transpose(1, 2)[:, None]
    return attn.proj(attn.norm((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))), k.mean(1)


def _parts(layer: Any, given: Tensor, count: int) -> Sequence[Tensor]:
    """Return what a layer computes in so many parts, or what each of a layer's parts does (`split_projections`)."""
    return [part(given) for part in layer] if isinstance(layer, nn.ModuleList) else layer(given).chunk(count, dim=-1)
