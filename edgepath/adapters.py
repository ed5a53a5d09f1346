"""A bundle as a `torch.nn.Module`, for benchmarks and pipelines that take an encoder and know nothing of edgepath.

What they pass in differs: TRIDENT stacks what the encoder's transforms made, HEST does too but as floats, plismbench
calls its extractor's `transform` and then the model, eva normalises by itself. So the module takes pixels as they are,
which are bytes, and normalised ones, which are floats, and has a `transform` for those that ask for one.

eva's `ONNXModel` loads a bundle's model.onnx without any of this, but hands on what the data set's transforms made. The
artifact takes raw tiles, so they must be `TileTransform` with layout "hwc" and not eva's, which normalise:

    transforms:
      class_path: edgepath.adapters.TileTransform
      init_args: {layout: hwc, resize: crop}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .bundle.bundle import Bundle, open_bundle
from .errors import UsageError
from .tiles.images import check_resize, pixels_of, resize_tile

# How many levels a normalised image may lie off whole ones; bfloat16 does not hold 256 levels.
_ROUNDING = {torch.float64: 0.001, torch.float32: 0.001, torch.float16: 0.2}


def torch_module(bundle: str | Path | Bundle, *, threads: int = 0) -> TorchModule:
    """Load a bundle's artifact as an encoder: images (N, 3, S, S) in, embeddings float32 (N, D) on the same device.

    Runs the artifact, or where its runtime is not here what its recipe checks it with (`module.ran_with` says which).
    Raises what `verify` raises.
    """
    from .bundle.running import open_runner

    bundle = open_bundle(bundle)
    runner = open_runner(bundle, bundle.recipe, threads)
    return _named(bundle.name)(bundle, runner)


@dataclass(frozen=True)
class TileTransform:
    """Turns an image into a tile, a uint8 tensor (3, `size`, `size`), with layout "hwc" (`size`, `size`, 3).

    With `mean` and `std` it is float32, normalised by them. A PIL image is read as `edgepath embed` reads a file: alpha
    laid over white, turned upright, greyscale and CMYK refused, and all checks for damage where nothing decoded it yet
    (`tiles.images`). What a data set did before cannot be undone: `.convert("RGB")` turns alpha to black, takes
    greyscale and CMYK, and decodes damaged files; leave it out. An array (H, W, 3) or a tensor (3, H, W), uint8, is
    taken as it is. `resize` says what to do with another size, as for tiles. A second argument, the target that
    torchvision's second kind of transforms takes along, is handed through. Raises TileError or UsageError.
    """

    size: int = 224
    layout: Literal["chw", "hwc"] = "chw"
    resize: Literal["refuse", "squash", "crop"] = "squash"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_resize(self.resize)
        if self.layout not in ("chw", "hwc"):
            raise UsageError(f'TileTransform: layout "{self.layout}"; known: chw, hwc')
        if (len(self.mean), len(self.std)) not in ((0, 0), (3, 3)):
            raise UsageError(f"TileTransform: mean {self.mean} and std {self.std}; give three numbers each, or neither")

    def __call__(self, image: Image.Image | np.ndarray | Tensor, *target: Any) -> Any:
        tile = torch.from_numpy(self._pixels(image))
        if self.mean:
            tile = (tile / 255 - torch.tensor(self.mean)) / torch.tensor(self.std)
        laid_out = tile if self.layout == "hwc" else tile.permute(2, 0, 1)
        return (laid_out, *target) if target else laid_out

    def _pixels(self, image: Image.Image | np.ndarray | Tensor) -> np.ndarray:
        """Return whole pixels, uint8 (`size`, `size`, 3)."""
        if isinstance(image, Image.Image):
            return pixels_of(image, self.size, self.resize)
        rows_first = image.movedim(0, -1).cpu() if isinstance(image, Tensor) and image.ndim == 3 else image
        pixels = np.asarray(rows_first)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise UsageError(
                f"TileTransform: an image of {image.dtype} {tuple(image.shape)}; an array (H, W, 3) or a tensor "
                "(3, H, W) of uint8 is needed, before anything normalises it"
            )
        if pixels.shape[:2] == (self.size, self.size):
            return np.array(pixels)
        if self.resize == "refuse":
            raise UsageError(f"TileTransform: an image of {pixels.shape[1]} x {pixels.shape[0]}; {self.size} is needed")
        return resize_tile(pixels, self.size, self.resize)


class TorchModule(nn.Module):
    """A frozen encoder: `.to`, `.half` and `.eval` change nothing of what it computes, and nothing flows back.

    Any number of threads may call it at the same time. Pickled or copied, it opens its bundle again, and refuses one
    that was changed. Its class has the bundle's name, which is what pipelines name their tables by.
    """

    def __init__(self, bundle: Bundle, runner: Any) -> None:
        super().__init__()
        self._runner = runner.__enter__()
        self.name, self.ran_with = bundle.name, runner.runtime
        self.size, self.embed_dim = int(bundle.manifest["contract"]["size"]), bundle.dim
        self.num_features = self.embed_dim  # as timm calls it
        # Pipelines ask the first parameter for the device and dtype to send images in.
        self.placeholder = nn.Parameter(torch.empty(0), requires_grad=False)
        self.mean = tuple(map(float, bundle.manifest["model"]["mean"]))
        self.std = tuple(map(float, bundle.manifest["model"]["std"]))
        # A value of its own, without the runtime: what loads tiles in other processes has to send it there.
        self.transform = TileTransform(self.size, mean=self.mean, std=self.std)

    def forward(self, images: Tensor) -> Tensor:
        """Embed images: pixels as uint8 (N, 3, S, S) or (N, S, S, 3), or floats (N, 3, S, S) that are normalised.

        Floats are always taken as normalised by `mean` and `std`, and turned back into whole pixels. Raises UsageError
        for images of another shape, and for floats that do not give whole pixels so: levels of 0 to 255 or of 0 to 1.
        """
        if not isinstance(images, Tensor):
            raise UsageError(f"{self.name}: images are a {type(images).__name__}; pass a tensor (torch.from_numpy)")
        if images.requires_grad:
            raise UsageError(f"{self.name}: a bundle is frozen; no gradient flows through it")
        pixels = self._pixels(images)
        rows = self._runner(pixels.cpu().numpy())
        return torch.from_numpy(np.ascontiguousarray(rows, np.float32)).to(images.device)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unopened, (self.name,), vars(self)  # the runner among these opens the bundle again

    def close(self) -> None:
        """Let go of the runtime; the module cannot be called after that."""
        self._runner.__exit__(None, None, None)

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
        pixels = levels.round().clamp(0, 255)
        if (levels - pixels).abs().max() <= _ROUNDING[images.dtype]:
            return pixels.to(torch.uint8).permute(0, 2, 3, 1)
        raise UsageError(
            f"{self.name}: floats have to be pixels normalised by its mean {self.mean} and std {self.std}, these are "
            "not; pass levels of 0 to 255 as uint8, normalise those of 0 to 1, or take module.transform"
        )


def _named(name: str) -> type[TorchModule]:
    """Return the class of a bundle's module, called like the bundle; of letters that any table's name may have."""
    return type(re.sub(r"[^\w.-]", "_", name), (TorchModule,), {"__module__": __name__})


def _unopened(name: str) -> TorchModule:
    """Return a module without its state, for pickle, which cannot find a class by its bundle's name."""
    kind = _named(name)
    return kind.__new__(kind)
