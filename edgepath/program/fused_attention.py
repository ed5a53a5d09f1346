"""Attention as one operation of ONNX Runtime's own, heads side by side as the products leave them: no transposes.

`com.microsoft.MultiHeadAttention` scales by 1/sqrt(d) itself and keeps no matrix of all scores. ONNX's own `Attention`
(opset 23) would be as fast, but needs ONNX Runtime 1.24, which has no wheel for the Python 3.10 of some devices.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from .fold import ClsOnlyAttention, EdgeModel
from .split_projections import twin

OPERATION = "MultiHeadAttention"


class FusedAttention(nn.Module):
    """timm's `Attention`, or the one with the class token's query alone, for the exporter: it does not run itself."""

    def __init__(self, attn: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attn.num_heads, attn.head_dim
        if isinstance(attn, ClsOnlyAttention):
            self.q, self.kv = attn.q, attn.kv
        else:
            self.qkv = attn.qkv
        self.norm, self.proj, self.gate = attn.norm, attn.proj, getattr(attn, "gate", None)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        assert attn_mask is None
        assert not is_causal
        if hasattr(self, "qkv"):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            q, (k, v) = self.q(x[:, :1]), self.kv(x).chunk(2, dim=-1)
        operation, heads = f"com.microsoft::{OPERATION}", {"num_heads": self.num_heads}
        out = torch.onnx.ops.symbolic(operation, (q, k, v), heads, dtype=q.dtype, shape=q.shape, version=1)
        out = self.norm(out)
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return cast(Tensor, self.proj(out))


def fuse(model: EdgeModel) -> EdgeModel:
    """Return a folded model whose attentions are one operation each when it is exported; both share their numbers.

    One that norms queries or keys stays as it is: it norms each head.
    """
    model = twin(model)
    blocks: Any = model.vit.blocks
    for block in blocks:
        if isinstance(block.attn.q_norm, nn.Identity) and isinstance(block.attn.k_norm, nn.Identity):
            block.attn = FusedAttention(block.attn)
    return model
