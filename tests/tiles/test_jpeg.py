"""JPEGs give Pillow's pixels to the bit, or are refused: cut off, overwritten or zeroed ones that Pillow fills in."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgepath.errors import TileError
from edgepath.tiles.images import read_image
from edgepath.tiles.jpeg import ZEROS, decode_jpeg
from edgepath.tiles.synthetic import synthesize

TILES = synthesize(4, seed=3)
KINDS: dict[str, dict[str, Any]] = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "optimised": {"optimize": True},
    "RGB": {"keep_rgb": True},
}
EACH = pytest.mark.parametrize("kind", KINDS)


def jpeg(pixels: np.ndarray, quality: int = 85, **how: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, **how)
    return file.getvalue()


def of_pillow(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


def scan_of(data: bytes) -> range:
    """The places of a picture's codes, but for the last ones."""
    return range(data.index(b"\xff\xda") + 14, len(data) - 2)


def refused(data: bytes, folder: Path) -> str:
    (folder / "a.jpg").write_bytes(data)
    with pytest.raises(TileError) as caught:
        read_image(folder / "a.jpg")
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- whole ones


@EACH
@pytest.mark.parametrize("quality", [20, 85, 100])
def test_pixels_are_pillows(kind: str, quality: int) -> None:
    for tile in TILES:
        for part in (tile, tile[:17, :9], tile[:100, :33], tile[:1, :1]):
            data = jpeg(part, quality, **KINDS[kind])
            np.testing.assert_array_equal(decode_jpeg(data), of_pillow(data))


def test_pixels_of_real_tiles_are_pillows(real_tiles: Path) -> None:
    found = sorted(real_tiles.rglob("*.png"))[::16]
    assert len(found) >= 40
    for path in found:
        for how in KINDS.values():
            data = jpeg(np.array(Image.open(path).convert("RGB")), **how)
            np.testing.assert_array_equal(decode_jpeg(data), of_pillow(data))


PLAIN: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "white": lambda y, x: 255 + 0 * x,
    "black": lambda y, x: 0 * x,
    "rising": lambda y, x: x * 255 // 223,
    "falling": lambda y, x: 255 - y,
    "slanted": lambda y, x: (x + y) // 2,
    "stripes": lambda y, x: x % 2 * 255,
    "halves": lambda y, x: (x > 112) * 255,
    "dot on white": lambda y, x: 255 - ((abs(x - 100) < 20) & (abs(y - 50) < 9)) * (x * y % 255),
}


@EACH
@pytest.mark.parametrize("picture", PLAIN)
def test_plain_pictures_whose_codes_are_nearly_all_zeros_are_read(kind: str, picture: str) -> None:
    y, x = np.mgrid[:224, :224]
    levels = PLAIN[picture](y, x).astype(np.uint8)
    for pixels in (np.stack([levels] * 3, 2), np.stack([levels, 255 - levels, levels // 2], 2)):
        for quality in (10, 50, 95):
            data = jpeg(pixels, quality, **KINDS[kind])
            np.testing.assert_array_equal(decode_jpeg(data), of_pillow(data))


def test_zeros_are_usual_in_optimised_codes_of_flat_ground() -> None:
    data = jpeg(np.full((1024, 1024, 3), 255, np.uint8), optimize=True)
    assert ZEROS in data[scan_of(data).start :]  # or the test above would try nothing
    decode_jpeg(data)


def test_what_follows_or_precedes_the_picture_does_not_matter(tmp_path: Path) -> None:
    data = jpeg(TILES[0])
    profile = jpeg(TILES[0], icc_profile=bytes(5000), exif=b"Exif\0\0II*\0\x08\0\0\0\0\0" + bytes(300))
    for whole in (data + bytes(5000), data + b"\r\n", data + jpeg(TILES[1]), profile):
        (tmp_path / "a.jpg").write_bytes(whole)
        np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), of_pillow(data))


# --- damaged ones


@EACH
def test_picture_that_is_cut_and_closed_is_refused(kind: str, tmp_path: Path) -> None:
    data = jpeg(TILES[0], **KINDS[kind])
    places = scan_of(data)
    for place in places[:: len(places) // 25]:
        assert "cannot be read" in refused(data[:place] + b"\xff\xd9", tmp_path)
        refused(data[:place], tmp_path)


@EACH
def test_zeros_in_the_middle_are_refused(kind: str, tmp_path: Path) -> None:
    shuffled = random.Random(0)
    for tile in TILES:
        data = jpeg(tile, **KINDS[kind])
        places = scan_of(data)
        for length in (64, 512, 4096):
            for _ in range(8):
                start = shuffled.choice(places[: -length - 1])
                spoilt = data[:start] + bytes(length) + data[start + length :]
                if kind != "progressive" or length == 4096:  # its scans of means and of last bits may be zeros
                    refused(spoilt, tmp_path)


@EACH
def test_noise_in_the_middle_is_refused(kind: str, tmp_path: Path) -> None:
    shuffled = random.Random(1)
    for tile in TILES:
        data = jpeg(tile, **KINDS[kind])
        places = scan_of(data)
        for _ in range(10):
            start = shuffled.choice(places[:-1025])
            refused(data[:start] + shuffled.randbytes(1024) + data[start + 1024 :], tmp_path)


def test_bytes_before_the_end_that_are_no_picture_are_refused(tmp_path: Path) -> None:
    data = jpeg(TILES[0])
    assert "extraneous bytes" in refused(data[:-2] + bytes(20) + b"\xff\xd9", tmp_path)


@pytest.mark.parametrize("how", [{}, {"subsampling": 0}, {"optimize": True}], ids=str)
def test_progressive_picture_without_its_last_scans_is_refused(how: dict[str, Any], tmp_path: Path) -> None:
    data = jpeg(TILES[0], progressive=True, **how)
    scans = [match.start() for match in re.finditer(rb"\xff\xda", data)]
    tables = [match.start() for match in re.finditer(rb"\xff\xc4", data)]  # one goes before each scan
    assert len(scans) > 5
    for cut in (*scans[1:], *(place for place in tables if place > scans[0])):
        closed = data[:cut] + b"\xff\xd9"
        assert of_pillow(closed).shape == TILES[0].shape  # with other pixels, and not a word
        assert "scans are missing" in refused(closed, tmp_path)


def test_steps_of_zero_are_refused(tmp_path: Path) -> None:
    data = jpeg(TILES[0])
    table = data.index(b"\xff\xdb") + 5
    assert "steps with zeros" in refused(data[: table + 9] + b"\0" + data[table + 10 :], tmp_path)
    assert "steps with zeros" in refused(data[:table] + bytes(64) + data[table + 64 :], tmp_path)


def test_restarts_out_of_order_are_refused(tmp_path: Path) -> None:
    data = jpeg(TILES[0], restart_marker_blocks=3)
    assert data.count(b"\xff\xd2")
    refused(data.replace(b"\xff\xd2", b"\xff\xd5", 1), tmp_path)


@pytest.mark.parametrize("name", ["trunc_eoi.jpg", "hole.jpg", "zeroed_mid.jpg"])
def test_known_damaged_files_are_refused(real_inputs: Path, name: str) -> None:
    with pytest.raises(TileError, match="cannot be read"):
        read_image(real_inputs / name)
