"""A bundle as a module gives what its runner gives, to whoever calls it as those benchmarks do."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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
from edgepath.errors import TileError, UsageError
from edgepath.exporting import Exported
from edgepath.tiles.images import read_image
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
        normalised(module),
        normalised(module, torch.float64),
    ):
        assert torch.equal(module(images), wanted)
    half = module(normalised(module, torch.float16))
    assert float(torch.cosine_similarity(half, wanted).min()) > 0.9999
    assert module(pixels).dtype == torch.float32
    assert torch.equal(module(torch.stack([module.transform(tile) for tile in TILES])), wanted)


MEANS = {
    "h0-mini": ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@pytest.mark.parametrize("of", MEANS)
def test_what_floats_are_is_not_guessed_by_their_values(module: TorchModule, of: str) -> None:
    module.mean, module.std = MEANS[of]
    for level in range(256):  # a batch of one grey, white and black among them, as levels of 0 to 1 and of 0 to 255
        for images in (torch.full((2, 3, 224, 224), level / 255), torch.full((2, 3, 224, 224), float(level))):
            with pytest.raises(UsageError, match="floats have to be pixels normalised by its mean"):
                module(images)
    tile = torch.full((1, 3, 224, 224), 255, dtype=torch.uint8)
    for plain in (tile, tile * 0, tile * 0 + 1, tile * 0 + 100):
        images = v2.functional.normalize(plain / 255, list(module.mean), list(module.std))
        assert torch.equal(module(images), module(plain))


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
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


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


def saved(folder: Path, name: str, image: Image.Image, **how: Any) -> Path:
    image.save(folder / name, **how)
    return folder / name


def test_transform_reads_what_embed_reads(tmp_path: Path) -> None:
    rgb = Image.fromarray(TILES[0])
    clear = rgb.copy()
    clear.putalpha(Image.fromarray(TILES[1][:, :, 0]))
    turned = Image.Exif()
    turned[274] = 6
    palette = rgb.quantize(64)
    paths = [
        saved(tmp_path, "a.png", rgb),
        saved(tmp_path, "b.png", clear),
        saved(tmp_path, "c.png", rgb, exif=turned),
        saved(tmp_path, "d.jpg", rgb, exif=turned),
        saved(tmp_path, "e.tif", clear, compression="tiff_lzw"),
        saved(tmp_path, "f.tif", rgb, exif=turned),
        saved(tmp_path, "g.png", palette, transparency=3),
        saved(tmp_path, "h.webp", clear, lossless=True, exif=turned),
        saved(tmp_path, "i.png", rgb.resize((300, 200))),
        saved(tmp_path, "j.jp2", clear),
    ]
    for path in paths:
        wanted = read_image(path, 224, "squash")
        with Image.open(path) as image:
            assert np.array_equal(TileTransform(layout="hwc")(image), wanted), path
            image.load()
            assert np.array_equal(TileTransform(layout="hwc")(image), wanted), path
    assert np.array_equal(TileTransform(layout="hwc")(rgb), TILES[0])


def test_transform_refuses_what_embed_refuses(tmp_path: Path) -> None:
    grey = Image.fromarray(TILES[0]).convert("L")
    whole = saved(tmp_path, "a.jpg", Image.fromarray(TILES[0])).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    paths = [
        saved(tmp_path, "a.png", grey),
        saved(tmp_path, "b.png", Image.new("I;16", (224, 224))),
        saved(tmp_path, "c.tif", grey.convert("CMYK")),
        saved(tmp_path, "d.png", grey.convert("1")),
        saved(tmp_path, "e.webp", grey.convert("RGB"), save_all=True, append_images=[Image.fromarray(TILES[0])]),
        tmp_path / "cut.jpg",
    ]
    for path in paths:
        with pytest.raises(TileError) as of_file:
            read_image(path)
        with Image.open(path) as image, pytest.raises(TileError) as of_image:
            TileTransform()(image)
        assert str(of_image.value) == str(of_file.value)
    for mode in ("L", "I;16", "CMYK", "1", "F", "LAB", "LA"):
        with pytest.raises(TileError, match="an image: "):
            TileTransform()(Image.new(mode, (224, 224)))


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
    with pytest.raises(UsageError, match="give three numbers each, or neither"):
        TileTransform(mean=(0.5, 0.5, 0.5))
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
    for images in (pixels / 255, pixels.float(), pixels / 255 * 8, dark, dark * torch.nan):
        with pytest.raises(UsageError, match="floats have to be pixels normalised by its mean"):
            module(images)
    with pytest.raises(UsageError, match=r"images are torch\.bfloat16"):
        module(normalised(module, torch.bfloat16))
    for other in (TILES, [pixels], None):
        with pytest.raises(UsageError, match=r"images are a \w+; pass a tensor"):
            module(other)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no gradient flows"):
        module(normalised(module).requires_grad_())


def test_core_ml_is_evaluated(exports: Exports) -> None:
    module = edgepath.torch_module(exports("coreml-fp16").bundle)
    assert "MIL evaluator" in module.ran_with
    assert module(torch.from_numpy(TILES[:1])).shape == (1, 96)


# --- as generic pipelines treat a module


def test_module_answers_what_pipelines_ask(module: TorchModule, wanted: torch.Tensor) -> None:
    assert module.num_features == module.embed_dim == 96
    parameter = next(module.parameters())
    assert (parameter.numel(), parameter.requires_grad, parameter.device.type) == (0, False, "cpu")
    module.to(torch.device("cpu")).half().train().eval().requires_grad_(False)
    assert next(module.parameters()).dtype == torch.float16
    assert torch.equal(module(torch.from_numpy(TILES)), wanted)
    assert torch.equal(module.float()(torch.from_numpy(TILES)), wanted)
    assert type(module).__name__ == "tiny-onnx-fp32"  # LazySlide and others name tables by it
    assert isinstance(module, TorchModule)


def test_state_is_saved_and_loaded(module: TorchModule, exports: Exports, tmp_path: Path) -> None:
    torch.save(module.state_dict(), tmp_path / "state.pt")
    assert (tmp_path / "state.pt").stat().st_size < 5000
    other = edgepath.torch_module(exports("onnx-int8").bundle, threads=1)
    given = torch.from_numpy(TILES)
    before = other(given)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(given), before)  # an encoder is its bundle, not its state
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict({**module.state_dict(), "blocks.0.weight": torch.zeros(3)})


@pytest.mark.parametrize("target", ["onnx-fp32", "openvino-int8", "coreml-int8"])
def test_copies_embed_as_the_module_does(exports: Exports, target: str, tmp_path: Path) -> None:
    module = edgepath.torch_module(exports(target).bundle, threads=1).eval()
    given = torch.from_numpy(TILES[:1])
    wanted = module(given)
    torch.save(nn.Sequential(module), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 20_000
    (loaded,) = torch.load(tmp_path / "model.pt", weights_only=False)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert torch.equal(again(given), wanted)
        assert (type(again).__name__, again.name, again.training) == (type(module).__name__, module.name, False)
        assert again.ran_with == module.ran_with
        again.close()
    assert torch.equal(module(given), wanted)


def test_copy_keeps_what_was_hung_on_the_module(module: TorchModule, wanted: torch.Tensor) -> None:
    module.register_forward_hook(_halve)
    module.note = "mine"  # type: ignore[assignment]
    again = copy.deepcopy(module)
    assert torch.equal(again(torch.from_numpy(TILES)), wanted / 2)
    assert again.note == "mine"


def _halve(module: nn.Module, given: object, output: torch.Tensor) -> torch.Tensor:
    return output / 2


def test_closed_module_says_so(module: TorchModule) -> None:
    module.close()
    module.close()
    with pytest.raises(RuntimeError, match=r"^this runner is closed; open another$"):
        module(torch.from_numpy(TILES))


@pytest.mark.parametrize("threads", [-1, 1.5])
def test_number_of_threads_that_is_none_is_refused(exports: Exports, threads: Any) -> None:
    with pytest.raises(UsageError, match=rf"threads is {threads}; a whole number from 0 to 1024 is needed"):
        edgepath.torch_module(exports("onnx-fp32").bundle, threads=threads)


LOADER = """
import sys
import numpy as np, torch, edgepath
from torch.utils.data import DataLoader, Dataset

