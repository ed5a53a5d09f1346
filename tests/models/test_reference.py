"""The reference is timm's own pipeline, computed once; a cache never changes a number."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from torch import nn

from edgepath.errors import UsageError
from edgepath.machine import inference
from edgepath.machine.cache import cache_folder
from edgepath.machine.hardware import pick_device
from edgepath.models import reference
from edgepath.models.catalogue import ModelSpec
from edgepath.models.reference import Reference, reference_embeddings
from edgepath.models.weights import Weights, random_model, state_sha256
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.source import TileSource


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


@pytest.fixture(scope="module")
def vit(tiny: ModelSpec) -> nn.Module:
    return random_model(tiny)


@pytest.fixture(scope="module")
def weights(vit: nn.Module) -> Weights:
    return Weights("random, seed 0", state_sha256(vit), random=True)


@pytest.fixture(scope="module")
def source(tiles: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> TileSource:
    folder = tmp_path_factory.mktemp("tiles")
    for index, tile in enumerate(tiles[:3]):
        Image.fromarray(tile).save(folder / f"{index}.png")
    return open_tiles(folder)


class Counted(nn.Module):
    """The model, counting how often it is asked."""

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        self.vit, self.calls = vit, 0
        self.patch_embed, self.num_prefix_tokens = vit.patch_embed, vit.num_prefix_tokens

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        found: torch.Tensor = self.vit.forward_features(x)
        return found


Embed = Callable[..., Reference]


@pytest.fixture
def counted(vit: nn.Module) -> Counted:
    return Counted(vit)


@pytest.fixture
def embed(counted: Counted, tiny: ModelSpec, weights: Weights, source: TileSource) -> Embed:
    def run(**changes: Any) -> Reference:
        given = {"vit": counted, "spec": tiny, "weights": weights, "tiles": source} | changes
        return reference_embeddings(**given)

    return run


# --- the numbers


@pytest.mark.parametrize("embedding", ["cls", "cls+mean"])
def test_reference_equals_timms_own_pipeline(
    embedding: str, embed: Embed, vit: nn.Module, tiny: ModelSpec, source: TileSource, tiles: np.ndarray
) -> None:
    transform = timm.data.create_transform((3, 224, 224), mean=tiny.mean, std=tiny.std, crop_pct=1.0)
    with torch.inference_mode():
        tokens = vit.forward_features(torch.stack([transform(Image.fromarray(tile)) for tile in tiles[:3]]))
    wanted = tokens[:, 0] if embedding == "cls" else torch.cat([tokens[:, 0], tokens[:, 5:].mean(dim=1)], dim=1)
    found = embed(embedding=embedding)
    assert found.embeddings.dtype == np.float32
    # timm divides by 255 and normalises as here; a batch of three may add up in another order than one of another size.
    np.testing.assert_allclose(found.embeddings, wanted.numpy(), rtol=0, atol=1e-5 * float(wanted.abs().max()))
    assert found.keys == ("0.png", "1.png", "2.png") == source.keys
    assert not found.cached


def test_runtime_names_pytorch_and_the_device(embed: Embed) -> None:
    runtime = embed().runtime
    assert runtime.startswith(f"PyTorch {torch.__version__.split('+')[0]} FP32, ")
    assert runtime.endswith(f"{torch.get_num_threads()} threads")


def test_reference_never_computes_in_tf32(vit: nn.Module, tiny: ModelSpec) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    reference.Runner(vit, tiny.mean, tiny.std)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_linears_are_by_onednn_unless_torch_is_compared_with(
    vit: nn.Module, tiny: ModelSpec, tiles: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = reference.Runner(vit, tiny.mean, tiny.std, by_torch=True)(tiles[:2])

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(inference, "_product", lambda: refuse)
    with pytest.raises(AssertionError):
        reference.Runner(vit, tiny.mean, tiny.std)(tiles[:2])
    assert np.array_equal(reference.Runner(vit, tiny.mean, tiny.std, by_torch=True)(tiles[:2]), exact)


# --- the cache


def test_second_time_comes_from_the_cache_with_the_same_numbers(embed: Embed, counted: Counted, cache: Path) -> None:
    steps: list[list[int]] = [[], []]
    first = embed(progress=steps[0].append)
    (file,) = cache.iterdir()
    assert file.suffix == ".npz"
    second = embed(progress=steps[1].append)
    assert counted.calls == 1
    assert (first.cached, second.cached) == (False, True)
    np.testing.assert_array_equal(second.embeddings, first.embeddings)
    assert second.embeddings.dtype == np.float32
    assert (second.keys, second.runtime) == (first.keys, first.runtime)
    assert sum(steps[0]) == sum(steps[1]) == 3
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_file_names_and_folders_say_nothing_of_the_tiles(embed: Embed, cache: Path, source: TileSource) -> None:
    embed()
    (file,) = cache.iterdir()
    assert len(file.stem) == len(hashlib.sha256().hexdigest())
    assert source.root is not None
    assert str(source.root).encode() not in file.read_bytes()


CHANGES: dict[str, Callable[[ModelSpec, Weights, TileSource], dict[str, Any]]] = {
    "weights": lambda spec, weights, tiles: {"weights": replace(weights, sha256="0" * 64)},
    "mean": lambda spec, weights, tiles: {"spec": replace(spec, mean=(0.5, 0.5, 0.5))},
    "std": lambda spec, weights, tiles: {"spec": replace(spec, std=(0.5, 0.5, 0.5))},
    "embedding": lambda spec, weights, tiles: {"embedding": "cls+mean"},
    "fewer tiles": lambda spec, weights, tiles: {"tiles": tiles.select([0, 1])},
    "order": lambda spec, weights, tiles: {"tiles": tiles.select([2, 1, 0])},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_a_number_is_another_entry(
    change: str, embed: Embed, counted: Counted, tiny: ModelSpec, weights: Weights, source: TileSource, cache: Path
) -> None:
    first = embed()
    changed = CHANGES[change](tiny, weights, source)
    second = embed(**changed)
    assert not second.cached
    assert counted.calls == 2
    assert len(list(cache.iterdir())) == 2
    if change == "order":
        np.testing.assert_allclose(second.embeddings, first.embeddings[::-1], atol=1e-4)
    # Neither took the other's place.
    np.testing.assert_array_equal(embed(**changed).embeddings, second.embeddings)
    np.testing.assert_array_equal(embed().embeddings, first.embeddings)
    assert counted.calls == 2


def test_changed_pixels_under_the_same_names_are_another_entry(
    embed: Embed, counted: Counted, tiles: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "tiles").mkdir()
    found = []
    for tile in (tiles[0], tiles[1]):
        Image.fromarray(tile).save(tmp_path / "tiles" / "0.png")
        found.append(embed(tiles=open_tiles(tmp_path / "tiles")))
    assert counted.calls == 2
    assert not np.array_equal(found[0].embeddings, found[1].embeddings)


def test_source_of_the_weights_does_not_matter_their_values_do(
    embed: Embed, counted: Counted, weights: Weights
) -> None:
    embed()
    assert embed(weights=replace(weights, source="model.safetensors", random=False)).cached
    assert counted.calls == 1


def damage(name: str, file: Path) -> None:
    with np.load(file) as kept:
        values = dict(kept)
    if name == "empty":
        file.write_bytes(b"")
    elif name == "text":
        file.write_text("no zip")
    elif name == "cut":
        file.write_bytes(file.read_bytes()[:-200])
    elif name == "altered number":
        content = bytearray(file.read_bytes())
        content[content.index(values["embeddings"].tobytes()) + 7] ^= 0x40
        file.write_bytes(content)
    elif name == "array alone":
        with open(file, "wb") as out:
            np.save(out, values["embeddings"])
    elif name == "pickle":
        np.savez(file, **{**values, "keys": np.array([{}, {}, {}], dtype=object)})
    elif name == "key missing":
        np.savez(file, embeddings=values["embeddings"], keys=values["keys"])
    elif name == "row missing":
        np.savez(file, **{**values, "embeddings": values["embeddings"][:2]})
    elif name == "of other tiles":
        np.savez(file, **{**values, "keys": np.array(["a", "b", "c"])})
    elif name == "not finite":
        np.savez(file, **{**values, "embeddings": np.full_like(values["embeddings"], np.nan)})
    elif name == "float16":
        np.savez(file, **{**values, "embeddings": values["embeddings"].astype(np.float16)})
    elif name == "folder":
        file.unlink()
        file.mkdir()


@pytest.mark.parametrize(
    "name",
    [
        "empty", "text", "cut", "altered number", "array alone", "pickle", "key missing", "row missing",
        "of other tiles", "not finite", "float16",
    ],
)  # fmt: skip
def test_damaged_entry_is_computed_again_and_mended(name: str, embed: Embed, counted: Counted, cache: Path) -> None:
    first = embed()
    (file,) = cache.iterdir()
    damage(name, file)
    second = embed()
    assert not second.cached
    assert counted.calls == 2
    np.testing.assert_array_equal(second.embeddings, first.embeddings)
    assert embed().cached
    assert counted.calls == 2
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_cache_that_cannot_be_written_stops_nothing(
    embed: Embed, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embed()
    (file,) = cache.iterdir()
    damage("folder", file)
    np.testing.assert_array_equal(embed().embeddings, first.embeddings)
    assert [path.name for path in cache.iterdir()] == [file.name]  # and no half file is left
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(embed().embeddings, first.embeddings)


def test_cache_folder_is_the_users_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == Path(os.environ["EDGEPATH_CACHE"])
    for unset in ("", None):
        monkeypatch.delenv("EDGEPATH_CACHE") if unset is None else monkeypatch.setenv("EDGEPATH_CACHE", unset)
        assert cache_folder() == Path.home() / ".cache" / "edgepath"


def test_tiles_that_were_skipped_are_not_embedded(embed: Embed, tiles: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    Image.fromarray(tiles[0]).save(tmp_path / "tiles" / "a.png")
    (tmp_path / "tiles" / "b.png").write_bytes(b"not a picture")
    for cached in (False, True):
        found = embed(tiles=open_tiles(tmp_path / "tiles", skip_bad=True))
        assert (found.keys, len(found.embeddings), found.cached) == (("a.png",), 1, cached)


# --- devices


def test_cpu_is_always_there_and_auto_picks_what_is() -> None:
    assert pick_device("cpu") == "cpu"
    assert pick_device() == pick_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("device", ["gpu", "CUDA", "", "cuda0", "cuda:", "cuda:-1", "cuda:x", "mps", "cpu:0"])
def test_unknown_device_is_one_line(device: str) -> None:
    with pytest.raises(UsageError) as caught:
        pick_device(device)
    assert str(caught.value) == f"--device {device}: give auto, cpu, cuda or cuda:INDEX"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_cuda_without_a_gpu_is_one_line(device: str) -> None:
    with pytest.raises(UsageError, match=rf"^--device {device}: PyTorch .* finds no CUDA GPU; give --device cpu$"):
        pick_device(device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_gpu_that_is_not_there_is_one_line() -> None:
    assert pick_device("cuda:0") == "cuda:0"
    with pytest.raises(UsageError, match=rf"^device cuda:99: there are {torch.cuda.device_count()} CUDA GPUs"):
        pick_device("cuda:99")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_equals_cpu_and_is_an_entry_of_its_own(embed: Embed, counted: Counted) -> None:
    cpu, cuda = embed(), embed(device="cuda")
    assert counted.calls == 2
    assert cpu.runtime != cuda.runtime
    # FP32 on both, sums in another order; TF32 would show at 1e-3.
    np.testing.assert_allclose(cuda.embeddings, cpu.embeddings, rtol=0, atol=1e-4 * np.abs(cpu.embeddings).max())
    assert next(counted.vit.parameters()).device.type == "cpu"
