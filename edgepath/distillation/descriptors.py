"""What can be said of tissue without a label: how much stain, how fine, which way; of every patch, and of a whole tile.

A teacher that has never seen a label learns to tell these figures of a tile as it is from views that were stained and
scanned otherwise, so it has to find the tissue behind the colour. Targets of classic features instead of pixels, as
MaskFeat (Wei et al., arXiv 2112.09133) has them.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from .views import stain_vectors

SCALES = (1.0, 2.0, 4.0, 8.0)
"""Standard deviations of the blurs, in pixels; what lies between two of them is a band."""
ORIENTATIONS = 6
_THRESHOLDS = tuple(0.1 * 1.5**i for i in range(8))  # of a stain's amount, from almost none to a dark nucleus
_LEVELS = tuple(i / 8 for i in range(1, 8))  # of light, 0 to 1
LAGS = (1, 2, 4)  # patches


def patch_descriptors(tiles: Tensor, patch: int) -> Tensor:
    """Describe every patch of `tiles`, uint8 (N, S, S, 3): float32 (N, S/patch x S/patch, 21), row by row.

    Mean light (3); mean and standard deviation of haematoxylin, eosin and the rest (6; Ruifrok & Johnston 2001); share
    of haematoxylin's gradient in 6 orientations (Dalal & Triggs 2005); mean magnitude of both stains in three bands
    (6).
    """
    light, stains = _light(tiles), _stains(tiles)
    means = F.avg_pool2d(stains, patch)
    spread = (F.avg_pool2d(stains**2, patch) - means**2).clamp(min=0).sqrt()
    bands = [F.avg_pool2d(band.abs(), patch) for band in _bands(stains[:, :2])]
    parts = [F.avg_pool2d(light, patch), means, spread, _orientations(stains[:, :1], patch), *bands]
    return torch.cat(parts, 1).flatten(2).transpose(1, 2)


def tile_descriptors(tiles: Tensor, patch: int) -> Tensor:
    """Describe `tiles`, uint8 (N, S, S, 3), as wholes: float32 (N, 91).

    Mean and standard deviation of the patches' descriptors (42); how much of the tile has more haematoxylin, eosin
    (8 each) and light (7 a colour) than so much, and both stains at once (9); how alike patches are to those 1, 2 and 4
    away in haematoxylin (3).
    """
    patches = patch_descriptors(tiles, patch)
    stains, light = _stains(tiles), _light(tiles)
    above = [(stains[:, :2] > t).float().mean((2, 3)) for t in _THRESHOLDS]
    levels = [(light > level).float().mean((2, 3)) for level in _LEVELS]
    both = [
        ((stains[:, 0] > one) & (stains[:, 1] > other)).float().mean((1, 2))[:, None]
        for one in _THRESHOLDS[1::3]
        for other in _THRESHOLDS[1::3]
    ]
    side = tiles.shape[1] // patch
    amounts = patches[:, :, 3].view(-1, side, side)
    parts = [patches.mean(1), patches.std(1), *above, *levels, *both, _alike(amounts)]
    return torch.cat(parts, 1)


def _light(tiles: Tensor) -> Tensor:
    return tiles.permute(0, 3, 1, 2).float() / 255


def _stains(tiles: Tensor) -> Tensor:
    """Return the amounts of haematoxylin, eosin and a rest, float32 (N, 3, S, S)."""
    density = -torch.log(tiles.float().clamp(min=0.5) / 255)
    unmix = torch.from_numpy(stain_vectors(0.5, 0.5)).inverse().to(density)
    return (density @ unmix).permute(0, 3, 1, 2)


def _orientations(channel: Tensor, patch: int) -> Tensor:
    """Return the share of the gradient's magnitude in each orientation, shared between the two nearest ones."""
    across, down = _gradient(channel)
    magnitude = torch.hypot(across, down)
    place = torch.atan2(down, across).remainder(math.pi) / math.pi * ORIENTATIONS
    low = place.floor()
    votes = []
    for i in range(ORIENTATIONS):
        nearer = 1 - (place - low)
        share = (low == i) * nearer + ((low + 1) % ORIENTATIONS == i) * (1 - nearer)
        votes.append(F.avg_pool2d(share * magnitude, patch))
    return torch.cat(votes, 1) / (F.avg_pool2d(magnitude, patch) + 1e-3)


def _gradient(channel: Tensor) -> tuple[Tensor, Tensor]:
    padded = F.pad(channel, (1, 1, 1, 1), mode="replicate")
    return padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]


def _bands(channels: Tensor) -> list[Tensor]:
    blurred = [_blur(channels, sigma) for sigma in SCALES]
    return [fine - coarse for fine, coarse in pairwise(blurred)]


def _blur(channels: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    at = torch.arange(-reach, reach + 1, device=channels.device)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(channels.shape[1], 1, -1)
    groups = channels.shape[1]
    padded = F.pad(channels, (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel[:, :, None, :], groups=groups), kernel[:, :, :, None], groups=groups)


def _alike(amounts: Tensor) -> Tensor:
    """Return the correlation, over a tile, of patches with those some patches away: (N, number of lags)."""
    centred = amounts - amounts.mean((1, 2), keepdim=True)
    power = (centred**2).mean((1, 2)) + 1e-4
    found = []
    for lag in LAGS:
        across = (centred[:, :, lag:] * centred[:, :, :-lag]).mean((1, 2))
        down = (centred[:, lag:] * centred[:, :-lag]).mean((1, 2))
        found.append((across + down) / (2 * power))
    return torch.stack(found, 1)
