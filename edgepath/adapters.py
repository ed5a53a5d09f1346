"""A bundle as a `torch.nn.Module`, for benchmarks and pipelines that take an encoder and know nothing of edgepath.

What they pass in differs: TRIDENT and HEST hand over batches that their `transforms` made, plismbench calls its
extractor's `transform` and then the model, eva normalises by itself. So the module takes whole pixels and normalised
ones, and gives `transform` to those that ask for one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .bundle import Bundle, open_bundle
from .errors import UsageError
from .recipe import Recipe

# How many levels a normalised image may lie off whole ones; bfloat16 does not hold 256 levels.
_ROUNDING = {torch.float64: 0.01, torch.float32: 0.01, torch.float16: 0.2}


def torch_module(bundle: str | Path | Bundle, *, threads: int = 0) -> TorchModule:
    """Load a bundle's artifact as an encoder: images (N, 3, S, S) in, embeddings float32 (N, D) on the same device.

    Runs the artifact, or where its runtime is not here what its recipe checks it with (`module.ran_with` says which).
    Raises what `verify` raises.
    """
    from .verification import open_runner

    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    runner = open_runner(bundle, Recipe.from_json(bundle.manifest["recipe"]), threads)
    return TorchModule(bundle, runner)


class TorchModule(nn.Module):
    """A frozen encoder. It has no parameters: `.to`, `.half` and `.eval` change nothing, and nothing flows back."""

    def __init__(self, bundle: Bundle, runner: Any) -> None:
        super().__init__()
        self._runner = runner.__enter__()
        self.name, self.ran_with = bundle.name, runner.runtime
        self.size, self.embed_dim = int(bundle.manifest["contract"]["size"]), bundle.dim
        self.mean = tuple(map(float, bundle.manifest["model"]["mean"]))
        self.std = tuple(map(float, bundle.manifest["model"]["std"]))

    def forward(self, images: Tensor) -> Tensor:
        """Embed images: uint8 (N, 3, S, S) or (N, S, S, 3), or floats (N, 3, S, S) normalised by `mean` and `std`.

        Normalised images are turned back into whole pixels. Raises UsageError for images of another shape, or ones that
        were no whole pixels or were normalised by other numbers.
        """
        if images.requires_grad:
            raise UsageError(f"{self.name}: a bundle is frozen; no gradient flows through it")
        pixels = self._pixels(images)
        rows = self._runner(pixels.cpu().numpy())
        return torch.from_numpy(np.ascontiguousarray(rows, np.float32)).to(images.device)

    def close(self) -> None:
        """Let go of the runtime; the module cannot be called after that."""
        self._runner.__exit__(None, None, None)

    def transform(self, image: Image.Image | np.ndarray) -> Tensor:
        """Turn an RGB image into a tensor, uint8 (3, S, S): as it is, or resized where it has another size."""
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        picture = picture.convert("RGB")
        if picture.size != (self.size, self.size):
            picture = picture.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def _pixels(self, images: Tensor) -> Tensor:
        """Return whole pixels, uint8 (N, S, S, 3)."""
        inside = (3, self.size, self.size)
        if images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1:] == (self.size, self.size, 3):
            return images
        if images.ndim != 4 or images.shape[1:] != inside or not len(images):
            raise UsageError(
                f"{self.name}: images of shape {tuple(images.shape)}; (N, {inside[0]}, S, S) with S {self.size}"
            )
        if images.dtype == torch.uint8:
            return images.permute(0, 2, 3, 1)
        if images.dtype not in _ROUNDING:
            raise UsageError(f"{self.name}: images are {images.dtype}; pass uint8, float16, float32 or float64")
        mean, std = (
            images.new_tensor(values, dtype=torch.float32).view(1, 3, 1, 1) for values in (self.mean, self.std)
        )
        levels = (images.float() * std + mean) * 255
        off = (levels - levels.round().clamp(0, 255)).abs().max()
        if not off <= _ROUNDING[images.dtype]:
            raise UsageError(
                f"{self.name}: images are no pixels normalised by its mean {self.mean} and std {self.std}; pass uint8, "
                "or take module.transform"
            )
        return levels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
