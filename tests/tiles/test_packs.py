"""Packs hold what was asked for and say where it came from; they appear whole or not at all; every change is seen."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgepath
from edgepath.errors import EdgepathError, PackError, TileError, UsageError
from edgepath.tiles.formats import KINDS
from edgepath.tiles.images import describe
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.packformat import PackInfo, read_pack
from edgepath.tiles.packs import build_pack, check_pack

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def tissue(seed: int) -> np.ndarray:
    """A patchwork of purples and pinks: all tissue, cheap to make and to compress."""
    random = np.random.default_rng(seed)
    patches = random.normal(random.uniform((90, 40, 90), (190, 130, 170)), random.uniform(5, 30), (28, 28, 3))
    return np.clip(patches, 30, 195).astype(np.uint8).repeat(8, 0).repeat(8, 1)


def glass(seed: int) -> np.ndarray:
    tile = np.full((224, 224, 3), 240 + seed % 8, np.uint8)
    tile[: 10 + seed % 5] = (150, 60, 120)  # a rim of tissue: 4 to 6 %
    return tile


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides with 12, 12 and 2 tiles of tissue and 4 of glass each; one tile lies there twice."""
    folder = tmp_path_factory.mktemp("sources") / "lab"
    for slide, (name, count) in enumerate([("A", 12), ("B", 12), ("C", 2)]):
        for i in range(count):
            save(folder / name / f"{name.lower()}_x{224 * i}_y448.png", tissue(100 * slide + i))
        for i in range(4):
            save(folder / name / f"glass{i}.png", glass(10 * slide + i))
    save(folder / "B" / "again.png", tissue(0))
    return folder


@pytest.fixture(scope="module")
def built(lab: Path, tmp_path_factory: pytest.TempPathFactory) -> PackInfo:
    return build_pack([lab], tmp_path_factory.mktemp("packs") / "built", 10, seed=3)


@pytest.fixture
def pack(built: PackInfo, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(built.path, tmp_path / "pack"))


