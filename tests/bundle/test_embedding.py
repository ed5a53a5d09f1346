"""Embedding a folder with a real bundle: every format, stable order, what is skipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import edgepath
from edgepath.errors import TileError, UsageError
from edgepath.exporting import Exported
from edgepath.tiles.synthetic import synthesize

Exports = Callable[[str], Exported]
NAMES = ("b/2.png", "a.png", "b/10.png", "ü/0.png", "c.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, tile in zip(NAMES, synthesize(len(NAMES), seed=4), strict=True):
        path = tmp_path / "tiles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tile).save(path)
    return tmp_path / "tiles"


def read(path: Path) -> tuple[np.ndarray, list[str], dict[str, object]]:
    if path.suffix == ".npz":
        with np.load(path) as file:
            return file["embeddings"], file["paths"].tolist(), json.loads(str(file["metadata"]))
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            paths = [name.decode() for name in file["paths"][:]]
            return file["embeddings"][:], paths, json.loads(file.attrs["metadata"])
    table = pyarrow.parquet.read_table(path)
    metadata = json.loads(table.schema.metadata[b"edgepath"])
    return np.array(table["embeddings"].to_pylist(), np.float32), table["paths"].to_pylist(), metadata


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".parquet"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_format_holds_the_runners_embeddings(
    exports: Exports, folder: Path, tmp_path: Path, suffix: str, batch: int
) -> None:
    bundle = exports("onnx-fp32").bundle
    done = edgepath.embed(bundle.path, folder, out=tmp_path / f"features{suffix}", batch=batch)
    embeddings, paths, metadata = read(tmp_path / f"features{suffix}")
    assert paths == sorted(NAMES)
    assert (done["tiles"], done["dim"], done["skipped"]) == (5, 96, [])
    assert metadata["digest"] == bundle.digest
    assert any("random" in caution for caution in metadata["cautions"])
    tiles = np.stack([np.array(Image.open(folder / name)) for name in paths])
    with bundle.runner() as runner:
        np.testing.assert_allclose(embeddings, runner(tiles), atol=1e-5)
    assert embeddings.dtype == np.float32


def test_list_of_files_and_folders(exports: Exports, folder: Path, tmp_path: Path) -> None:
    edgepath.embed(exports("onnx-fp32").bundle, [folder / "c.png", folder / "b"], out=tmp_path / "f.npz")
    _, paths, _ = read(tmp_path / "f.npz")
    assert paths == ["b/10.png", "b/2.png", "c.png"]


def test_bad_tile_stops_or_is_skipped(exports: Exports, folder: Path, tmp_path: Path) -> None:
    (folder / "a.png").write_text("not an image")
    with pytest.raises(TileError, match=r"a\.png: no PNG, JPEG, .* image by its content"):
        edgepath.embed(exports("onnx-fp32").bundle, folder, out=tmp_path / "f.npz")
    assert not (tmp_path / "f.npz").exists()
    done = edgepath.embed(exports("onnx-fp32").bundle, folder, out=tmp_path / "f.npz", skip_bad=True)
    assert [name for name, _ in done["skipped"]] == ["a.png"]
    assert read(tmp_path / "f.npz")[1] == sorted(set(NAMES) - {"a.png"})


def test_output_is_checked_before_any_tile_is_embedded(exports: Exports, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "f.npz").write_text("precious")
    seen: list[str] = []
    for out, said in ((tmp_path / "f.npz", "exists; give --force"), (tmp_path / "f.csv", 'suffix ".csv" is not known')):
        with pytest.raises(UsageError, match=said):
            edgepath.embed(
                exports("onnx-fp32").bundle, folder, out=out, progress=lambda stage, done, total: seen.append(stage)
            )
    assert seen == []
    assert (tmp_path / "f.npz").read_text() == "precious"


def test_output_inside_the_bundle_is_refused(exports: Exports, folder: Path) -> None:
    bundle = exports("onnx-fp32").bundle
    with pytest.raises(UsageError, match="lies in the bundle"):
        edgepath.embed(bundle, folder, out=bundle.path / "f.npz")
    assert edgepath.open_bundle(bundle.path).digest == bundle.digest


@pytest.mark.parametrize("told", ["names", "table", "neither"])
def test_hdf5_has_the_places_that_names_or_a_table_tell(
    exports: Callable[[str], Exported], tmp_path: Path, told: str
) -> None:
    (tmp_path / "tiles").mkdir()
    names = ["s1_x0_y224.png", "s1_x448_y0.png"] if told == "names" else ["a.png", "b.png"]
    for name, tile in zip(names, synthesize(2, seed=3), strict=True):
        Image.fromarray(tile).save(tmp_path / "tiles" / name)
    rows = "path,x,y\na.png,0,224\nb.png,448,0\n" if told == "table" else "path,x\nof,others\n"
    if told != "names":
        (tmp_path / "tiles" / "manifest.csv").write_text(rows)
    bundle = exports("onnx-fp32").bundle.path
    edgepath.embed(bundle, tmp_path / "tiles", out=tmp_path / "f.hdf5")
    with h5py.File(tmp_path / "f.hdf5") as file:
        assert file["features"].shape == (2, 96)
        assert ("coords" in file) == (told != "neither")
        if told != "neither":
            assert file["coords"][:].tolist() == [[0, 224], [448, 0]]
    edgepath.embed(bundle, tmp_path / "tiles", out=tmp_path / "g.h5", anonymous=True)
    with h5py.File(tmp_path / "g.h5") as file:
        assert "coords" not in file
