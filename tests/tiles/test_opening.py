"""Every source of tiles: order, keys, what is refused and in which words, and nothing that grows with the source."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepath.errors import EdgepathError, PackError, TileError, UsageError
from edgepath.tiles.formats import KINDS
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.packs import build_pack
from edgepath.tiles.source import TileSource
from edgepath.tiles.synthetic import synthesize

SIZE = 16
NAMES = ("10.png", "2.png", "Ä/löwe 1.PNG", "a/b/c.tif", "a/b.png", "a.png", "z.Jpeg", "組織/タイル.png")


def pixels(name: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def write(folder: Path, *names: str) -> Path:
    kinds = {".png": "PNG", ".tif": "TIFF", ".jpeg": "JPEG"}
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(name)).save(folder / name, kinds[Path(name).suffix.lower()])
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "lab", *NAMES)


def refused(source: str | Path | list[str | Path], kind: type[EdgepathError] = TileError) -> str:
    with pytest.raises(kind) as caught:
        open_tiles(source, size=SIZE).read()
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- folders


def test_folder_gives_its_tiles_in_the_order_of_their_keys(folder: Path) -> None:
    (folder / "._a.png").write_bytes(b"what a Mac leaves on a stick")
    (folder / ".cache").mkdir()
    write(folder / ".cache", "a.png")
    (folder / "notes.txt").write_text("no tile")
    source = open_tiles(folder, size=SIZE)
    assert (source.kind, source.name, len(source)) == ("folder", "lab", len(NAMES))
    assert source.keys == tuple(sorted(NAMES))
    tiles = source.read()
    assert (tiles.dtype, tiles.shape) == (np.uint8, (len(NAMES), SIZE, SIZE, 3))
    for key, tile in zip(source.keys, tiles, strict=True):
        if not key.endswith("Jpeg"):
            np.testing.assert_array_equal(tile, pixels(key))


def test_order_does_not_depend_on_how_a_folder_is_reached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = open_tiles(folder, size=SIZE).keys
    monkeypatch.chdir(folder)
    assert open_tiles(".", size=SIZE).keys == keys
    assert open_tiles(".", size=SIZE).name == "lab"
    assert open_tiles(str(folder) + "/", size=SIZE).keys == keys


def test_links_are_followed(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "far.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "file.png").symlink_to(folder / "a.png")
    source = open_tiles(folder, size=SIZE)
    assert {"link/far.png", "file.png"} <= set(source.keys)
    np.testing.assert_array_equal(source.load("link/far.png"), pixels("far.png"))


def test_link_back_is_refused(folder: Path) -> None:
    (folder / "a" / "again").symlink_to(folder, target_is_directory=True)
    assert "a link back to a folder it lies in; remove the link" in refused(folder)


@pytest.mark.parametrize(
    ("content", "found"),
    [((), ""), (("notes.txt", "a.npy", "b.npy", "README"), " (found 2 .npy, 1 .txt, 1 without a suffix)")],
)
def test_folder_without_tiles_is_refused(tmp_path: Path, content: tuple[str, ...], found: str) -> None:
    for name in content:
        (tmp_path / name).write_bytes(b"x")
    said = refused(tmp_path)
    assert said == f"tiles {tmp_path}: no {KINDS} files below this folder{found}; cut slides into tiles first"


def test_what_is_left_out_is_counted_by_its_kind(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.gif", "b.gif", "c.GIF", "notes.txt", "README", "tiles.csv", "a/manifest.csv", ".hidden.png"):
        (folder / name).write_bytes(b"x")
    for path in LEFTOVERS:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes((folder / "a.png").read_bytes())
    source = open_tiles(folder, size=SIZE)
    said = f"tiles {folder}: not taken are 3 .gif, 1 .txt, 1 hidden, 1 without a suffix; {KINDS} files are"
    assert caplog.messages == [said]
    assert source.keys == tuple(sorted(NAMES))
    assert source.left_out == {".gif": 3, ".txt": 1, "hidden": 1, "without a suffix": 1}
    assert source.provenance()["left_out"] == dict(source.left_out)
    assert source.provenance()["skipped"] == 0
    assert source.skipped == []
    assert source.select([0]).left_out == source.left_out
    assert "left_out" not in open_tiles([folder / "a.png"], size=SIZE).provenance()
    assert open_tiles([folder / "a.png", folder / "a"], size=SIZE).left_out == {}
    (folder / "a" / "more.gif").write_bytes(b"x")
    assert open_tiles([folder / "a.png", folder / "a"], size=SIZE).left_out == {".gif": 1}


LEFTOVERS = (
    "._a.png",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "@eaDir/a.png",
    "@eaDir/SYNOFILE_THUMB_M.png",
    "__MACOSX/a.png",
    "#recycle/a.png",
    ".Trashes/a.png",
)


def test_images_of_every_kind_are_taken_by_content(tmp_path: Path) -> None:
    kinds = {
        "a.webp": "WEBP",
        "b.bmp": "BMP",
        "c.jp2": "JPEG2000",
        "d.j2k": "JPEG2000",
        "e.JPE": "JPEG",
        "f.jfif": "PNG",
    }
    for name, kind in kinds.items():
        Image.fromarray(pixels(name)).save(tmp_path / name, kind, **({"lossless": True} if kind == "WEBP" else {}))
    source = open_tiles(tmp_path, size=SIZE)
    assert source.keys == tuple(kinds)
    for key, tile in zip(source.keys, source.read(), strict=True):
        if kinds[key] != "JPEG":
            np.testing.assert_array_equal(tile, pixels(key))
    (tmp_path / "a.webp").rename(tmp_path / "tile of no suffix")
    np.testing.assert_array_equal(open_tiles(tmp_path / "tile of no suffix", size=SIZE).read()[0], pixels("a.webp"))


def test_what_is_not_there_or_no_tile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no tile")
    assert refused(tmp_path / "none") == (
        f"tiles {tmp_path / 'none'}: no such file or folder; "
        "give a folder of tiles or slides, a pack, tile files or synthetic"
    )
    assert "a file; give a folder of tiles" in refused(tmp_path / "notes.txt")


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    assert "is not valid UTF-8; rename the file" in refused(tmp_path)


# --- bad tiles


BAD = {
    "broken.png": lambda data: data[: len(data) // 2],
    "empty.png": lambda data: b"",
    "text.png": lambda data: b"not an image\n",
}


@pytest.fixture
def spoilt(folder: Path) -> Path:
    whole = (folder / "a.png").read_bytes()
    for name, spoil in BAD.items():
        (folder / name).write_bytes(spoil(whole))
    Image.fromarray(pixels("cut")).save(folder / "cut.jpg", "JPEG")
    os.truncate(folder / "cut.jpg", 400)
    Image.new("RGB", (SIZE, SIZE + 1)).save(folder / "large.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    return folder


def test_first_bad_tile_ends_the_reading_and_is_named(spoilt: Path) -> None:
    said = refused(spoilt)
    assert said.startswith(f"{spoilt / 'broken.png'}: cannot be read (")
    assert said.endswith("; replace the file, or leave it out")


def test_skip_bad_leaves_out_and_lists(spoilt: Path) -> None:
    source = open_tiles(spoilt, size=SIZE, skip_bad=True)
    keys = [key for batch in source.batches(3) for key in batch.keys]
    assert keys == sorted(NAMES)
    assert [key for key, _ in source.skipped] == sorted([*BAD, "cut.jpg", "large.png", "gone.png"])
    reasons = dict(source.skipped)
    assert reasons["text.png"] == f"no {KINDS} image by its content; replace the file, or leave it out"
    assert "16 x 17 pixels, 16 x 16 are needed" in reasons["large.png"]
    assert "No such file" in reasons["gone.png"]
    assert str(spoilt) not in "".join(reasons.values())
    assert source.provenance()["skipped"] == 6


def test_skip_bad_with_nothing_left_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.png").write_bytes(b"y")
    with pytest.raises(TileError, match=r"none of its 2 tiles can be read \(the first is a\.png: no PNG"):
        open_tiles(tmp_path, size=SIZE, skip_bad=True).read()


def test_tile_that_changes_between_two_readings_is_refused(folder: Path) -> None:
    source = open_tiles(folder, size=SIZE)
    source.read()
    Image.fromarray(255 - pixels("a.png")).save(folder / "a.png")
    with pytest.raises(TileError, match=r"a\.png changed since it was first read; run again"):
        source.read()
    with pytest.raises(TileError, match="changed"):
        source.select([source.keys.index("a.png")]).read()


# --- other sizes


def test_other_size_is_refused_or_resized(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), (9, 8, 7)).save(tmp_path / "a.png")
    assert "40 x 20 pixels, 16 x 16 are needed" in refused(tmp_path)
    for resize in ("squash", "crop"):
        tile = open_tiles(tmp_path, size=SIZE, resize=resize).read()
        np.testing.assert_array_equal(tile, np.full((1, SIZE, SIZE, 3), (9, 8, 7)))
    with pytest.raises(UsageError, match="did you mean"):
        open_tiles(tmp_path, size=SIZE, resize="squish")


# --- batches


@pytest.mark.parametrize("threads", [1, 2, 8, None])
@pytest.mark.parametrize(("size", "lengths"), [(1, [1] * 8), (3, [3, 3, 2]), (8, [8]), (100, [8])])
def test_batches_hold_all_tiles_in_order(folder: Path, threads: int | None, size: int, lengths: list[int]) -> None:
    source = open_tiles(folder, size=SIZE)
    batches = list(source.batches(size, threads=threads))
    assert [len(batch.keys) for batch in batches] == [len(batch.pixels) for batch in batches] == lengths
    assert sum((batch.keys for batch in batches), ()) == source.keys
    np.testing.assert_array_equal(np.concatenate([batch.pixels for batch in batches]), source.read())


def test_batches_of_none_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="batch size 0; at least 1"):
        open_tiles(folder, size=SIZE).batches(0)


class Counting:
    """A source that knows how many of its tiles were asked for, and whose first three wait for each other."""

    def __init__(self, count: int) -> None:
        self.asked, self.most, self.busy, self.lock = 0, 0, 0, threading.Lock()
        self.together = threading.Barrier(3)
        self.source = TileSource("made", "made", tuple(f"{i:03d}" for i in range(count)), SIZE, self.load)

    def load(self, key: str) -> np.ndarray:
        with self.lock:
            self.asked += 1
            self.busy += 1
            self.most = max(self.most, self.busy)
        if int(key) < 3:
            self.together.wait()
        time.sleep(0.01 if int(key) % 4 == 0 else 0.002)  # so that later tiles are there before earlier ones
        with self.lock:
            self.busy -= 1
        return np.full((SIZE, SIZE, 3), int(key), np.uint8)


def test_kept_tiles_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(key: str) -> np.ndarray:
        asked.append(key)
        if key == "bad":
            raise TileError("bad: cannot be read")
        return np.full((SIZE, SIZE, 3), len(key), np.uint8)

    keys = ("a", "bad", "cc", "ddd")
    source = TileSource("made", "made", keys, SIZE, load, skip_bad=True).kept()
    few = source.select([0, 1, 2])
    for _ in range(2):
        assert few.read().shape == (2, SIZE, SIZE, 3)
        assert source.provenance()["count"] == 3
    assert sorted(asked) == sorted(keys)
    assert [key for key, _ in few.skipped] == ["bad"]
    monkeypatch.setattr("edgepath.tiles.source._KEPT_BYTES", 2 * 3 * SIZE * SIZE)  # room for two
    asked.clear()
    source = TileSource("made", "made", keys, SIZE, load, skip_bad=True).kept()
    pixels = [source.read() for _ in range(2)]
    assert (pixels[0] == pixels[1]).all()
    assert len(asked) == 2 + 2 * 2


def test_no_more_is_decoded_ahead_than_promised() -> None:
    counting = Counting(60)
    batches = counting.source.batches(4, threads=3)
    assert counting.asked == 0
    for number, batch in enumerate(batches, 1):
        assert [int(key) for key in batch.keys] == list(batch.pixels[:, 0, 0, 0])
        time.sleep(0.03)  # what a model needs for a batch: time to decode too much
        assert counting.asked <= number * 4 + 2 * 3
    assert counting.asked == 60
    assert counting.most == 3  # threads really work side by side


def test_threads_end_with_the_reading() -> None:
    before = threading.active_count()
    batches = Counting(60).source.batches(4, threads=8)
    next(batches)
    batches.close()
    assert threading.active_count() == before


# --- what a source says of itself


def test_provenance_is_the_hash_of_hashes_and_keys(folder: Path) -> None:
    source = open_tiles(folder, size=SIZE)
    tiles = source.read()
    lines = "".join(
        f"{hashlib.sha256(t.tobytes()).hexdigest()}  {k}\n" for k, t in zip(source.keys, tiles, strict=True)
    )
    found = open_tiles(folder, size=SIZE).provenance()  # decodes on its own
    assert found == {
        "kind": "folder",
        "name": "lab",
        "count": len(NAMES),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "size": SIZE,
        "resize": "refuse",
        "skipped": 0,
    }


def test_selected_tiles_are_those_and_in_that_order(folder: Path) -> None:
    source = open_tiles(folder, size=SIZE)
    chosen = source.select([5, 0, 3])
    assert chosen.keys == (source.keys[5], source.keys[0], source.keys[3])
    np.testing.assert_array_equal(chosen.read(), source.read()[[5, 0, 3]])
    np.testing.assert_array_equal(source.read([2, 1]), source.read()[[2, 1]])
    assert source.read([]).shape == (0, SIZE, SIZE, 3)


# --- lists of files


def test_files_of_equal_name_stay_apart(tmp_path: Path) -> None:
    write(tmp_path, "s1/a.png", "s2/a.png", "s2/b.png")
    source = open_tiles([tmp_path / "s2" / "a.png", tmp_path / "s1"], size=SIZE)
    assert (source.kind, source.name, source.keys) == ("files", "2 files", ("s1/a.png", "s2/a.png"))
    np.testing.assert_array_equal(source.read(), [pixels("s1/a.png"), pixels("s2/a.png")])


def test_single_file_is_a_source(folder: Path) -> None:
    assert open_tiles(folder / "a" / "b.png", size=SIZE).keys == ("b.png",)


def test_lists_that_cannot_be_meant_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "given more than once" in refused([folder / "a.png", folder])
    assert "no such file or folder" in refused([folder / "a.png", folder / "none.png"])
    assert f"no {KINDS} files were given" in refused([])
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "pack.toml").write_text("")
    assert "a calibration pack, among other sources" in refused([folder / "a.png", tmp_path / "pack"])


# --- the synthetic source


def test_synthetic_tiles_are_those_of_synthesize() -> None:
    source = open_tiles("synthetic:3:7", size=32)
    assert (source.kind, source.name, len(source), source.root) == ("synthetic", "synthetic", 3, None)
    np.testing.assert_array_equal(source.read(), synthesize(3, seed=7, size=32))
    assert list(source.keys) == sorted(source.keys)
    assert source.provenance()["seed"] == 7
    assert len(open_tiles("synthetic")) == 160


def test_synthetic_tiles_beyond_a_million_are_their_own() -> None:
    tile = open_tiles("synthetic:1", size=32).load("synthetic/0/1000000_GV_AT2")
    np.testing.assert_array_equal(tile, synthesize(1, start=1_000_000, size=32)[0])


@pytest.mark.parametrize(
    "source",
    [
        "synthetic:",
        "synthetic:0",
        "synthetic:1000001",
        "synthetic:-3",
        "synthetic:3:",
        "synthetic:a",
        "synthetic:1:2:3",
    ],
)
def test_synthetic_source_of_another_form_is_refused(source: str) -> None:
    assert "give synthetic, synthetic:COUNT or synthetic:COUNT:SEED" in refused(source, UsageError)


def test_folder_that_is_called_synthetic_can_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "synthetic", "a.png")
    monkeypatch.chdir(tmp_path)
    assert open_tiles("./synthetic", size=SIZE).keys == open_tiles(Path("synthetic"), size=SIZE).keys == ("a.png",)


# --- packs


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    return build_pack("synthetic:5", folder / "five", 4).path


def test_pack_is_read_with_its_hashes(pack: Path) -> None:
    source = open_tiles(pack)
    assert (source.kind, source.name) == ("pack", "five")
    assert source.keys == tuple(f"tiles/0000{i}.png" for i in range(4))
    origin = source.provenance()["pack"]
    assert origin == {
        "name": "five",
        "count": 4,
        "sha256": hashlib.sha256((pack / "tiles.csv").read_bytes()).hexdigest(),
    }
    np.testing.assert_array_equal(source.read()[1], np.array(Image.open(pack / "tiles" / "00001.png")))


def test_pack_of_another_size_is_refused_or_resized_after_its_hashes_were_checked(pack: Path) -> None:
    assert "tiles of 224 x 224, 16 x 16 are needed; choose --resize crop" in refused(pack)
    small = open_tiles(pack, size=SIZE, resize="squash").read()
    with Image.open(pack / "tiles" / "00000.png") as tile:
        expected = np.array(tile.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(small[0], expected)


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("content", [b"x", None], ids=["no image", "other pixels"])
def test_altered_tile_of_a_pack_is_never_left_out(
    pack: Path, tmp_path: Path, skip_bad: bool, content: bytes | None
) -> None:
    shutil.copytree(pack, tmp_path / "copy")
    tile = tmp_path / "copy" / "tiles" / "00002.png"
    tile.write_bytes(content or (pack / "tiles" / "00001.png").read_bytes())
    with pytest.raises(PackError, match=r"tiles/00002\.png was altered"):
        open_tiles(tmp_path / "copy", skip_bad=skip_bad).read()


# --- real tiles


def test_real_tiles_have_the_hashes_their_manifest_says(real_tiles: Path) -> None:
    import csv

    with open(real_tiles / "manifest.csv", encoding="utf-8", newline="") as file:
        said = {row["path"]: row["sha256_pixels"] for row in csv.DictReader(file)}
    source = open_tiles(real_tiles)
    assert set(source.keys) == set(said)
    chosen = source.select(range(0, len(source), 10))
    chosen.read()
    assert {key: chosen.digests[key] for key in chosen.keys} == {key: said[key] for key in chosen.keys}