def table(pack: Path) -> list[dict[str, str]]:
    with open(pack / "tiles.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def refused(path: Path) -> str:
    with pytest.raises(PackError) as caught:
        check_pack(path)
    message = str(caught.value)
    assert message.startswith(f"pack {path}: ")
    assert "\n" not in message
    return message


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- what a pack is


def test_pack_says_what_it_is(built: PackInfo) -> None:
    digest = hashlib.sha256((built.path / "tiles.csv").read_bytes()).hexdigest()
    assert (built.name, built.count, built.size, built.seed, built.sha256) == ("built", 10, 224, 3, digest)
    source = {"name": "lab", "kind": "folder", "considered": 39, "tissue": 26, "chosen": 10, "licences": []}
    assert tomllib.loads((built.path / "pack.toml").read_text(encoding="utf-8")) == {
        "schema": 1,
        "name": "built",
        "edgepath": edgepath.__version__,
        "count": 10,
        "size": 224,
        "resize": "refuse",
        "seed": 3,
        "tissue": 0.1,
        "sha256": digest,
        "source": [source],
    }
    said = json.loads(json.dumps(built.to_json()))
    numbers = {"count": 10, "size": 224, "seed": 3, "sha256": digest}
    assert said == {"path": str(built.path), "name": "built", **numbers, "sources": [source]}
    assert contents(built.path) == {"pack.toml", "tiles.csv", "tiles"}
    assert contents(built.path / "tiles") == {f"{i:05d}.png" for i in range(10)}


def test_every_tile_is_that_of_its_source(built: PackInfo, lab: Path) -> None:
    rows = table(built.path)
    assert [row["path"] for row in rows] == [f"tiles/{i:05d}.png" for i in range(10)]
    assert [row["source_path"] for row in rows] == sorted(row["source_path"] for row in rows)
    for row in rows:
        with Image.open(built.path / row["path"]) as copy, Image.open(lab / row["source_path"]) as original:
            assert copy.tobytes() == original.tobytes()
            assert row["sha256_pixels"] == hashlib.sha256(original.tobytes()).hexdigest()
        slide, place = row["source_path"].split("/")[1].removesuffix("_y448.png").split("_x")
        assert (row["source"], row["group"], row["slide"]) == ("lab", slide.upper(), slide)
        assert (row["x"], row["y"], row["mpp"], row["licence"]) == (place, "448", "", "")


def test_check_and_read_agree_with_what_was_built(built: PackInfo) -> None:
    assert check_pack(built.path) == built
    info, rows = read_pack(built.path)
    assert info == built
    assert rows == table(built.path)


def test_reading_decodes_nothing(pack: Path) -> None:
    for tile in (pack / "tiles").iterdir():
        tile.write_bytes(b"")
    assert len(read_pack(pack)[1]) == 10


def test_nothing_of_the_building_machine_is_in_a_pack(built: PackInfo, lab: Path) -> None:
    words = {str(lab), str(lab.parent), str(built.path.parent), str(Path.home()), os.uname().nodename}
    for path in built.path.rglob("*"):
        if path.is_file():
            assert not [word for word in words if word.encode() in path.read_bytes()]


# --- what is selected


def test_groups_give_fair_shares_and_background_and_copies_are_left_out(built: PackInfo, lab: Path) -> None:
    names = [row["source_path"] for row in table(built.path)]
    assert Counter(name[0] for name in names) == {"A": 4, "B": 4, "C": 2}
    everything = build_pack([lab], built.path.with_name("everything"), 26)
    names = [row["source_path"] for row in table(everything.path)]
    assert not [name for name in names if "glass" in name or name == "B/again.png"]


def test_it_is_never_the_first_n(built: PackInfo, lab: Path) -> None:
    indices = [int(row["x"]) // 224 for row in table(built.path) if row["group"] in "AB"]
    assert max(indices) > 4


def test_same_seed_gives_the_same_pack_and_another_seed_another(built: PackInfo, lab: Path, tmp_path: Path) -> None:
    again = build_pack(lab, tmp_path / "built", 10, seed=3)
    for name in ("pack.toml", "tiles.csv", "tiles/00000.png"):
        assert (again.path / name).read_bytes() == (built.path / name).read_bytes()
    assert len({build_pack([lab], tmp_path / f"s{seed}", 10, seed=seed).sha256 for seed in (1, 2)}) == 2


def test_manifest_of_a_folder_tells_groups_and_licences(tmp_path: Path) -> None:
    lines = ["path,scanner,stain,license,mpp"]
    for i in range(12):
        save(tmp_path / "flat" / f"{i:02d}.png", tissue(i))
        scanner, licence = ("AT2", "CC0") if i < 10 else ("P", '"MIT ""text"""')
        lines.append(f'{i:02d}.png,{scanner},"H&E, pale",{licence},0.5')
    (tmp_path / "flat" / "manifest.csv").write_text("\n".join(lines))
    info = build_pack([tmp_path / "flat"], tmp_path / "pack", 4)
    rows = table(info.path)
    assert [row["scanner"] for row in rows] == ["AT2", "AT2", "P", "P"]
    assert {row["staining"] for row in rows} == {"H&E, pale"}
    assert {row["mpp"] for row in rows} == {"0.5"}
    assert check_pack(info.path).sources[0]["licences"] == sorted({row["licence"] for row in rows})
    assert info.sources[0]["licences"] == ["CC0", 'MIT "text"']


def test_sources_of_every_kind_give_equal_shares(built: PackInfo, lab: Path, tmp_path: Path) -> None:
    shutil.copytree(lab / "A", tmp_path / "lab")
    calls: list[tuple[int, int]] = []
    sources = [tmp_path / "lab", str(built.path), "synthetic:8:5", lab / "B"]
    info = build_pack(sources, tmp_path / "mix", 12, progress=lambda stage, *done: calls.append(done))
    assert [source["name"] for source in info.sources] == ["lab", "built", "synthetic", "B"]
    assert [source["kind"] for source in info.sources] == ["folder", "pack", "synthetic", "folder"]
    assert [source["considered"] for source in info.sources] == [16, 10, 8, 17]
    assert [source["chosen"] for source in info.sources] == [3, 3, 3, 3]
    assert [source["licences"] for source in info.sources] == [[], [], ["Apache-2.0"], []]
    rows = {name: [row for row in table(info.path) if row["source"] == name] for name in ("built", "synthetic")}
    assert {row["group"] for row in rows["built"]} <= {"A", "B", "C"}
    assert all(row["source_path"].startswith("tiles/") and row["slide"] and row["x"] for row in rows["built"])
    assert all(row["staining"] and row["scanner"] and row["mpp"] == "0.5" for row in rows["synthetic"])
    assert calls == [(done, 51 + 12) for done in range(1, 64)]
    assert check_pack(info.path) == info


def test_sources_of_the_same_name_stay_apart(lab: Path, tmp_path: Path) -> None:
    shutil.copytree(lab / "A", tmp_path / "1" / "tiles")
    shutil.copytree(lab / "B", tmp_path / "2" / "tiles")
    info = build_pack([tmp_path / "1" / "tiles", tmp_path / "2" / "tiles"], tmp_path / "pack", 6)
    assert Counter(row["source"] for row in table(info.path)) == {"tiles": 3, "tiles-2": 3}


def test_source_that_is_all_background_is_listed_with_nothing_chosen(lab: Path, tmp_path: Path) -> None:
    save(tmp_path / "empty" / "a.png", glass(1))
    info = build_pack([tmp_path / "empty", lab], tmp_path / "pack", 4)
    assert [(source["tissue"], source["chosen"]) for source in info.sources] == [(0, 0), (26, 4)]


def test_names_of_any_script_survive(tmp_path: Path) -> None:
    name = '切片 "7", ü\x7f'
    for i in range(3):
        save(tmp_path / name / "α, β" / f"{i}.png", tissue(i))
    info = build_pack([tmp_path / name], tmp_path / "пакет", 3)
    assert check_pack(info.path) == info
    assert (info.name, info.sources[0]["name"]) == ("пакет", name)
    assert [row["source_path"] for row in table(info.path)] == [f"α, β/{i}.png" for i in range(3)]


def test_folder_name_that_is_not_utf8_is_written_with_a_question_mark(tmp_path: Path) -> None:
    save(tmp_path / "lab" / "a.png", tissue(1))
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/lab\xff"))
    os.rename(tmp_path / "lab", strange)
    assert build_pack([strange], tmp_path / "pack", 1).sources[0]["name"] == "lab?"


def test_tiles_of_another_size_are_resized_only_when_asked(tmp_path: Path) -> None:
    save(tmp_path / "small" / "a.png", tissue(1)[:100, :120])
    with pytest.raises(TileError, match="120 x 100 pixels, 224 x 224 are needed"):
        build_pack([tmp_path / "small"], tmp_path / "pack", 1)
    assert contents(tmp_path) == {"small"}
    info = build_pack([tmp_path / "small"], tmp_path / "pack", 1, resize="crop")
    tile = open_tiles(tmp_path / "small", resize="crop").read()[0]
    assert read_pack(info.path)[1][0]["sha256_pixels"] == hashlib.sha256(tile.tobytes()).hexdigest()
    assert 'resize = "crop"' in (info.path / "pack.toml").read_text()


def test_too_little_tissue_says_how_much_there_is(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(PackError) as caught:
        build_pack([lab], tmp_path / "pack", 27)
    assert str(caught.value) == (
        f"pack {tmp_path / 'pack'}: 27 tiles were asked for, 26 of 39 are different and at least 10% tissue; "
        "add sources, or ask for -n 26"
    )
    save(tmp_path / "empty" / "a.png", glass(1))
    with pytest.raises(PackError, match=r"0 of 1 are different and at least 10% tissue; add sources$"):
        build_pack([tmp_path / "empty"], tmp_path / "pack", 1)
    assert contents(tmp_path) == {"empty"}


@pytest.mark.parametrize(("count", "seed", "sources"), [(0, 0, 1), (-1, 0, 1), (1, -1, 1), (1, 0, 0)])
def test_numbers_out_of_range_are_refused(lab: Path, tmp_path: Path, count: int, seed: int, sources: int) -> None:
    with pytest.raises(UsageError, match=f"{count} tiles of {sources} sources, seed {seed}; give at least"):
        build_pack([lab] * sources, tmp_path / "pack", count, seed=seed)


def test_bad_sources_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("no image")
    (tmp_path / "none").mkdir()
    for source, said in [("text", f"no {KINDS} image"), ("none", "no PNG, JPEG"), ("gone", "no such file")]:
        with pytest.raises(TileError, match=said):
            build_pack([tmp_path / source], tmp_path / "pack", 1)
    assert contents(tmp_path) == {"text", "none"}


def test_tile_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "lab" / "a.png", tissue(1))

    def change(stage: str, done: int, total: int) -> None:
        save(tmp_path / "lab" / "a.png", tissue(2))

    with pytest.raises(TileError, match=r"a\.png changed since it was first read"):
        build_pack([tmp_path / "lab"], tmp_path / "pack", 1, progress=change)
    assert contents(tmp_path) == {"lab"}


def test_memory_does_not_grow_with_the_pixels(lab: Path, tmp_path: Path) -> None:
    def peak(copies: int) -> int:
        for copy in range(copies):
            for i in range(40):
                path = tmp_path / f"of{copies}" / f"{copy}-{i}.png"
                path.parent.mkdir(exist_ok=True)
                save(path, tissue(1000 + 40 * copy + i))
        tracemalloc.start()
        build_pack([tmp_path / f"of{copies}"], tmp_path / f"pack{copies}", 18)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # 40 more tiles of 150,528 bytes each are 6 MB; a few may be decoded ahead.
    assert peak(2) - peak(1) < 1_500_000


def test_real_tiles_make_a_pack_of_tissue_from_everywhere(real_tiles: Path, tmp_path: Path) -> None:
    names = ("cmu1", "misc_he", "osteosarcoma")
    info = build_pack([real_tiles / name for name in names], tmp_path / "pack", 30)
    rows = table(info.path)
    assert Counter(row["source"] for row in rows) == dict.fromkeys(names, 10)
    assert {row["group"] for row in rows if row["source"] == "osteosarcoma"} == {
        "Non-Tumor",
        "Non-Viable-Tumor",
        "Viable",
    }
    assert all(row["slide"] == "cmu1" and row["x"] and row["y"] for row in rows if row["source"] == "cmu1")
    assert min(describe(tile)[0] for tile in open_tiles(info.path).read()) >= 0.1


# --- what is refused


def rewrite(pack: Path, change: Callable[[str], str], *, name: str = "tiles.csv") -> None:
    """Change a file of a pack, and have pack.toml bless a changed tiles.csv: only the change itself can be found."""
    before = (pack / "tiles.csv").read_bytes()
    text = (pack / name).read_text(encoding="utf-8")
    assert change(text) != text
    (pack / name).write_text(change(text), encoding="utf-8")
    old, new = (hashlib.sha256(data).hexdigest() for data in (before, (pack / "tiles.csv").read_bytes()))
    toml = (pack / "pack.toml").read_text(encoding="utf-8")
    (pack / "pack.toml").write_text(toml.replace(old, new), encoding="utf-8")


def test_one_changed_pixel_is_seen(pack: Path) -> None:
    with Image.open(pack / "tiles" / "00004.png") as image:
        image.load()
        red, green, blue = image.getpixel((7, 9))
        image.putpixel((7, 9), (red ^ 1, green, blue))
        image.save(pack / "tiles" / "00004.png")
    assert "tiles/00004.png was altered: its pixels have another hash" in refused(pack)


def test_other_file_with_the_same_pixels_is_fine(pack: Path) -> None:
    before = (pack / "tiles" / "00004.png").read_bytes()
    with Image.open(pack / "tiles" / "00004.png") as image:
        image.save(pack / "tiles" / "00004.png", compress_level=0)
    assert (pack / "tiles" / "00004.png").read_bytes() != before
    assert check_pack(pack).count == 10


def spoil(pack: Path, how: str) -> None:
    tile = pack / "tiles" / "00002.png"
    extra = pack / "tiles" / "00010.png"
    if how in ("missing", "link", "folder", "pipe", "socket"):
        shutil.move(tile, pack.parent / "tile.png")
    if how == "cut off":
        os.truncate(tile, 1000)
    elif how == "other size":
        save(tile, tissue(1)[:100])
    elif how == "link":
        tile.symlink_to(pack.parent / "tile.png")
    elif how == "folder":
        tile.mkdir()
    elif how == "pipe":
        os.mkfifo(tile)
    elif how == "socket":
        here = os.getcwd()
        os.chdir(tile.parent)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(tile.name)
        os.chdir(here)
    elif how == "extra tile":
        shutil.copy(tile, extra)
    elif how == "extra file":
        (pack / "notes.txt").write_text("hello")
    elif how == "link to a folder":
        shutil.move(pack / "tiles", pack.parent / "tiles")
        (pack / "tiles").symlink_to(pack.parent / "tiles")
    elif how == "no table":
        (pack / "tiles.csv").unlink()
    elif how == "link to a table":
        shutil.move(pack / "tiles.csv", pack.parent / "tiles.csv")
        (pack / "tiles.csv").symlink_to(pack.parent / "tiles.csv")
    elif how == "no manifest":
        (pack / "pack.toml").unlink()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "tiles/00002.png is missing; copy the pack again"),
        ("folder", "tiles/00002.png is missing"),
        ("cut off", "tiles/00002.png was altered"),
        ("other size", "224 x 100 pixels"),
        ("link", "tiles/00002.png is not a regular file"),
        ("pipe", "tiles/00002.png is not a regular file"),
        ("socket", "tiles/00002.png is not a regular file"),
        ("extra tile", "tiles/00010.png is not in its tiles.csv"),
        ("extra file", "notes.txt is not in its tiles.csv"),
        ("link to a folder", "tiles is not a regular file"),
        ("no table", "holds no tiles.csv"),
        ("link to a table", "tiles.csv is not a regular file"),
        ("no manifest", "holds no pack.toml; give a folder made by `edgepath pack build`"),
    ],
)
def test_spoilt_pack_is_refused(pack: Path, how: str, said: str) -> None:
    spoil(pack, how)
    assert said in refused(pack)


