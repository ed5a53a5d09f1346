"""Exact rewrites: raw tiles in, embedding out, and no work that the embedding does not need.

Three facts make them exact (equal in real arithmetic; FP32 rounding is all that differs):

- Normalisation is affine per colour and the patch convolution has no padding, so mean and std move into its weights.
- The embedding needs the class token, and for `cls+mean` the patch tokens; registers are dropped after the last norm.
- For `cls`, nothing reads the last block's other tokens: only keys and values are computed for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from timm.layers import Format, GluMlp, Mlp  # type: ignore[attr-defined]
from timm.models.vision_transformer import Attention, Block, VisionTransformer  # type: ignore[attr-defined]
from torch import Tensor, nn

from ..errors import UsageError

if TYPE_CHECKING:
    from ..models.catalogue import ModelSpec


class EdgeModel(nn.Module):
    """A vision transformer that takes raw tiles and returns embeddings.

    Input `uint8 (N, S, S, 3)` RGB; output `float32 (N, D)`, and with `tokens` also the patch tokens
    `float32 (N, P, width)` after the final norm.
    """

    def __init__(self, vit: VisionTransformer, embedding: str, tokens: bool) -> None:
        super().__init__()
        self.vit = vit
        self.embedding = embedding
        self.tokens = tokens
        self.size = int(vit.patch_embed.img_size[0])
        self.dim = vit.embed_dim * (2 if embedding == "cls+mean" else 1)

    def forward(self, tiles: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        # In this order: a cast is all that TensorRT can do with uint8.
        return self.encode(tiles.to(torch.float32).permute(0, 3, 1, 2))

    def encode(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Embed `pixels`, float32 (N, 3, S, S) with values 0..255; the entry for runtimes that take images."""
        vit = self.vit
        return self.finish(vit.blocks(vit.norm_pre(vit._pos_embed(vit.patch_embed(pixels)))))

    def finish(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return what `forward` does, from the last block's output, float32 (N, T, width)."""
        vit = self.vit
        x = vit.norm(x)
        if self.embedding == "cls" and not self.tokens:
            return x[:, 0]
        patches = x[:, vit.num_prefix_tokens :]
        embedding = x[:, 0]
        if self.embedding == "cls+mean":
            embedding = torch.cat([embedding, patches.mean(dim=1)], dim=-1)
        return (embedding, patches) if self.tokens else embedding


class ClsOnlyBlock(nn.Module):
    """A transformer block that returns the class token alone, `(N, T, width) -> (N, 1, width)`."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.norm1, self.ls1 = block.norm1, block.ls1
        self.attn = ClsOnlyAttention(block.attn)
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, block.ls2

    def forward(self, x: Tensor) -> Tensor:
        cls = x[:, :1] + self.ls1(self.attn(self.norm1(x)))
        return cast(Tensor, cls + self.ls2(self.mlp(self.norm2(cls))))


class ClsOnlyAttention(nn.Module):
    """Attention with one query, the class token's; keys and values of all tokens."""

    def __init__(self, attn: Any) -> None:
        super().__init__()
        self.num_heads, self.head_dim = attn.num_heads, attn.head_dim
        width = self.num_heads * self.head_dim
        self.q = _rows(attn.qkv, slice(0, width))
        self.kv = _rows(attn.qkv, slice(width, 3 * width))
        self.q_norm, self.k_norm, self.norm = attn.q_norm, attn.k_norm, attn.norm
        self.proj = attn.proj

    def forward(self, x: Tensor) -> Tensor:
        count, length, _ = x.shape
        q = self.q(x[:, :1]).reshape(count, 1, self.num_heads, self.head_dim).transpose(1, 2)
        kv = self.kv(x).reshape(count, length, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        k, v = kv.unbind(0)
        out = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return cast(Tensor, self.proj(self.norm(out.transpose(1, 2).reshape(count, 1, -1))))


def fold(vit: nn.Module, spec: ModelSpec, *, embedding: str = "cls", tokens: bool = False) -> EdgeModel:
    """Turn a timm vision transformer into an `EdgeModel`, reusing (and changing) its weights.

    `embedding` is `cls` (D = width) or `cls+mean` (D = 2 x width; the class token, then the mean of the patch
    tokens without registers). Raises UsageError for a model whose structure these rewrites do not know.
    """
    if embedding not in ("cls", "cls+mean"):
        raise UsageError(f'embedding "{embedding}" is not known; choose cls or cls+mean')
    vit = _of_one_size(check_known(vit, spec), spec)
    fold_preprocessing(vit, spec.mean, spec.std)
    last: Any = vit.blocks[-1]
    if embedding == "cls" and not tokens and getattr(last.attn, "gate", None) is None:
        vit.blocks[-1] = ClsOnlyBlock(last)
    return EdgeModel(vit, embedding, tokens).eval()


def check_known(vit: nn.Module, spec: ModelSpec) -> VisionTransformer:
    """Return the model if `fold` knows its structure; UsageError says what it does not know."""
    if not isinstance(vit, VisionTransformer):
        raise UsageError(
            f"model {spec.name}: {type(vit).__name__} is not timm's VisionTransformer; choose another model"
        )
    if not vit.has_class_token:
        raise UsageError(f"model {spec.name}: it has no class token to stand for a tile; choose another model")
    for odd in filter(None, map(_unknown_part, vit.blocks)):
        raise UsageError(f"model {spec.name}: its blocks have a {type(odd).__name__}; only timm's plain Block is known")
    return vit


def _of_one_size(vit: VisionTransformer, spec: ModelSpec) -> VisionTransformer:
    """Fix a model of any image size to the one that tiles have: its positions are of that size, so none is resampled.

    timm's `dynamic_img_size` resamples them in every call, which no runtime can lower.
    """
    dynamic: Any = vit
    patches = dynamic.patch_embed
    size, patch = patches.img_size, patches.patch_size
    if patches.dynamic_img_pad and any(length % part for length, part in zip(size, patch, strict=True)):
        raise UsageError(f"model {spec.name}: pads {size[0]} px tiles to its {patch[0]} px patches; choose another")
    dynamic.dynamic_img_size = patches.dynamic_img_pad = False
    patches.flatten, patches.strict_img_size, patches.output_fmt = True, True, Format.NCHW
    return vit


def fold_preprocessing(vit: VisionTransformer, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Move `(x / 255 - mean) / std` into the patch convolution, in place.

    W' = W / (255 std), b' = b - sum(W mean / std)
    """
    conv = vit.patch_embed.proj
    if not isinstance(conv, nn.Conv2d) or conv.padding != (0, 0):
        raise UsageError(f"the patch embedding is {conv}; only an unpadded convolution takes the normalisation exactly")
    weight = conv.weight.detach().double()
    shift = torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
    scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float64))
    bias = torch.zeros(weight.shape[0], dtype=torch.float64) if conv.bias is None else conv.bias.detach().double()
    bias = bias - torch.einsum("ochw,c->o", weight, shift)
    conv.weight = nn.Parameter((weight * scale.view(1, 3, 1, 1)).float(), requires_grad=False)
    conv.bias = nn.Parameter(bias.float(), requires_grad=False)


def _unknown_part(block: Any) -> object | None:
    """Return what keeps a block from being the one these passes know: others do their linears in another order."""
    parts: tuple[tuple[object, tuple[type, ...]], ...] = ((block, (Block,)),)
    if type(block) is Block:
        parts += ((block.attn, (Attention,)), (block.mlp, (Mlp, GluMlp)))
    return next((part for part, known in parts if type(part) not in known), None)


def _rows(linear: nn.Linear, rows: slice) -> nn.Linear:
    """Return the linear layer that computes only these outputs."""
    weight = linear.weight.detach()[rows].clone()
    part = nn.Linear(weight.shape[1], weight.shape[0], bias=linear.bias is not None, device="meta")
    part.weight = nn.Parameter(weight, requires_grad=False)
    if linear.bias is not None:
        part.bias = nn.Parameter(linear.bias.detach()[rows].clone(), requires_grad=False)
    return part
