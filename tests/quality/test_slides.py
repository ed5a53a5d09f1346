"""Registered slides: PLISM's own files, folders by scanner, synthetic tissue; what does not fit together is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from edgepath.errors import TileError, UsageError
from edgepath.quality.feature_folder import Extractor, embed_slides, load_features
from edgepath.quality.slides import open_slides, paired_slides, plism_slides, read_rows, synthetic_slides
from edgepath.tiles.synthetic import synthesize

LOOKS = (("GMH", "S60"), ("GMH", "AT2"), ("KR", "S60"))
PLACES = ((10, 224, 0), (10, 0, 448), (10, 224, 224), (10, 1120, 0), (10, 0, 0))


def plism(folder: Path, places: dict[str, tuple[tuple[int, int, int], ...]] | None = None) -> Path:
    """Write files as owkin/plism-dataset has them; the tiles of a slide in no particular order."""
    folder.mkdir()
    for staining, scanner in LOOKS:
        name = f"{staining}_{scanner}"
        with h5py.File(folder / f"{name}_to_GMH_S60.tif.h5", "w") as file:
            for i, (level, x, y) in enumerate((places or {}).get(name, PLACES)):
                tile = synthesize(1, seed=1, start=i, staining=staining, scanner=scanner)[0]
                file[f"tile_{level}_{x}_{y}"] = tile
    return folder


def scanners(folder: Path, names: tuple[str, ...] = ("AT2", "P"), count: int = 3) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        for i, tile in enumerate(synthesize(count, seed=2, staining="GM", scanner="P")):
            Image.fromarray(tile).save(folder / name / f"place{i}.png")
    return folder


def mean_colour(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean((1, 2)).astype(np.float32)


def test_plism_files_are_read_in_the_order_of_x_and_y(tmp_path: Path) -> None:
    slides = plism_slides(plism(tmp_path / "plism"))
    assert [(s.staining, s.scanner) for s in slides.slides] == [("GMH", "AT2"), ("GMH", "S60"), ("KR", "S60")]
    assert slides.slides[0].places.tolist() == [[10, 0, 0], [10, 0, 448], [10, 224, 0], [10, 224, 224], [10, 1120, 0]]
    assert slides.slides[0].name == "GMH_AT2_to_GMH_S60.tif"  # as plism-benchmark names it
    first = slides.slides[0].tiles.read([0])[0]
    assert np.array_equal(first, synthesize(1, seed=1, start=4, staining="GMH", scanner="AT2")[0])
    assert slides.to_json()["stainings"] == ["GMH", "KR"]


def test_what_systems_leave_is_no_slide(tmp_path: Path) -> None:
    folder = plism(tmp_path / "plism")
    for name in ("._GMH_AT2_to_GMH_S60.tif.h5", ".DS_Store", "Thumbs.db"):
        (folder / name).write_bytes(b"left by a system")
    (folder / "@eaDir").mkdir()
    assert len(plism_slides(folder).slides) == 3
    mine = scanners(tmp_path / "mine")
    for name in ("@eaDir", "__MACOSX", ".cache", "AT2/@eaDir"):
        (mine / name).mkdir()
    for name in ("AT2/._place0.png", "P/.DS_Store", "P/Thumbs.db", "AT2/@eaDir/place0.png"):
        (mine / name).write_bytes(b"left by a system")
    assert [(slide.name, len(slide.tiles)) for slide in paired_slides(mine).slides] == [("AT2", 3), ("P", 3)]


def test_rows_choose_places(tmp_path: Path) -> None:
    folder = plism(tmp_path / "plism")
    np.save(tmp_path / "rows.npy", np.array([3, 1]))
    chosen = plism_slides(folder, read_rows(str(tmp_path / "rows.npy")))
    assert chosen.slides[1].places.tolist() == [[10, 224, 224], [10, 0, 448]]
    assert len(chosen.slides[1].tiles) == chosen.places == 2
    assert plism_slides(folder, 3).places == 3
    with pytest.raises(UsageError, match="6 tiles of 5; give 2 to 5"):
        plism_slides(folder, 6)
    with pytest.raises(UsageError, match=r"two or more whole numbers are needed, each once"):
        plism_slides(folder, [1, 1])
    with pytest.raises(UsageError, match=r"rows 1 to 5 of 5 tiles; the first is 0"):
        plism_slides(folder, [1, 5])
    with pytest.raises(UsageError, match='--tiles "many": give a whole number'):
        read_rows("many")
    with pytest.raises(UsageError, match=r"--tiles .*none\.npy: cannot be read"):
        read_rows(str(tmp_path / "none.npy"))


def test_features_are_laid_out_as_plism_benchmark_reads_them_and_read_as_it_writes_them(tmp_path: Path) -> None:
    folder = plism(tmp_path / "plism")
    slides = plism_slides(folder)
    calls: list[int] = []
    mine = tmp_path / "features" / "mine"
    (files,), (kept,) = embed_slides([Extractor(mean_colour, mine, calls.append)], slides, 3)
    path = tmp_path / "features" / "mine" / "GMH_AT2_to_GMH_S60.tif" / "features.npy"
    table = np.load(path)
    assert files["GMH_AT2_to_GMH_S60.tif"] == path
    assert (table.dtype, table.shape) == (np.float32, (5, 6))
    assert table[:, :3].tolist() == slides.slides[0].places.tolist()
    assert np.allclose(table[:, 3:], mean_colour(slides.slides[0].tiles.read()))
    assert sum(calls) == 15
    assert kept == 0

    def never(pixels: np.ndarray) -> np.ndarray:
        raise AssertionError("embedded again")

    assert embed_slides([Extractor(never, mine)], slides, 3) == ([files], [3])
    some = plism_slides(folder, [4, 0])  # of all the tiles that the file holds, those asked for
    assert np.array_equal(load_features(path, some.slides[0], 3), table[[4, 0], 3:])
    with pytest.raises(UsageError, match=r"\(5, 6\) numbers; this bundle's have 4 a tile and 3 for its place"):
        load_features(path, some.slides[0], 4)
    np.save(path, table[:3])
    with pytest.raises(UsageError, match="lacks 2 of the 5 places asked for"):
        embed_slides([Extractor(never, mine)], slides, 3)
    path.write_bytes(b"no array")
    with pytest.raises(UsageError, match=r"features\.npy: cannot be read"):
        embed_slides([Extractor(never, mine)], slides, 3)


def test_features_of_another_slide_of_that_name_are_refused(tmp_path: Path) -> None:
    slides = plism_slides(plism(tmp_path / "plism"), 3)
    embed_slides([Extractor(mean_colour, tmp_path / "mine")], slides, 3)
    other = tmp_path / "other"  # stain-normalised, say
    other.mkdir()
    for path in (tmp_path / "plism").iterdir():
        with h5py.File(path) as old, h5py.File(other / path.name, "w") as new:
            for name in old:
                new[name] = 255 - old[name][()]
    with pytest.raises(UsageError, match=r"made from another tile_10_0_\d+ than this slide's; give another folder"):
        embed_slides([Extractor(mean_colour, tmp_path / "mine")], plism_slides(other, 3), 3)
    path = tmp_path / "mine" / slides.slides[0].name / "features.npy"
    path.with_name("origin.json").write_text("{")
    with pytest.raises(UsageError, match=r"origin\.json beside it cannot be read"):
        embed_slides([Extractor(mean_colour, tmp_path / "mine")], slides, 3)
    path.with_name("origin.json").unlink()  # as plism-benchmark writes it
    assert embed_slides([Extractor(mean_colour, tmp_path / "mine")], slides, 3)[1] == [3]
    table = np.load(path)
    table[1, 4] = np.nan
    np.save(path, table)
    with pytest.raises(UsageError, match=r"features\.npy: 1 embeddings are not finite; remove it"):
        embed_slides([Extractor(mean_colour, tmp_path / "mine")], slides, 3)


@pytest.mark.parametrize("old", [b"}", b"'fortran_order'"])
def test_an_array_with_a_damaged_header_is_one_line(old: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.array([0, 1]))
    path.write_bytes(path.read_bytes().replace(old, b" " * len(old), 1))
    with pytest.raises(UsageError, match=r"rows\.npy: cannot be read"):
        read_rows(str(path))
    np.savez(tmp_path / "some.npz", np.array([0, 1]))
    (tmp_path / "some.npz").rename(path)
    with pytest.raises(UsageError, match="an archive of arrays, not an array"):
        read_rows(str(path))


def test_plism_slides_of_other_places_are_refused(tmp_path: Path) -> None:
    folder = plism(tmp_path / "plism", {"KR_S60": (*PLACES[:3], (10, 448, 448))})
    with pytest.raises(TileError, match=r"2 places are only in GMH_AT2\S+, 1 only in KR_S60_to_GMH_S60\.tif\.h5"):
        plism_slides(folder)


def test_what_is_not_plism_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TileError, match="none: no such folder"):
        plism_slides(tmp_path / "none")
    with pytest.raises(TileError, match="0 files named STAINING_SCANNER_to_GMH_S60"):
        plism_slides(tmp_path)
    folder = plism(tmp_path / "plism")
    (folder / "KR_S60_to_GMH_S60.tif.h5").write_bytes(b"cut off")
    with pytest.raises(TileError, match="not a whole HDF5 file"):
        plism_slides(folder)
    with h5py.File(folder / "KR_S60_to_GMH_S60.tif.h5", "w") as file:
        file["tile_1"] = np.zeros(3)
    with pytest.raises(TileError, match="tile_1 is not named tile_LEVEL_X_Y"):
        plism_slides(folder)
    for name in ("tile_0_0_\n\x1b[31m", f"tile_0_0_{'9' * 5000}"):
        with h5py.File(folder / "KR_S60_to_GMH_S60.tif.h5", "w") as file:
            file[name] = np.zeros(3)
        with pytest.raises(TileError, match="is not named tile_LEVEL_X_Y") as caught:
            plism_slides(folder)
        assert str(caught.value).isprintable()
    with h5py.File(folder / "KR_S60_to_GMH_S60.tif.h5", "w") as file:
        for level, x, y in PLACES:
            file[f"tile_{level}_{x}_{y}"] = np.zeros((112, 112, 3), np.uint8)
    with pytest.raises(UsageError, match="--resize is for --paired only"):
        open_slides(plism=folder, resize="crop")
    with pytest.raises(TileError, match=r"is uint8 \(112, 112, 3\); uint8 \(224, 224, 3\) is needed"):
        plism_slides(folder).slides[2].tiles.read()


def test_paired_folders(tmp_path: Path) -> None:
    folder = scanners(tmp_path / "mine", ("AT2", "GMH_P"))
    slides = paired_slides(folder)
    assert [(s.name, s.staining, s.scanner) for s in slides.slides] == [("AT2", "", "AT2"), ("GMH_P", "GMH", "P")]
    assert slides.places == 3
    (folder / "AT2" / "place2.png").unlink()
    with pytest.raises(TileError, match=r"place2\.png is in GMH_P but not in AT2 \(1 such files\)"):
        paired_slides(folder)


def test_paired_folders_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TileError, match="no such folder"):
        paired_slides(tmp_path / "none")
    with pytest.raises(TileError, match="1 folders in it"):
        paired_slides(scanners(tmp_path / "one", ("P",)))
    with pytest.raises(TileError, match="one place only"):
        paired_slides(scanners(tmp_path / "few", count=1))


def test_synthetic_slides_are_one_tissue_in_every_look() -> None:
    slides = synthetic_slides(2)
    assert len(slides.slides) == 91
    assert len(slides.to_json()["scanners"]) == 7
    by_name = {slide.name: slide.tiles.read([0])[0] for slide in slides.slides if slide.staining == "GMH"}
    assert np.array_equal(by_name["GMH_S60"], synthesize(1, seed=0, staining="GMH", scanner="S60")[0])
    assert not np.array_equal(by_name["GMH_AT2"], by_name["GMH_S60"])
    again = synthetic_slides(2)
    name = slides.slides[0].name
    assert again.slides[0].name == name
    assert np.array_equal(again.slides[0].tiles.read(), slides.slides[0].tiles.read())


def test_one_source_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both --plism and --paired were given; give one"):
        open_slides(plism=tmp_path, paired=tmp_path)
    with pytest.raises(UsageError, match="paired tiles are all taken"):
        open_slides(paired=tmp_path, tiles=4)
    with pytest.raises(UsageError, match="rows are for --plism"):
        open_slides(tiles=[1, 2])
    with pytest.raises(UsageError, match="1 places; a tile needs others"):
        open_slides(tiles=1)
    assert open_slides(tiles=3).places == 3


@pytest.mark.parametrize("mark", [b"SNOD", b"HEAP", b"TREE"])
def test_a_damaged_list_of_tiles_is_one_line(mark: bytes, tmp_path: Path) -> None:
    path = plism(tmp_path / "plism") / "KR_S60_to_GMH_S60.tif.h5"
    path.write_bytes(path.read_bytes().replace(mark, b"    "))
    with pytest.raises(TileError, match=r"KR_S60_to_GMH_S60\.tif\.h5: "):
        plism_slides(tmp_path / "plism").slides[2].tiles.read()


def test_a_damaged_tile_is_one_line(tmp_path: Path) -> None:
    folder = plism(tmp_path / "plism")
    path = folder / "KR_S60_to_GMH_S60.tif.h5"
    with h5py.File(path, "w") as file:
        for level, x, y in PLACES:
            file.create_dataset(f"tile_{level}_{x}_{y}", data=synthesize(1, seed=x)[0], chunks=True, compression="gzip")
        place = file["tile_10_0_0"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[place.byte_offset : place.byte_offset + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(TileError, match=r"tile_10_0_0 cannot be read \(.*fetch it again"):
        plism_slides(folder).slides[2].tiles.read()
    with h5py.File(path, "w") as file:
        for level, x, y in PLACES:
            file.create_group(f"tile_{level}_{x}_{y}")
    with pytest.raises(TileError, match="cannot be read"):
        plism_slides(folder).slides[2].tiles.read()