@pytest.mark.parametrize("name", ["tiles.csv", "pack.toml"])
def test_reading_follows_no_link_out_of_the_pack(pack: Path, name: str) -> None:
    shutil.move(pack / name, pack.parent / name)
    (pack / name).symlink_to(pack.parent / name)
    with pytest.raises(PackError, match="is not a regular file"):
        read_pack(pack)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "no such folder" in refused(tmp_path / "none")
    assert "is not a folder" in refused(tmp_path / "file")


def test_changed_table_is_refused_when_reading(pack: Path) -> None:
    text = (pack / "tiles.csv").read_text()
    (pack / "tiles.csv").write_text(text.replace("lab", "lob"))
    with pytest.raises(
        PackError, match=r"tiles\.csv was altered \(sha256 .*, pack\.toml says .*\); copy the pack again"
    ):
        read_pack(pack)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("tiles/00003.png", "tiles/../../x.png"), "tile 4: needs a path tiles/NNNNN.png"),
        (lambda t: t.replace("tiles/00003.png", "/etc/passwd"), "tile 4: needs a path"),
        (lambda t: t.replace("tiles/00003.png", "tiles/00002.png"), "lists a path twice"),
        (lambda t: t[: t.rindex("tiles/")], "tiles.csv lists 9 tiles, pack.toml says 10"),
        (lambda t: t.replace("sha256_pixels", "sha256"), "tiles.csv has the columns"),
        (lambda t: t.replace("licence\n", "licence,more\n", 1), "tiles.csv has the columns"),
        (lambda t: t.rstrip("\n") + ",more\n", "tile 10: needs"),
        (lambda t: t.rstrip("\n").rstrip(",") + "\n", "tile 10: needs"),
        (lambda t: t + '"', "tiles.csv cannot be read"),
        (lambda t: "", "tiles.csv has the columns None"),
        (lambda t: t.replace(",lab,", ",lab\0,", 1).replace("sha256_pixels", "\0"), "tiles.csv"),
    ],
)
def test_table_of_another_form_is_refused(pack: Path, change: Callable[[str], str], said: str) -> None:
    rewrite(pack, change)
    assert said in refused(pack)