class Embedded(Dataset):
    def __init__(self, module, tiles):
        self.module, self.tiles = module, tiles
    def __len__(self):
        return len(self.tiles)
    def __getitem__(self, index):
        return self.module(self.tiles[index : index + 1])[0]

if __name__ == "__main__":
    module = edgepath.torch_module(sys.argv[1], threads=1)
    tiles = torch.from_numpy(np.load("tiles.npy"))
    wanted = torch.cat([module(tiles[i : i + 1]) for i in range(len(tiles))])
    for how in sys.argv[2:]:
        loader = DataLoader(Embedded(module, tiles), batch_size=3, num_workers=2, multiprocessing_context=how)
        try:
            (rows,) = loader
        except RuntimeError as error:
            print(how, str(error).strip().splitlines()[-1])
        else:
            print(how, torch.equal(rows, wanted))
"""


@pytest.mark.parametrize(
    ("target", "ways"),
    [("onnx-int8", {"spawn": "True", "forkserver": "True", "fork": "True"}), ("openvino-int8", {"spawn": "True"})],
)
def test_loaders_workers_embed(exports: Exports, target: str, ways: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(LOADER)
    np.save(tmp_path / "tiles.npy", TILES)
    command = [sys.executable, "-W", "ignore", "main.py", str(exports(target).bundle.path), *ways]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert dict(line.split(" ", 1) for line in done.stdout.splitlines()) == ways, done.stderr


def test_loaders_forked_worker_says_what_to_do(exports: Exports, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(LOADER)
    np.save(tmp_path / "tiles.npy", TILES)
    command = [sys.executable, "-W", "ignore", "main.py", str(exports("openvino-int8").bundle.path), "fork"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "OpenVINO was started before this process was forked, and does not work in it; start " in done.stdout
