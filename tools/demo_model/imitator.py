"""A vision transformer that learns to tell what a convolutional network (`imagenet`) sees, and how it starts.

In every patch, and in the whole view. The class token is not asked through a head: its direction is that of the view's
features, so that what is near in them is near in it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from torch import Tensor, nn

from edgepath.distillation.networks import Tokens, build_student, grid, width
from edgepath.models.catalogue import ModelSpec

from .imagenet import DEEP, WIDTH, Stem


class Imitator(nn.Module):
    """A vision transformer that tells a stem's features: a view's with its class token, the patches' through a head.

    `blocks`: how many of its blocks, from the first on, take part.
    """

    tile_mean: Tensor
    tile_spread: Tensor
    patch_mean: Tensor
    patch_spread: Tensor
    directions: Tensor

    def __init__(self, spec: ModelSpec, stem: Stem, first: int) -> None:
        super().__init__()
        vit: Any = build_student(spec)
        _awaken(vit, first)
        self.blocks, dim = first, width(vit)
        self.tokens, self.stem, self.patch = Tokens(vit, spec), stem, patch_size(vit)
        self.patch_head = nn.Linear(dim, WIDTH)
        self.register_buffer("directions", torch.eye(2 * DEEP, dim))
        for name, count in (("tile", 2 * DEEP), ("patch", WIDTH)):
            self.register_buffer(f"{name}_mean", torch.zeros(count))
            self.register_buffer(f"{name}_spread", torch.ones(count))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return class tokens (N, D) and the patches' standardised features (N, P, 384) of uint8 (N, C, C, 3)."""
        cls, patches = tokens_after(self.tokens, views, self.blocks)
        return cls, self.patch_head(patches)

    @torch.no_grad()
    def targets(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` should of clean views: class tokens' directions, and the patches' features."""
        features = self.stem(clean, self.patch)
        tile = (summarize(features) - self.tile_mean) / self.tile_spread
        return tile @ self.directions, ((features - self.patch_mean) / self.patch_spread).clamp(-5, 5)

    @torch.no_grad()
    def fit(self, seen: Tensor, features: Tensor) -> None:
        """Start from views, uint8 (N, C, C, 3), and the stem's features of them (N, P, 384).

        Sets the features' means and spreads; the class token's directions, which are the principal ones of the views'
        features, so that what a token is too narrow for is what varies least; and the projection of patches.
        """
        tiles = summarize(features)
        for name, values in (("tile", tiles), ("patch", features.flatten(0, 1))):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            getattr(self, f"{name}_spread").copy_(values.std(0).clamp_min(1e-3))
        count = min(len(tiles), *self.directions.shape)
        principal = torch.linalg.svd((tiles - self.tile_mean) / self.tile_spread, full_matrices=False).Vh[:count]
        self.directions.zero_()[:, :count] = principal.T
        _whiten(self.tokens.vit, self.tokens.normalize(seen))


def tokens_after(net: Tokens, views: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Return class (N, D) and patch tokens (N, P, D) of the first `blocks` of a model, of uint8 (N, C, C, 3)."""
    vit: Any = net.vit
    ((patches, prefix),) = vit.forward_intermediates(
        net.normalize(views), [blocks - 1], True, norm=True, stop_early=True, output_fmt="NLC", intermediates_only=True
    )
    return prefix[:, 0], patches


def patch_size(vit: nn.Module) -> int:
    """Return how many pixels a patch has along one side."""
    model: Any = vit
    return int(model.patch_embed.patch_size[0])


def summarize(features: Tensor) -> Tensor:
    """Return mean and spread of the deep ones of the features of views' patches (N, P, 384): (N, 416)."""
    deep = features[..., -DEEP:]
    return torch.cat([deep.mean(1), deep.std(1)], 1)


def _whiten(vit: Any, pixels: Tensor) -> None:
    """Project patches of pixels (N, 3, C, C) on their principal components, scaled to vary alike, and turned at random.

    The mean colour of a patch of tissue varies thousands of times as much as its fine detail. A network that is not
    shown the one as large as the other learns of colours for a long time.
    """
    projection = vit.patch_embed.proj
    patches = F.unfold(pixels, projection.kernel_size, stride=projection.stride).transpose(1, 2).flatten(0, 1).double()
    mean = patches.mean(0)
    spreads, components = torch.linalg.eigh(torch.cov((patches - mean).T))
    spreads, components = (part.flip(-1)[..., : width(vit)] for part in (spreads, components))
    # The least of them are noise, and are not raised to the full.
    whitened = (components / (spreads + 0.02 * spreads.mean()).sqrt()).T
    generator = torch.Generator().manual_seed(1)
    weight = torch.linalg.qr(torch.randn(len(whitened), len(whitened), generator=generator).to(whitened))[0] @ whitened
    projection.weight.copy_(weight.view_as(projection.weight))
    projection.bias.copy_(-(weight @ mean))


@torch.no_grad()
def _awaken(vit: Any, first: int) -> None:
    """Start the `first` blocks awake: LayerScale at 0.1, linears that keep their input's spread; the others at 0.01.

    timm's start, LayerScale at 1e-5 and linears of 0.02, is that of runs of 100,000 steps: nothing moves in the first
    hundreds. Positions start as sines of both axes, from which neighbours can be told.
    """
    side, positions = grid(vit), vit.pos_embed
    nn.init.zeros_(positions)[:, -(side**2) :] = 0.5 * build_sincos2d_pos_embed(
        [side, side], width(vit), temperature=100
    )
    for name, value in vit.named_parameters():
        if name.endswith(".gamma"):
            nn.init.constant_(value, 0.1 if int(name.split(".")[1]) < first else 0.01)
        elif name.startswith("blocks.") and value.ndim == 2:
            nn.init.trunc_normal_(value, std=value.shape[1] ** -0.5)
