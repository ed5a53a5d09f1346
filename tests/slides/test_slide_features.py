"""A slide's features are those of its tiles, whole, resumed by content, in the files that other tools read."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgepath.bundle.bundle import open_bundle
from edgepath.bundle.embedding import embed
from edgepath.errors import BundleError, UsageError
from edgepath.exporting import Exported
from edgepath.reports.slide_map import Pictures
from edgepath.slides.against import FullPrecision
from edgepath.slides.checking import check_slides
from edgepath.slides.embedding import Job
from edgepath.slides.layouts import LAYOUTS
from edgepath.slides.listing import Entry, list_slides, shard
from edgepath.slides.many import embed_slides
from edgepath.slides.streaming import _give_way
from edgepath.tiles.slides.cutting import CutSettings, cut
from edgepath.tiles.slides.reader import SlideReader, open_slide

FOLDER = "20x_224px_0px_overlap/features_tiny-openvino-int8"


@pytest.fixture
def job(exports: Callable[[str], Exported], tmp_path: Path) -> Job:
    return Job(exports("openvino-int8").bundle, tmp_path / "out", CutSettings())


def states(result: Any) -> dict[str, str]:
    return {row["id"]: row["state"] for row in result["slides"]}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.h5"))}


def test_features_are_those_of_the_tiles_as_png(job: Job, slides: Path, tmp_path: Path) -> None:
    import h5py

    assert states(embed_slides(job, list_slides([slides]))) == {"a": "done", "deeper__b": "done"}
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    with cut(slides / "a.tif", job.settings) as slide:
        for index in range(len(slide)):
            Image.fromarray(slide.tile(index)).save(tiles / f"{index:05d}.png")
        coords = slide.coords
    embed(job.bundle, tiles, out=tmp_path / "tiles.npz", batch=job.batch)
    with h5py.File(job.out / FOLDER / "a.h5") as file, np.load(tmp_path / "tiles.npz") as wanted:
        assert np.array_equal(file["features"][:], wanted["embeddings"])
        assert np.array_equal(file["coords"][:], coords)
        assert file["features"].dtype == np.float32
        assert file["coords"].dtype == np.int64
        assert file["coords"].attrs["patch_size_level0"] == 224
        assert file["coords"].attrs["target_magnification"] == 20


def test_a_second_run_keeps_what_is_whole_and_makes_the_rest_again(job: Job, slides: Path) -> None:
    entries = list_slides([slides])
    embed_slides(job, entries)
    before = files(job.out)
    assert set(states(embed_slides(job, entries)).values()) == {"kept"}
    cut_off = job.out / FOLDER / "a.h5"
    cut_off.write_bytes(cut_off.read_bytes()[:-100])
    (job.out / FOLDER / "deeper__b.h5").unlink()
    assert states(check_slides(job.out)) == {"a": "failed", "deeper__b": "failed"}
    assert set(states(embed_slides(job, entries)).values()) == {"done"}
    assert files(job.out) == before
    assert set(states(check_slides(job.out)).values()) == {"done"}


def test_pictures_and_comparisons_are_gone_on_with_too(job: Job, slides: Path) -> None:
    entries, drawn = list_slides([slides]), Pictures(job.bundle.name, job.out / "pictures")
    embed_slides(job, entries)
    assert set(states(embed_slides(job, entries, finish=drawn)).values()) == {"done"}
    again = embed_slides(job, entries, finish=drawn)
    assert set(states(again).values()) == {"kept"}
    assert [row["picture"] for row in again["slides"]] == ["pictures/a.png", "pictures/deeper__b.png"]
    assert set(states(embed_slides(job, entries)).values()) == {"kept"}
    (job.out / "pictures/a.png").unlink()
    assert states(embed_slides(job, entries, finish=drawn)) == {"a": "done", "deeper__b": "kept"}
    assert (job.out / "pictures/a.png").is_file()
    checked = check_slides(job.out)["slides"]
    assert [row["mpp"] for row in checked] == [0.5, 0.5]


def test_another_slide_of_the_same_name_is_made_again(job: Job, slides: Path) -> None:
    embed_slides(job, [Entry("x", slides / "a.tif")])
    assert states(embed_slides(job, [Entry("x", slides / "deeper" / "b.tif")])) == {"x": "done"}
    assert states(embed_slides(job, [Entry("x", slides / "deeper" / "b.tif", mpp=0.25)])) == {"x": "done"}


def test_a_folder_of_another_job_is_refused(job: Job, slides: Path) -> None:
    entries = list_slides([slides / "a.tif"])
    embed_slides(job, entries)
    with pytest.raises(UsageError, match=r"holds features of another job \(settings differ\); give another --out"):
        embed_slides(replace(job, settings=CutSettings(mpp=0.6)), entries)


def test_shards_joined_are_one_run_byte_for_byte(job: Job, slides: Path, tmp_path: Path) -> None:
    entries = list_slides([slides])
    embed_slides(job, entries)
    joined = replace(job, out=tmp_path / "joined")
    for part in ("1/2", "2/2"):
        embed_slides(joined, shard(entries, part))
    assert files(joined.out) == files(job.out)


def test_a_corrupt_tile_costs_itself(job: Job, broken: Path) -> None:
    lenient = replace(job, bad_tiles=0.9)
    (row,) = embed_slides(lenient, [Entry("broken", broken)])["slides"]
    assert row["state"] == "partial"
    assert row["bad"] > 0
    assert row["tiles"] > 0
    (row,) = embed_slides(replace(job, out=job.out / "strict"), [Entry("broken", broken)])["slides"]
    assert row["state"] == "failed"
    assert "tiles cannot be decoded, 1.0% may be" in row["message"]
    assert not files(job.out / "strict")


def test_glass_is_a_state_of_its_own(job: Job, tmp_path: Path) -> None:
    from edgepath.tiles.slides.synthetic import write_synthetic_slide

    glass = write_synthetic_slide(tmp_path / "glass.tif", width=1024, height=1024, pieces=0)
    (row,) = embed_slides(job, [Entry("glass", glass)])["slides"]
    assert (row["state"], row["tiles"]) == ("no tissue", 0)
    assert states(embed_slides(job, [Entry("glass", glass)])) == {"glass": "kept"}


def test_what_is_no_slide_fails_alone_and_is_said(job: Job, slides: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.svs"
    text.write_text("no slide")
    found = embed_slides(job, [Entry("text", text), Entry("a", slides / "a.tif")])
    assert states(found) == {"a": "done", "text": "failed"}
    assert "cannot be opened as a whole slide" in next(row["message"] for row in found["slides"] if row["id"] == "text")
    assert states(check_slides(job.out, [Entry("later", tmp_path)])) == {
        "a": "done",
        "later": "failed",
        "text": "failed",
    }


@pytest.mark.parametrize("layout", ["trident", "clam", "stamp", "parquet", "anndata"])
def test_every_layout_holds_the_same_numbers(job: Job, slides: Path, layout: str) -> None:
    embed_slides(replace(job, layout=layout), list_slides([slides / "a.tif"]))
    embed_slides(replace(job, out=job.out / "plain"), list_slides([slides / "a.tif"]))
    import h5py

    with h5py.File(job.out / "plain" / FOLDER / "a.h5") as file:
        features, coords = file["features"][:], file["coords"][:]
    found, places = read_layout(job.out, layout)
    assert np.allclose(found, features.astype(found.dtype))
    assert np.allclose(places, coords * (0.5 if layout == "stamp" else 1))


def read_layout(out: Path, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Read a file with the library that its own tool reads it with."""
    import h5py

    if layout == "parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(out / "a.parquet").to_pydict()
        return np.array(table["features"], np.float32), np.stack([table["x"], table["y"]], 1)
    if layout == "anndata":
        import anndata

        table = anndata.read_h5ad(out / "a.h5ad")
        return np.asarray(table.X), table.obsm["spatial"]
    if layout == "stamp":
        with h5py.File(out / "a.h5") as file:
            assert file.attrs["unit"] == "um"
            assert file.attrs["tile_size_um"] == 112
            assert file["feats"].dtype == np.float16
            return file["feats"][:], file["coords"][:]
    if layout == "clam":
        import torch

        with h5py.File(out / "h5_files" / "a.h5") as file:
            assert file["coords"].dtype == np.int32
            assert np.array_equal(torch.load(out / "pt_files" / "a.pt").numpy(), file["features"][:])
            return file["features"][:], file["coords"][:]
    with h5py.File(out / FOLDER / "a.h5") as file:
        return file["features"][:], file["coords"][:]


