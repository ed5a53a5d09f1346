"""Token merging: patch tokens that say the same go on as one (ToMe: Bolya et al., ICLR 2023, arXiv 2210.09461).

After a block's attention, patch tokens are split into two sets in turn; each of the first finds its nearest of the
second by its keys, and the `count` nearest pairs become one token each, the mean of all patches they stand for. From
then on a token counts as many times in attention as it stands for patches (proportional attention: the logarithm of
its size is added to its logits). Class token and registers are never merged. All shapes are fixed before it runs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgepath.program.fold import ClsOnlyBlock, EdgeModel


class MergingBlocks(nn.Sequential):
    """A transformer's blocks, float32 (N, T, width), that merge `counts[i]` patch tokens in block i; none in the last.

    With `by_products` tokens are picked and added by products with matrices of zeros and ones, else by indices:
    the same numbers from operations that other runtimes have.
    """

    def __init__(self, blocks: Any, counts: Sequence[int], prefix: int, *, by_products: bool = False) -> None:
        super().__init__(*blocks)
        self.counts, self.prefix, self.by_products = tuple(counts), prefix, by_products

    def forward(self, x: Tensor) -> Tensor:
        sizes = None
        for block, count in zip(self, self.counts, strict=True):
            attended, keys = attend(block, x, sizes)
            x = (x[:, :1] if isinstance(block, ClsOnlyBlock) else x) + block.ls1(attended)
            if count:
                x, sizes = self.merged(x, keys, sizes, count)
            x = x + block.ls2(block.mlp(block.norm2(x)))
        return x

    def merged(self, x: Tensor, keys: Tensor, sizes: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """Return the tokens (N, T - count, width) and how many patches each stands for (N, T - count, 1)."""
        sizes = torch.ones_like(x[..., :1]) if sizes is None else sizes
        # Tokens as sums over patches, their sizes beside: both are added alike.
        sums = torch.cat([x * sizes, sizes], -1)
        keys = F.normalize(keys[:, self.prefix :], dim=-1)
        scores = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)
        best, partner = scores.max(-1)
        order = best.topk(best.shape[1], dim=1).indices
        first, second = sums[:, self.prefix :: 2], sums[:, self.prefix + 1 :: 2]
        if self.by_products:
            picked = one_hot(order, first.shape[1]) @ first
            # Rows of `scores` in the order of `picked`: of each, a one where its largest number is.
            pairs = one_hot(partner, second.shape[1])
            second = second + (one_hot(order[:, :count], first.shape[1]) @ pairs).transpose(1, 2) @ picked[:, :count]
        else:
            picked = first.gather(1, order[..., None].expand(-1, -1, sums.shape[-1]))
            to = partner.gather(1, order[:, :count])[..., None].expand(-1, -1, sums.shape[-1])
            second = second.scatter_add(1, to, picked[:, :count])
        sums = torch.cat([sums[:, : self.prefix], picked[:, count:], second], 1)
        return sums[..., :-1] / sums[..., -1:], sums[..., -1:]


def attend(block: Any, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what a block's attention adds, (N, T or 1, width), and the mean over heads of its keys (N, T, head)."""
    attn, given = block.attn, block.norm1(x)
    if hasattr(attn, "qkv"):
        parts = _parts(attn.qkv, given, 3)
    else:
        parts = [attn.q(given[:, :1]), *_parts(attn.kv, given, 2)]
    q, k, v = (part.unflatten(2, (attn.num_heads, attn.head_dim)).transpose(1, 2) for part in parts)
    logits = attn.q_norm(q) @ attn.k_norm(k).transpose(2, 3) * attn.head_dim**-0.5
    if sizes is not None:
        logits = logits + sizes.log().transpose(1, 2)[:, None]
    out = attn.proj(attn.norm((logits.softmax(-1) @ v).transpose(1, 2).flatten(2)))
    return out, k.mean(1)


def merging(model: EdgeModel, counts: Sequence[int], *, by_products: bool = False) -> EdgeModel:
    """Return a folded model, embedding `cls`, that merges `counts[i]` patch tokens in block i; both share numbers."""
    assert model.embedding == "cls"
    assert not counts[-1], "nothing reads the last block's patches"
    made = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    vit: Any = made.vit
    vit.blocks = MergingBlocks(vit.blocks, counts, vit.num_prefix_tokens, by_products=by_products)
    return made


def one_hot(indices: Tensor, among: int) -> Tensor:
    """Return float32 (N, K, among) with a one at each of `indices` (N, K)."""
    return (indices[..., None] == torch.arange(among)).float()


def _parts(layer: Any, given: Tensor, count: int) -> Sequence[Tensor]:
    """Return what a layer computes in so many parts, or what each of a layer's parts does."""
    return [part(given) for part in layer] if isinstance(layer, nn.ModuleList) else layer(given).chunk(count, dim=-1)