def test_wrong_hash_in_the_table_is_refused(pack: Path) -> None:
    digest = table(pack)[0]["sha256_pixels"]
    rewrite(pack, lambda t: t.replace(digest, digest[::-1]))
    assert "tiles/00000.png was altered: its pixels have another hash" in refused(pack)
    rewrite(pack, lambda t: t.replace(digest[::-1], digest[:-1]))
    assert "tile 1: needs a path tiles/NNNNN.png, a sha256" in refused(pack)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("schema = 1", "schema = 2", "schema = 2; this edgepath reads schema 1; a newer edgepath wrote it: update"),
        ("schema = 1", 'schema = "1"', "schema = '1'; this edgepath reads schema 1"),
        ("schema = 1", "", "schema = None"),
        ("schema = 1", "schema = = 1", "pack.toml is not valid TOML"),
        ("count = 10", "count = 10.0", "count = 10.0; expected int"),
        ("count = 10", "count = 11", "tiles.csv lists 10 tiles, pack.toml says 11"),
        ("size = 224", "size = 0", "size = 0; 1 to 4096"),
        ("size = 224", "size = 60000", "size = 60000; 1 to 4096"),
        ("size = 224", "size = 223", "224 x 224 pixels, 223 x 223 are needed"),
        ("seed = 3", "", "seed = None; expected int"),
        ("source = [", "source = 3\nother = [", "source = 3; expected a list"),
        ('name = "built"', "name = true", "name = True; expected str"),
    ],
)
def test_manifest_of_another_form_is_refused(pack: Path, old: str, new: str, said: str) -> None:
    rewrite(pack, lambda text: text.replace(old, new, 1), name="pack.toml")
    assert said in refused(pack)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (".".join("a" * 20_000) + " = 1\n", "pack.toml is not valid TOML (a key of more than 200 parts)"),
        ("a = " + "9" * 5000 + "\n", "pack.toml is not valid TOML (Exceeds the limit"),
        ("#" * (8 << 20) + "\n", "pack.toml has more than 8388608 bytes"),
    ],
    ids=["long key", "long number", "long file"],
)
def test_manifest_that_would_take_long_to_read_is_refused(pack: Path, more: str, said: str) -> None:
    rewrite(pack, lambda text: more + text, name="pack.toml")
    assert said in refused(pack)