def test_geojson_has_tissue_with_its_holes_and_every_tile(job: Job, slides: Path) -> None:
    (row,) = embed_slides(replace(job, geojson=True), list_slides([slides / "a.tif"]))["slides"]
    found = json.loads((job.out / "geojson" / "a.geojson").read_text())["features"]
    kinds = [one["properties"]["objectType"] for one in found]
    assert kinds.count("detection") == row["tiles"]
    assert kinds.count("annotation") >= 1
    for one in found:
        for ring in one["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]


def test_nothing_names_the_machine(job: Job, slides: Path) -> None:
    embed_slides(job, list_slides([slides]))
    for path in job.out.rglob("*"):
        if path.is_file():
            assert str(slides).encode() not in path.read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_full_disk_ends_in_one_line_and_the_same_call_goes_on(
    job: Job, slides: Path, small_disk: Path, tmp_path: Path, layout: str
) -> None:
    entries, out = list_slides([slides]), small_disk / "out"
    wanted = replace(job, layout=layout)
    embed_slides(wanted, entries)
    job = replace(job, layout=layout, out=out)
    embed_slides(job, entries[:1])
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with open(small_disk / "ballast", "wb") as ballast:  # all but a page for the next record's folder
        ballast.write(bytes(shutil.disk_usage(small_disk).free - (1 << 12)))
    with pytest.raises(UsageError) as caught:
        embed_slides(job, entries)
    assert str(caught.value).startswith(f"slides: the disk is full ({out}, slide deeper__b); ")
    assert str(caught.value).endswith("free some, and run the same command again: finished slides are kept")
    assert "\n" not in str(caught.value)
    assert kept == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (small_disk / "ballast").unlink()
    assert states(embed_slides(job, entries)) == {"a": "kept", "deeper__b": "done"}
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file() and "slides" not in path.parts]
    assert len(names) >= 2
    for name in names:
        assert (out / name).read_bytes() == (wanted.out / name).read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_disk_that_fills_while_a_file_is_written_ends_in_one_line(job: Job, slides: Path, layout: str) -> None:
    job, limits = replace(job, layout=layout), resource.getrlimit(resource.RLIMIT_FSIZE)
    entries = list_slides([slides])
    embed_slides(job, entries[:1])
    before = {path for path in job.out.rglob("*") if path.is_file()}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 11, limits[1]))
        with pytest.raises(UsageError, match=r"^slides: the disk is full .*: finished slides are kept$"):
            embed_slides(job, entries)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path for path in job.out.rglob("*") if path.is_file()} == before


