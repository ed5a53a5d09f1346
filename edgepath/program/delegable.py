"""The same program, of one tile, in the operations that ExecuTorch's XNNPACK delegate takes; the numbers are shared.

XNNPACK has no kernel that takes 8 bits of one scale and returns floating point: its INT8 linear with a floating-point
output measures the range of every row, and rounds with what it finds. So each row is given the range that the program
has: it is clipped to -128 and 127 steps, and these two bounds are put behind it, where the weights are zero. What the
kernel finds is then the program's scale and no zero-point; its integers are the program's, and so are the weights'.

With one tile, attention is products of three dimensions, and slices take the place of splits: nothing but norms and
a few reshapes is left to ExecuTorch's own kernels.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import GluMlp  # type: ignore[attr-defined]
from torch import Tensor, nn

from .fold import ClsOnlyAttention, EdgeModel
from .linear import QuantizedLinear, replace_layer
from .split_projections import twin

BOUNDS = 2
"""How many columns a row is longer by: its bounds, which the weights take no notice of."""


class BoundedLinear(nn.Module):
    """A quantized linear, (N, T, in) to (N, T, out), whose rows carry their range."""

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        self.low, self.high = -128 * layer.input_scale, 127 * layer.input_scale
        self.register_buffer("weight", F.pad(layer.weight, (0, BOUNDS)))
        self.register_buffer("weight_scale", layer.weight_scale)
        self.register_buffer("zero", torch.zeros(len(layer.weight), dtype=torch.int64))
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        op = torch.ops.quantized_decomposed
        x = torch.clamp(x, self.low, self.high)
        x = F.pad(F.pad(x, (0, 1), value=self.low), (0, 1), value=self.high)
        row = op.choose_qparams_per_token_asymmetric.default(x, torch.int8)
        x = op.quantize_per_token.default(x, *row, -128, 127, torch.int8)
        x = op.dequantize_per_token.default(x, *row, -128, 127, torch.int8, torch.float32)
        named: Any = self
        weight = op.dequantize_per_channel.default(
            named.weight, named.weight_scale, named.zero, 0, -127, 127, torch.int8
        )
        return F.linear(x, weight, named.bias)


class SlicedAttention(nn.Module):
    """timm's `Attention`, or the one with the class token's query alone, of one tile: (1, T, width) in and out."""

    def __init__(self, attn: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attn.num_heads, attn.head_dim
        if isinstance(attn, ClsOnlyAttention):
            self.q, self.kv = attn.q, attn.kv
        else:
            self.qkv = attn.qkv
        self.q_norm, self.k_norm, self.norm = attn.q_norm, attn.k_norm, attn.norm
        self.gate = getattr(attn, "gate", None)
        self.proj = attn.proj

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        assert attn_mask is None
        assert not is_causal
        count = self.num_heads
        if hasattr(self, "qkv"):
            every = self._heads(self.qkv(x), 3)
            q, k, v = every[:count], every[count : 2 * count], every[2 * count :]
        else:
            q, both = self._heads(self.q(x[:, :1]), 1), self._heads(self.kv(x), 2)
            k, v = both[:count], both[count:]
        weights = F.softmax(torch.bmm(self.q_norm(q) * self.head_dim**-0.5, self.k_norm(k).transpose(1, 2)), dim=-1)
        out = torch.bmm(weights, v).transpose(0, 1).reshape(1, -1, count * self.head_dim)
        out = self.norm(out)
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return cast(Tensor, self.proj(out))

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """Turn (1, T, parts x width) into (parts x heads, T, d)."""
        return x.reshape(-1, parts * self.num_heads, self.head_dim).transpose(0, 1)


class SlicedGlu(nn.Module):
    """timm's `GluMlp`, its halves as slices."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.fc1, self.fc2, self.norm = mlp.fc1, mlp.fc2, mlp.norm
        self.width, self.gate_last, self.act = mlp.fc1.out_features // 2, mlp.gate_last, mlp.act

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        first, second = x[..., : self.width], x[..., self.width :]
        x = first * self.act(second) if self.gate_last else self.act(first) * second
        return cast(Tensor, self.fc2(self.norm(x)))


def delegable(model: EdgeModel) -> EdgeModel:
    """Return a folded model in the operations that the delegate takes; it embeds one tile, and shares all numbers."""
    model = twin(model)
    blocks: Any = model.vit.blocks
    for block in blocks:
        block.attn = SlicedAttention(block.attn)
        if isinstance(block.mlp, GluMlp):
            block.mlp = SlicedGlu(block.mlp)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear):
            replace_layer(model, name, BoundedLinear(layer))
    return model