def test_manifest_that_is_no_text_is_refused(pack: Path) -> None:
    (pack / "pack.toml").write_bytes(b"\xff\xfe")
    assert "pack.toml is not valid TOML" in refused(pack)


# --- how it comes to be


def small(folder: Path, out: str = "pack", **options: Any) -> PackInfo:
    return build_pack(["synthetic:2"], folder / out, 1, **options)


def test_pack_is_replaced_only_with_force(tmp_path: Path) -> None:
    first = small(tmp_path)
    with pytest.raises(UsageError, match=r"exists; give --force to replace it"):
        small(tmp_path)
    assert check_pack(first.path) == first
    second = build_pack(["synthetic:2:9"], tmp_path / "pack", 2, force=True)
    assert check_pack(tmp_path / "pack") == second
    assert contents(tmp_path) == {"pack"}


def test_pack_can_be_made_smaller_in_place(tmp_path: Path) -> None:
    build_pack(["synthetic:4"], tmp_path / "pack", 3)
    info = build_pack([tmp_path / "pack"], tmp_path / "pack", 2, force=True)
    assert check_pack(tmp_path / "pack") == info
    assert info.sources[0]["kind"] == "pack"


def test_damaged_pack_can_be_replaced(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "pack" / "tiles.csv").unlink()
    (tmp_path / "pack" / "tiles" / "00000.png").write_bytes(b"")
    assert check_pack(small(tmp_path, force=True).path).count == 1


