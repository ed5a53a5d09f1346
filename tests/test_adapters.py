"""A bundle as a module gives what its runner gives, to whoever calls it as those benchmarks do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import edgepath
from edgepath.adapters import TorchModule
from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.synthesis import synthesize

Exports = Callable[[str], Exported]
TILES = synthesize(3, seed=2)


@pytest.fixture
def module(exports: Exports) -> TorchModule:
    return edgepath.torch_module(exports("onnx-fp32").bundle, threads=1)


@pytest.fixture
def wanted(exports: Exports) -> torch.Tensor:
    with exports("onnx-fp32").bundle.runner(threads=1) as runner:
        return torch.from_numpy(runner(TILES))


def normalised(module: TorchModule, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (module.mean, module.std))
    return ((torch.from_numpy(TILES).permute(0, 3, 1, 2) / 255 - mean) / std).to(dtype)


def test_images_in_every_form_are_the_same_tiles(module: TorchModule, wanted: torch.Tensor) -> None:
    pixels = torch.from_numpy(TILES)
    for images in (pixels, pixels.permute(0, 3, 1, 2), normalised(module), normalised(module, torch.float64)):
        assert torch.equal(module(images), wanted)
    half = module(normalised(module, torch.float16))
    assert float(torch.cosine_similarity(half, wanted).min()) > 0.9999
    assert module(pixels).dtype == torch.float32


def test_called_as_trident_and_hest_do(module: TorchModule, wanted: torch.Tensor) -> None:
    # `model.eval().to(device)`, a batch that `transforms` made, under inference mode and autocast.
    encoder: nn.Module = module.eval().to("cpu")
    batch = torch.stack([module.transform(Image.fromarray(tile)) for tile in TILES])
    with torch.inference_mode(), torch.amp.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(batch), wanted)
    assert not list(encoder.parameters())


def test_called_as_plismbench_does(module: TorchModule, wanted: torch.Tensor) -> None:
    # `transform(np.ndarray)` for each tile, stacked; the result squeezed to NumPy.
    images = torch.stack([module.transform(tile) for tile in TILES])
    assert np.array_equal(module(images).squeeze().cpu().numpy(), wanted.numpy())
    assert module.embed_dim == wanted.shape[1]


def test_transform_resizes(module: TorchModule) -> None:
    big = Image.fromarray(TILES[0]).resize((448, 448))
    assert module.transform(big).shape == (3, 224, 224)


def test_what_cannot_be_embedded_is_refused(module: TorchModule) -> None:
    pixels = torch.from_numpy(TILES).permute(0, 3, 1, 2)
    with pytest.raises(UsageError, match=r"images of shape \(3, 224, 224\)"):
        module(pixels[0])
    imagenet = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    mean, std = imagenet
    dark = (pixels // 4 / 255 - mean) / std  # within the range of what it should be
    for images in (pixels / 255 * 8, dark, dark * torch.nan):
        with pytest.raises(UsageError, match="are no pixels normalised by its mean"):
            module(images)
    with pytest.raises(UsageError, match=r"images are torch\.bfloat16"):
        module(normalised(module, torch.bfloat16))
    with pytest.raises(UsageError, match="no gradient flows"):
        module(normalised(module).requires_grad_())


def test_core_ml_is_evaluated(exports: Exports) -> None:
    module = edgepath.torch_module(exports("coreml-fp16").bundle)
    assert "MIL evaluator" in module.ran_with
    assert module(torch.from_numpy(TILES[:1])).shape == (1, 96)
