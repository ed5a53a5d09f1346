"""Outlier channels as large transformers have them, put into any model without changing what it computes.

The inverse of what smoothing does (`edgepath.program.smooth`): a few channels of what feeds a linear are made larger
where they are made, and the linear's columns for them smaller by as much. Rounding per tensor suffers, the function
stays.
"""

from __future__ import annotations

from typing import Any

import torch

CHANNELS, FACTOR = 6, 64.0


def inject(vit: Any, *, channels: int = CHANNELS, factor: float = FACTOR, seed: int = 0) -> Any:
    """Scale `channels` random input channels of every linear of a timm ViT with a gated MLP by `factor`, in place."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for block in vit.blocks:
            attn, mlp = block.attn, block.mlp
            width, hidden = attn.qkv.in_features, mlp.fc2.in_features
            value = 0 if mlp.gate_last else hidden
            for maker, first, reader in (
                (block.norm1, 0, attn.qkv),
                (attn.qkv, 2 * width, attn.proj),
                (block.norm2, 0, mlp.fc1),
                (mlp.fc1, value, mlp.fc2),
            ):
                chosen = torch.randperm(reader.in_features, generator=draw)[:channels]
                maker.weight[first + chosen] *= factor
                if maker.bias is not None:
                    maker.bias[first + chosen] *= factor
                reader.weight[:, chosen] /= factor
    return vit