def occupy(path: Path, how: str) -> None:
    if how == "file":
        path.write_text("mine")
    elif how == "link":
        path.symlink_to(path.parent)
    elif how == "folder":
        save(path / "tiles" / "00000.png", tissue(1))
    elif how == "other manifest":
        path.mkdir()
        (path / "pack.toml").write_text('[project]\nname = "mine"\n')
    elif how == "pack with more":
        small(path.parent, path.name)
        (path / "notes.txt").write_text("mine")


@pytest.mark.parametrize("how", ["file", "link", "folder", "other manifest", "pack with more"])
def test_nothing_else_is_ever_replaced(tmp_path: Path, how: str) -> None:
    occupy(tmp_path / "pack", how)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="pack"):
        small(tmp_path, force=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    assert check_pack(small(tmp_path).path).count == 1
    assert check_pack(small(tmp_path / "a" / "b").path).count == 1


@pytest.mark.parametrize("out", ["", ".", "..", "a/.."])
def test_name_that_names_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no name for a new pack"):
        build_pack(["synthetic:2"], out, 1)


def test_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"^cannot write .*Not a directory|^cannot write .*File exists"):
        small(tmp_path / "file")


BUILD = """
import os, signal, sys, time
from edgepath.tiles.packs import build_pack

how, out = sys.argv[1:]
rename, renames = os.rename, []
def rename_and_die(*names):
    rename(*names)
    renames.append(names)
    if how == f"after rename {len(renames)}":
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename_and_die

def progress(stage, done, total):
    if done == total and how == "in the middle":
        print("writing", flush=True)
        time.sleep(600)

build_pack(["synthetic:2:1"], out, 2, force=True, progress=progress)
"""


