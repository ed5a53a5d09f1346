"""The same program with its products cut where their outputs would be: the same numbers, fewer copies on a CPU.

One product for query, key and value, or for both halves of a gated MLP, saves a GPU a launch. A CPU has to take its
output apart again, in copies of megabytes, and cannot compute what follows one part (an activation function, a
scaling) while it writes it. A row of a product is computed by its own row of weights and its own scale, so cutting is
exact, in integers too. Attention is written out as runtimes look for it.
"""

from __future__ import annotations

import copy
import re
from typing import Any, cast

import torch.nn.functional as F
from timm.layers import GluMlp  # type: ignore[attr-defined]
from torch import Tensor, nn

from .fold import ClsOnlyAttention, EdgeModel


class WrittenAttention(nn.Module):
    """timm's `Attention`, or the one with the class token's query alone: queries, keys and values have own products."""

    def __init__(self, attn: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attn.num_heads, attn.head_dim
        width = self.num_heads * self.head_dim
        if isinstance(attn, ClsOnlyAttention):
            self.q, self.kv = attn.q, _cut(attn.kv, width)
        else:
            self.qkv = _cut(attn.qkv, width)
        self.q_norm, self.k_norm, self.norm = attn.q_norm, attn.k_norm, attn.norm
        self.gate = getattr(attn, "gate", None)
        self.proj = attn.proj

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        assert attn_mask is None
        assert not is_causal
        if hasattr(self, "qkv"):
            parts = [part(x) for part in self.qkv]
        else:
            parts = [self.q(x[:, :1]), *(part(x) for part in self.kv)]
        q, k, v = (part.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for part in parts)
        shares = F.softmax(self.q_norm(q) @ self.k_norm(k).transpose(2, 3) * self.head_dim**-0.5, dim=-1)
        out = self.norm((shares @ v).transpose(1, 2).flatten(2))
        if self.gate is not None:
            out = out * self.gate(x).sigmoid()
        return cast(Tensor, self.proj(out))


class CutGlu(nn.Module):
    """timm's `GluMlp` with a product of its own for each half: fc2(norm(act(gate) * value))."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.fc1 = _cut(mlp.fc1, mlp.fc1.out_features // 2)
        self.gate_last, self.act, self.norm, self.fc2 = mlp.gate_last, mlp.act, mlp.norm, mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        first, second = (part(x) for part in self.fc1)
        x = first * self.act(second) if self.gate_last else self.act(first) * second
        return cast(Tensor, self.fc2(self.norm(x)))


def cut(model: EdgeModel) -> EdgeModel:
    """Return a folded model with its products cut; both share their numbers.

    Parts of a layer have its name and a number: `attn.qkv.0` makes the queries (`uncut_name` takes the number off).
    """
    model = twin(model)
    blocks: Any = model.vit.blocks
    for block in blocks:
        block.attn = WrittenAttention(block.attn)
        if isinstance(block.mlp, GluMlp):
            block.mlp = CutGlu(block.mlp)
    return model


def uncut_name(name: str) -> str:
    """Return the name of the layer that a part was cut from, of any other layer its own."""
    return re.sub(r"(attn\.qkv|attn\.kv|mlp\.fc1)\.\d$", r"\1", name)


def twin(model: EdgeModel) -> EdgeModel:
    """Return a copy of a model that shares all its numbers."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _cut(layer: Any, size: int) -> nn.ModuleList:
    """Return layers that compute `size` outputs of a linear each, in turn, with the very numbers of the whole one."""
    starts = range(0, layer.out_features, size)
    return nn.ModuleList(_rows(layer, slice(start, start + size)) for start in starts)


def _rows(layer: Any, rows: slice) -> Any:
    numbers = dict(layer.named_parameters()) | dict(layer.named_buffers())
    part = copy.deepcopy(layer, {id(value): value for value in numbers.values()})
    for name, value in numbers.items():  # a number, or a row of them, for each output
        some = value.detach()[rows]
        setattr(part, name, nn.Parameter(some, requires_grad=False) if isinstance(value, nn.Parameter) else some)
    part.out_features = len(part.weight)
    return part
