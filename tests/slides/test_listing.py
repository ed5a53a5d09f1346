"""Which slides are meant, and what they are called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from edgepath.errors import SlideError, UsageError
from edgepath.slides.listing import Entry, list_slides, shard


def test_a_folder_is_searched_and_ids_keep_folders_apart(slides: Path) -> None:
    (slides / ".hidden.tif").touch()
    found = list_slides([slides])
    assert [entry.id for entry in found] == ["a", "deeper__b"]
    assert [entry.path for entry in found] == [slides / "a.tif", slides / "deeper" / "b.tif"]
    assert list_slides([slides / "a.tif"]) == [Entry("a", slides / "a.tif")]


@pytest.mark.parametrize(
    "text",
    [
        "slide,id,mpp\na.tif,one,0.25\ndeeper/b.tif,two,\n",
        "\ufeffslide;id;mpp\na.tif;one;0,25\ndeeper/b.tif;two;\n",
        "ID\tSlide\tmpp\none\ta.tif\t0.25\ntwo\tdeeper/b.tif\t\n",
    ],
)
def test_manifests_of_several_programs_are_read(slides: Path, text: str) -> None:
    (slides / "manifest.csv").write_text(text, encoding="utf-8")
    found = list_slides([slides / "manifest.csv"])
    assert [(entry.id, entry.path.name, entry.mpp) for entry in found] == [
        ("one", "a.tif", 0.25),
        ("two", "b.tif", None),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,mpp\na.tif,1\n", "columns file, mpp; slide is needed"),
        ("slide\nmissing.tif\n", r"line 2: slide 'missing.tif' is not there"),
        ("slide,mask\na.tif,mask.png\n", r"line 2: mask 'mask.png' is not there"),
        ("slide,mpp\na.tif,half\n", "line 2: mpp 'half'; give um per pixel"),
        ("slide,id\na.tif,../../etc\n", r"line 2: id '../../etc' names files"),
        ("slide,id\na.tif,x,y\n", "line 2: has more values than there are columns"),
        ("slide,id\na.tif,x\ndeeper/b.tif,x\n", "have one id, x; give ids"),
        ("", "columns none; slide is needed"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_one_line(slides: Path, text: str, said: str) -> None:
    (slides / "manifest.csv").write_text(text, encoding="utf-8")
    with pytest.raises(SlideError, match=said) as raised:
        list_slides([slides / "manifest.csv"])
    assert "\n" not in str(raised.value)


def test_a_folder_of_tiles_is_no_folder_of_slides(tmp_path: Path) -> None:
    Image.new("RGB", (224, 224)).save(tmp_path / "tile.png")
    with pytest.raises(SlideError, match="no whole slides; tiles are for `edgepath embed`"):
        list_slides([tmp_path])
    with pytest.raises(SlideError, match="no such file or folder"):
        list_slides([tmp_path / "none"])


def test_shards_are_all_slides_once_and_do_not_depend_on_others() -> None:
    entries = [Entry(f"slide-{i}", Path(f"{i}.svs")) for i in range(200)]
    parts = [shard(entries, f"{i}/7") for i in range(1, 8)]
    assert sorted(entry.id for part in parts for entry in part) == sorted(entry.id for entry in entries)
    assert min(map(len, parts)) > 10
    assert shard(entries[50:], "3/7") == [entry for entry in parts[2] if entry in entries[50:]]


@pytest.mark.parametrize("part", ["0/4", "5/4", "x", "1/0", "-1/4"])
def test_a_part_that_is_none_is_refused(part: str) -> None:
    with pytest.raises(UsageError, match="give I/N, I from 1 to N"):
        shard([], part)


def test_damaged_slides_of_a_folder_are_not_passed_over(
    slides: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(slides / "a.tif", tmp_path / "a.tif")
    for name in ("b.svs", "c.ndpi", "d.tif", "e.png"):
        (tmp_path / name).write_bytes(b"cut off")
    assert [entry.id for entry in list_slides([tmp_path])] == ["a", "b", "c"]
    assert "TIFF files that are no slides are left out: 1 (d.tif)" in caplog.text