@pytest.fixture
def open_count(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many of the slides that a job opened are open. Their files say nothing: OpenSlide closes those at rest."""
    readers: list[SlideReader] = []

    def opened(path: Path) -> SlideReader:
        readers.append(open_slide(path))
        return readers[-1]

    monkeypatch.setattr("edgepath.slides.preparing.open_slide", opened)
    return lambda: sum(not reader._closed for reader in readers)


def test_no_more_than_two_slides_are_open_and_none_afterwards(
    job: Job, slides: Path, tmp_path: Path, open_count: Callable[[], int]
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(5):
        shutil.copy(slides / "a.tif", folder / f"{number}.tif")
    counts: list[int] = []
    embed_slides(job, list_slides([folder]), progress=lambda *_: counts.append(open_count()))
    assert 1 <= max(counts) <= 2  # the one at hand, and the next
    assert open_count() == 0

    def stop_in_a_slide(stage: str, done: int, total: int) -> None:
        if stage == "tiles of a slide" and done:
            raise KeyboardInterrupt

    def stop_between_slides(stage: str, done: int, total: int) -> None:
        if stage == "slides" and done == 2:
            raise BrokenPipeError

    for stop, error in ((stop_in_a_slide, KeyboardInterrupt), (stop_between_slides, BrokenPipeError)):
        other = replace(job, out=tmp_path / stop.__name__)
        with pytest.raises(error):
            embed_slides(other, list_slides([folder]), progress=stop)
        assert open_count() == 0
        assert set(states(embed_slides(other, list_slides([folder]))).values()) <= {"done", "kept"}


def test_a_slide_that_is_no_slide_costs_no_other(job: Job, slides: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for name in ("a", "c", "e"):
        shutil.copy(slides / "a.tif", folder / f"{name}.tif")
    for name in ("b", "d"):
        (folder / f"{name}.svs").write_bytes(b"no slide")
    rows = embed_slides(job, list_slides([folder]))["slides"]
    assert {row["id"]: row["state"] for row in rows} == dict(
        zip("abcde", ["done", "failed"] * 2 + ["done"], strict=True)
    )
    assert all(f"{row['id']}.svs" in row["message"] for row in rows if row["state"] == "failed")


def test_an_interrupt_ends_a_job_whose_slides_are_kept(job: Job, slides: Path) -> None:
    entries = list_slides([slides])
    embed_slides(job, entries)
    with pytest.raises(KeyboardInterrupt):
        embed_slides(job, entries, progress=lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert set(states(embed_slides(job, entries)).values()) == {"kept"}


def test_a_failed_slide_says_how_long_it_took(job: Job, slides: Path, tmp_path: Path) -> None:
    (tmp_path / "no.svs").write_bytes(b"no slide")
    (slide_row,) = embed_slides(job, list_slides([tmp_path / "no.svs"]))["slides"]
    assert slide_row["state"] == "failed"
    prepared = job.prepare(Entry("no", tmp_path / "no.svs"), "key")
    assert prepared.error is not None
    assert prepared.seconds > 0


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux only")
def test_reading_gives_way_and_never_gains_priority() -> None:
    def priority(before: int) -> int:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), before)
        _give_way()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    with ThreadPoolExecutor(1) as pool:
        lower = max(15, os.getpriority(os.PRIO_PROCESS, 0))
        assert pool.submit(priority, lower).result() == lower
    if os.getpriority(os.PRIO_PROCESS, 0) <= 10:
        with ThreadPoolExecutor(1, initializer=_give_way) as pool:
            assert pool.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result() == 10


def test_the_full_precision_model_is_of_the_bundle_that_was_opened(job: Job, slides: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(job.bundle.path, tmp_path / job.bundle.path.name)
    exact = FullPrecision(open_bundle(folder))
    with open(folder / "bundle.json", "a", encoding="utf-8") as file:
        file.write("\n")
    with cut(slides / "a.tif", job.settings) as slide, pytest.raises(BundleError, match="another bundle"):
        exact(slide, np.array([0]))
