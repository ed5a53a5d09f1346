"""A bundle as a module gives what its runner gives, to whoever calls it as those benchmarks do."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, default_collate
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2

import edgepath
from edgepath.adapters import TileTransform, TorchModule
from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.tiles.synthetic import synthesize

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
    levels = pixels.permute(0, 3, 1, 2)
    for images in (
        pixels,
        levels,
        levels.float(),
        levels.half(),
        normalised(module),
        normalised(module, torch.float64),
    ):
        assert torch.equal(module(images), wanted)
    half = module(normalised(module, torch.float16))
    assert float(torch.cosine_similarity(half, wanted).min()) > 0.9999
    assert module(pixels).dtype == torch.float32


def test_called_as_trident_does(module: TorchModule, wanted: torch.Tensor) -> None:
    # mahmoodlab/TRIDENT: load.py, CustomInferenceEncoder(enc_name, model, transforms, precision) is a module around the
    # model; WSI.py, extract_patch_features moves it, collates what WSIPatcherDataset's transform made of PIL images,
    # and calls it under inference mode and autocast. Its loader first tries processes that get the transform pickled.
    class Encoder(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            embeddings: torch.Tensor = self.model(x)
            return embeddings

    encoder = Encoder(module)
    encoder.to("cpu")
    encoder.eval()
    transforms = pickle.loads(pickle.dumps(module.transform))
    rows = [(transforms(Image.fromarray(tile)), (0, 0)) for tile in TILES]
    for precision in (torch.float32, torch.float16, torch.bfloat16):
        for images, _ in DataLoader(rows, batch_size=3):  # type: ignore[arg-type]
            with (
                torch.inference_mode(),
                torch.autocast(device_type="cpu", dtype=precision, enabled=precision != torch.float32),
            ):
                features = encoder(images.to("cpu"))
            assert np.array_equal(features.cpu().numpy(), wanted.numpy())
    assert not list(encoder.parameters())


def test_called_as_hest_does(module: TorchModule, wanted: torch.Tensor) -> None:
    # mahmoodlab/HEST: hestcore's H5HESTDataset stacks img_transform(Image.fromarray(img)), a loader of batch size 1
    # adds a dimension that post_collate_fn takes away, and benchmark.py, embed_tiles calls model(imgs.float()).
    images = torch.stack([module.transform(Image.fromarray(tile)) for tile in TILES])
    (batch,) = DataLoader([{"imgs": images}], batch_size=1)  # type: ignore[arg-type, var-annotated]
    imgs = batch["imgs"].squeeze(0).to("cpu").float()
    with torch.inference_mode(), torch.amp.autocast("cpu", dtype=torch.float32, enabled=False):
        embeddings = module.eval()(imgs)
    assert np.array_equal(embeddings.cpu().numpy(), wanted.numpy())


def test_called_as_plismbench_does(module: TorchModule, wanted: torch.Tensor) -> None:
    # owkin/plism-benchmark: models/utils.py, prepare_module wraps, moves and freezes the extractor's module (whose
    # output PrecisionModule turns to float32); extract_from_h5.py, collate stacks transform(np.ndarray); extract/
    # utils.py, process_imgs squeezes what Extractor.__call__ returns and puts the places before it.
    extractor: nn.Module = nn.Sequential(module)
    extractor.to("cpu")
    extractor.eval()
    extractor.requires_grad_(False)
    images = torch.stack([module.transform(tile) for tile in TILES])
    with torch.inference_mode():
        features = extractor(images.to("cpu")).to(torch.float32).cpu().numpy().squeeze()
    assert np.array_equal(features, wanted.numpy())
    assert np.concatenate([np.zeros((len(TILES), 3), int), features], axis=1).shape == (3, 3 + module.embed_dim)
    # Its own extractors' transform: ToTensor, then Normalize with the model's mean and std.
    theirs = v1.Compose([v1.ToTensor(), v1.Normalize(mean=module.mean, std=module.std)])
    assert torch.equal(module(torch.stack([theirs(tile) for tile in TILES])), wanted)


def eva_sample(transforms: Any) -> torch.Tensor:
    """Return the tiles as a kaiko-eva dataset does: datasets/vision.py calls transforms(image, target) on tensors."""
    images = [tv_tensors.Image(torch.from_numpy(tile).permute(2, 0, 1)) for tile in TILES]
    rows = [(*transforms(image, torch.tensor(i)), {}) for i, image in enumerate(images)]
    data, targets, _ = default_collate(rows)
    assert torch.equal(targets, torch.arange(len(TILES)))
    batch: torch.Tensor = data
    return batch


def test_called_as_eva_does(module: TorchModule, wanted: torch.Tensor) -> None:
    # kaiko-ai/eva: transforms/common/resize_and_crop.py, then ModelFromFunction(path=edgepath.torch_module) or any
    # backbone: HeadModule.predict_step calls backbone(data).
    transforms = v2.Compose(
        [
            v2.Resize(size=224),
            v2.CenterCrop(size=224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=module.mean, std=module.std),
        ]
    )
    assert torch.equal(module(eva_sample(transforms)), wanted)
    assert torch.equal(module(eva_sample(module.transform)), wanted)


@pytest.mark.parametrize("target", ["onnx-fp32", "onnx-int8"])
def test_onnx_is_run_as_evas_onnx_model_does(exports: Exports, target: str) -> None:
    # kaiko-ai/eva: core/models/wrappers/onnx.py, ONNXModel.load_model and model_forward.
    import onnxruntime

    bundle = exports(target).bundle
    session = onnxruntime.InferenceSession(bundle.path / "model.onnx", providers=["CPUExecutionProvider"])
    tensor = eva_sample(TileTransform(layout="hwc", resize="crop"))
    outputs = session.run(None, {session.get_inputs()[0].name: tensor.detach().cpu().numpy()})[0]
    with bundle.runner(threads=1) as runner:
        assert np.allclose(outputs, runner(TILES), atol=1e-4)
    assert torch.from_numpy(outputs).float().shape == (3, bundle.dim)


@pytest.mark.parametrize("target", ["onnx-fp32", "onnx-int8"])
def test_evas_own_wrappers_take_a_bundle(exports: Exports, target: str) -> None:
    if importlib.util.find_spec("eva") is None:
        pytest.skip("needs kaiko-eva, 6.4 GB with its vision extra, in an environment of its own; ran with 0.4.5")
    from eva.core.models import wrappers

    bundle = exports(target).bundle
    with bundle.runner() as runner:
        wanted = torch.from_numpy(runner(TILES))
    tiles = eva_sample(TileTransform(layout="hwc"))
    assert torch.equal(wrappers.ONNXModel(path=str(bundle.path / "model.onnx")).eval()(tiles), wanted)
    backbone = wrappers.ModelFromFunction(path=edgepath.torch_module, arguments={"bundle": bundle.path}).eval()
    assert torch.equal(backbone(eva_sample(TileTransform())), wanted)


def test_transform_resizes(module: TorchModule) -> None:
    big = Image.fromarray(TILES[0]).resize((448, 448))
    assert module.transform(big).shape == (3, 224, 224)
    wide = np.concatenate([TILES[0], TILES[1]], axis=1)
    crop = TileTransform(resize="crop", layout="hwc")
    assert np.array_equal(crop(wide), wide[:, 112:336])
    assert not np.array_equal(module.transform(wide).permute(1, 2, 0), wide[:, 112:336])


def test_transform_takes_images_arrays_and_tensors() -> None:
    raw = TileTransform()
    wanted = torch.from_numpy(TILES[0]).permute(2, 0, 1)
    for image in (Image.fromarray(TILES[0]), TILES[0], wanted):
        assert torch.equal(raw(image), wanted)
        image, target = raw(image, 7)
        assert (image.shape, target) == ((3, 224, 224), 7)
    assert raw(TILES[0]).data_ptr() != torch.from_numpy(TILES[0]).data_ptr()


def test_transform_refuses_what_is_no_raw_image() -> None:
    raw = TileTransform(resize="refuse")
    for image, said in (
        (TILES[0] / 255, r"an image of float64 \(224, 224, 3\); an array"),
        (torch.from_numpy(TILES[0]), r"torch\.uint8 \(224, 224, 3\); an array \(H, W, 3\) or a tensor"),
        (TILES[0, :, :, 0], r"uint8 \(224, 224\)"),
        (TILES[0, :100], "an image of 224 x 100; 224 is needed"),
    ):
        with pytest.raises(UsageError, match=said):
            raw(image)
    with pytest.raises(UsageError, match='layout "nhwc"; known: chw, hwc'):
        TileTransform(layout="nhwc")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match='resize "fit"'):
        TileTransform(resize="fit")  # type: ignore[arg-type]


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