def start(how: str, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", BUILD, how, str(out)], stdout=subprocess.PIPE, text=True)
    if how == "in the middle":
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
    return process


def test_killed_build_leaves_no_half_pack_and_the_next_one_works(tmp_path: Path) -> None:
    process = start("in the middle", tmp_path / "pack")
    process.kill()
    process.communicate()
    assert all(name.startswith(".pack.") for name in contents(tmp_path))
    assert "no such folder" in refused(tmp_path / "pack")
    assert check_pack(small(tmp_path).path).count == 1
    assert contents(tmp_path) == {"pack"}


def test_terminated_build_cleans_up(tmp_path: Path) -> None:
    process = start("in the middle", tmp_path / "pack")
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert contents(tmp_path) == set()


@pytest.mark.parametrize(("when", "count"), [(1, 1), (2, 2)], ids=["old set aside", "new in place"])
def test_killed_between_the_renames(tmp_path: Path, when: int, count: int) -> None:
    small(tmp_path)
    process = start(f"after rename {when}", tmp_path / "pack")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(UsageError, match="exists; give --force"):  # found again, and put back where it was
        small(tmp_path)
    assert check_pack(tmp_path / "pack").count == count
    small(tmp_path, force=True)
    assert contents(tmp_path) == {"pack"}


def test_old_pack_is_put_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = small(tmp_path)
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if source.name.startswith("new-"):
            raise OSError(5, "Input/output error", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(PackError, match=r"cannot be written \(Input/output error: .*pack\)"):
        small(tmp_path, force=True)
    assert contents(tmp_path) == {"pack"}
    assert check_pack(tmp_path / "pack") == old


def test_partial_pack_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    process = start("in the middle", tmp_path / "pack")
    try:
        small(tmp_path)
        assert sorted(name[:5] for name in contents(tmp_path)) == [".pack", "pack"]
    finally:
        process.kill()
        process.communicate()


def test_terminated_command_cleans_up(lab: Path, tmp_path: Path) -> None:
    command = "import sys; from edgepath.cli import main; sys.argv[0] = 'edgepath'; main()"
    arguments = ["pack", "build", "synthetic:5000", "--out", str(tmp_path / "pack"), "-n", "4000"]
    process = subprocess.Popen([sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE)
    while not contents(tmp_path) and process.poll() is None:
        signal.sigtimedwait([], 0.01)
    assert all(name.startswith(".pack.") for name in contents(tmp_path))
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert contents(tmp_path) == set()


def test_interrupt_cleans_up(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small(tmp_path, progress=interrupt)
    assert contents(tmp_path) == set()


def test_full_disk_is_one_line_and_keeps_the_old_pack(small_disk: Path) -> None:
    old = small(small_disk)
    with pytest.raises(PackError, match=r"^disk full while writing .*pack: need more than .* are free.*elsewhere$"):
        build_pack(["synthetic:12"], small_disk / "pack", 10, force=True)
    assert contents(small_disk) == {"pack"}
    assert check_pack(small_disk / "pack") == old


def test_file_size_limit_is_one_line_too(tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, limits[1]))
        with pytest.raises(PackError, match="disk full"):
            small(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == set()


# --- the commands


def cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = "import sys; from edgepath.cli import main; sys.argv[0] = 'edgepath'; main()"
    return subprocess.run([sys.executable, "-c", command, *map(str, arguments)], capture_output=True, text=True)


def test_commands_build_and_check(lab: Path, built: PackInfo, tmp_path: Path) -> None:
    done = cli("pack", "build", lab, "--out", tmp_path / "built", "-n", "10", "--seed", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == built.to_json() | {"path": str(tmp_path / "built")}
    checked = cli("pack", "check", tmp_path / "built")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == f"{tmp_path / 'built'}: 10 tiles, seed 3, sha256 {built.sha256[:16]}\n"
    (tmp_path / "built" / "tiles" / "00001.png").unlink()
    failed = cli("pack", "check", tmp_path / "built")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("edgepath: pack ")
    assert failed.stderr.count("\n") == 1


def test_public_names_are_those_of_the_package() -> None:
    assert edgepath.build_pack is build_pack
    assert edgepath.check_pack is check_pack
    assert issubclass(PackError, EdgepathError)


def test_skip_bad_leaves_out_and_lists(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / "slide" / f"{i}.png", tissue(i))
    (tmp_path / "slide" / "torn.png").write_bytes((tmp_path / "slide" / "0.png").read_bytes()[:200])
    with pytest.raises(TileError, match=r"torn\.png"):
        build_pack(tmp_path / "slide", tmp_path / "pack", 4)
    info = build_pack(tmp_path / "slide", tmp_path / "pack", 4, skip_bad=True)
    (listed,) = info.sources[0]["skipped"]
    assert listed.startswith("torn.png: ")
    assert str(tmp_path) not in listed
    assert check_pack(tmp_path / "pack") == info
