"""Every layout of a TIFF gives the pixels that tifffile, another reader, gives; or it is refused in one line."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from edgepath.errors import TileError
from edgepath.tiles.images import read_image

SIDE = 36  # no multiple of a tile or a strip


def read(data: bytes, folder: Path) -> np.ndarray:
    (folder / "a.tif").write_bytes(data)
    return read_image(folder / "a.tif", SIDE)


def refused(data: bytes, folder: Path) -> str:
    with pytest.raises(TileError) as caught:
        read(data, folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'a.tif'}: ")
    assert "\n" not in message
    return message


def samples(count: int, dtype: type) -> np.ndarray:
    """Smooth enough for JPEG to be near, uneven enough that no plane, strip or byte is like another."""
    y, x = np.mgrid[:SIDE, :SIDE]
    waves = [128 + 60 * np.sin(x / (5 + i) + i) + 50 * np.cos(y / (7 - i)) for i in range(count)]
    levels = np.stack(waves, 2).clip(0, 255).astype(np.uint8)
    if dtype is np.uint8:
        return levels
    low = np.random.default_rng(0).integers(0, 256, levels.shape, dtype=np.uint16)
    return (levels.astype(np.uint16) << 8) | low


def written(array: np.ndarray, **how: Any) -> bytes:
    file = io.BytesIO()
    big, order = how.pop("big", False), how.pop("order", "<")
    separate = how.get("planarconfig") == "separate"
    with tifffile.TiffWriter(file, bigtiff=big, byteorder=order) as writer:
        writer.write(np.moveaxis(array, 2, 0) if separate else array, photometric=how.pop("photometric", "rgb"), **how)
    return file.getvalue()


def over_white(pixels: np.ndarray, kind: str | None) -> np.ndarray:
    """Return the RGB that samples mean: uint8 (N, N, C) with a fourth of the kind tifffile calls so."""
    colours = pixels[..., :3].astype(float)
    if kind not in ("unassalpha", "assocalpha"):
        return colours
    alpha = pixels[..., 3:] / 255
    return np.minimum((colours * alpha if kind == "unassalpha" else colours) + 255 * (1 - alpha), 255)


LAYOUTS = ({"rowsperstrip": 7}, {"tile": (16, 16)})
EXTRAS = (None, "unassalpha", "assocalpha", "unspecified")
LOSSLESS = (None, "lzw", "zlib", "deflate", "packbits", "zstd")
UNREAD = ("webp", "jpeg2000")


@pytest.mark.parametrize("compression", [*LOSSLESS, "jpeg", *UNREAD])
def test_layouts_are_read_right_or_refused(tmp_path: Path, compression: str | None) -> None:
    tried = read_right = 0
    choices = ("<>", (False, True), (np.uint8, np.uint16), ("contig", "separate"), EXTRAS, LAYOUTS, (False, True))
    for order, big, dtype, planar, extra, layout, predictor in itertools.product(*choices):
        array = samples(3 + (extra is not None), dtype)
        if extra == "assocalpha":
            array[..., :3] = np.minimum(array[..., :3], array[..., 3:])
        how: dict[str, Any] = {"order": order, "big": big, "planarconfig": planar, "predictor": predictor, **layout}
        how |= {"extrasamples": [extra]} if extra else {}
        try:
            data = written(array, compression=compression, **how)
        except (ValueError, RuntimeError, NotImplementedError):  # not every codec takes every array
            continue
        tried += 1
        wide = dtype is np.uint16
        unread = (order == ">" and big) or compression in UNREAD or (compression == "jpeg" and wide)
        unread |= predictor and compression == "packbits"
        unread |= planar == "separate" and compression is None and (wide or extra is not None)
        if unread:
            refused(data, tmp_path)
            continue
        stored = tifffile.imread(io.BytesIO(data))
        stored = np.moveaxis(stored, 0, 2) if planar == "separate" else stored
        if compression != "jpeg":
            np.testing.assert_array_equal(stored, array)
        wanted = over_white(stored >> 8 if wide else stored, extra)
        # Alpha is blended in integers, and taken off before where it was multiplied in: up to a level each.
        levels = {None: 0, "unspecified": 0, "unassalpha": 1, "assocalpha": 2}[extra]
        np.testing.assert_allclose(read(data, tmp_path), wanted, atol=levels, rtol=0, err_msg=str(how))
        read_right += 1
    assert tried >= 24
    assert (read_right > 0) == (compression not in UNREAD)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("layout", [{"tile": (32, 32)}, {"tile": (64, 64)}, {"rowsperstrip": 16}], ids=str)
def test_jpeg_with_less_colour_is_read_as_tifffile_does(
    tmp_path: Path, subsampling: tuple[int, int], layout: dict[str, Any]
) -> None:
    data = written(samples(3, np.uint8), photometric="ycbcr", compression="jpeg", subsampling=subsampling, **layout)
    np.testing.assert_array_equal(read(data, tmp_path), tifffile.imread(io.BytesIO(data)))


# --- layouts that no writer here makes


def by_hand(tags: dict[int, Any], data: bytes) -> bytes:
    """A little-endian TIFF of one strip: tags over the usual ones of RGB (None: without it), then the strip."""
    usual = {256: SIDE, 257: SIDE, 258: (8, 8, 8), 259: 1, 262: 2, 273: 8, 277: 3, 278: SIDE, 279: len(data)}
    entries, far, place = [], b"", 8 + len(data)
    every = {tag: value for tag, value in sorted((usual | tags).items()) if value is not None}
    behind = place + 2 + 12 * len(every) + 4
    for tag, value in every.items():
        values = value if isinstance(value, tuple) else (value,)
        kind = "I" if tag in (256, 257, 273, 278, 279) else "H"
        packed = struct.pack(f"<{len(values)}{kind}", *values)
        if len(packed) > 4:
            far, packed = far + packed, struct.pack("<I", behind + len(far))
        entries.append(struct.pack("<HHI", tag, 4 if kind == "I" else 3, len(values)) + packed.ljust(4, b"\0"))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", place) + data + directory + far


PIXELS = samples(3, np.uint8)
RAW = PIXELS.tobytes()


def test_file_by_hand_is_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(by_hand({}, RAW), tmp_path), PIXELS)


@pytest.mark.parametrize(
    ("tags", "data", "said"),
    [
        ({259: 6}, RAW, "TIFF compression 6; save it as PNG"),
        ({259: 34712}, RAW, ""),
        ({259: 34925}, RAW, "TIFF compression 34925"),
        ({317: 2}, RAW, "TIFF predictor 2 with compression 1"),
        ({259: 5, 317: 3}, RAW, "TIFF predictor 3 with compression 5"),
        ({266: 2}, RAW, "TIFF samples of 8, 8, 8 bits"),
        ({258: (16, 16, 16), 284: 2}, 2 * RAW, "uncompressed TIFF with a plane for each"),
        ({258: (16, 16, 16), 339: (3, 3, 3)}, 2 * RAW, ""),
        ({258: (32, 32, 32)}, 4 * RAW, ""),
        ({258: (8, 8, 8, 8), 277: 4}, RAW + RAW, "TIFF with 4 samples a pixel, of which 0 are said to be no colour"),
        ({258: (8,) * 5, 277: 5, 338: (0, 0)}, RAW + RAW, "TIFF with 5 samples a pixel"),
        ({262: 6}, RAW, "TIFF with colours of a lower resolution"),
        ({262: 6, 530: (2, 1)}, RAW, "TIFF with colours of a lower resolution"),
        ({262: 5, 258: (8,) * 4, 277: 4}, RAW + RAW, "CMYK colours"),
        ({262: 3, 258: 4, 277: 1, 320: tuple(range(48))}, RAW, "TIFF samples of 4 bits"),
        # damage
        ({279: len(RAW) - 1}, RAW, "3887 bytes of 3888"),
        ({279: len(RAW) + 1000}, RAW, "a part of the image is not in the file"),
        ({279: 0}, RAW, "a part of the image is not in the file"),
        ({273: 0}, RAW, "a part of the image is not in the file"),
        ({273: 1 << 31}, RAW, "a part of the image is not in the file"),
        ({279: None}, RAW, "1 parts with 0 lengths"),
        ({273: None}, RAW, "unknown data organization"),
        ({278: 9}, RAW, "1 parts with 1 lengths, 4 make the image"),
        ({273: (8, 8), 279: (len(RAW),) * 2}, RAW, "2 parts with 2 lengths, 1 make the image"),
        ({278: 0}, RAW, "parts of 36 x 0 pixels"),
    ],
)  # fmt: skip
def test_what_is_not_surely_right_is_refused(tmp_path: Path, tags: dict[int, Any], data: bytes, said: str) -> None:
    assert said in refused(by_hand(tags, data), tmp_path)


# --- damage


@pytest.mark.parametrize("compression", ["zlib", "deflate"])
def test_any_damage_to_what_has_a_checksum_is_seen(tmp_path: Path, compression: str) -> None:
    data = written(PIXELS, compression=compression, rowsperstrip=12)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        parts = list(zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True))
    for start, length in parts:
        for place in range(start, start + length, 11):
            spoilt = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
            try:
                tile = read(spoilt, tmp_path)
            except TileError:
                continue
            np.testing.assert_array_equal(tile, PIXELS)  # a byte that says nothing of the pixels, as the level


@pytest.mark.parametrize("compression", [*LOSSLESS, "jpeg"])
def test_file_that_is_cut_off_is_refused(tmp_path: Path, compression: str | None) -> None:
    data = written(PIXELS, compression=compression, rowsperstrip=12)
    for keep in range(8, len(data), 37):
        refused(data[:keep], tmp_path)


@pytest.mark.parametrize("layout", [{"rowsperstrip": SIDE}, {"tile": (48, 48)}], ids=str)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_jpegs_in_it_are_decoded_strictly(tmp_path: Path, layout: dict[str, Any], planar: str) -> None:
    random = np.random.default_rng(0).integers(0, 256, PIXELS.shape, dtype=np.uint8)
    data = written(random, compression="jpeg", planarconfig=planar, **layout)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start, length = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]
    read(data, tmp_path)
    middle, end = start + length // 2, start + length
    cut = data[:middle] + b"\xff\xd9" + bytes(end - middle - 2) + data[end:]
    zeroed = data[: middle - 60] + bytes(120) + data[middle + 60 :]
    for spoilt in (cut, zeroed):
        assert "cannot be read" in refused(spoilt, tmp_path)


def test_jpeg_of_another_size_than_its_place_is_refused(tmp_path: Path) -> None:
    small, large = jpeg_of(PIXELS[:20]), jpeg_of(np.repeat(PIXELS, 2, 0))
    assert "a JPEG in it is smaller" in refused(by_hand({259: 7, 262: 6}, small), tmp_path)
    assert "36 x 72 pixels where 36 x 36 have room" in refused(by_hand({259: 7, 262: 6}, large), tmp_path)


def jpeg_of(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", subsampling=0)
    return file.getvalue()


def test_known_files_are_read_right_or_refused(real_inputs: Path) -> None:
    expected = tifffile.imread(real_inputs / "planar16_expected.tif")
    for name in ("planar16_uncompressed.tif", "bigtiff_big_endian_zlib.tif", "jpeg2000_in_tiff.tif"):
        try:
            tile = read_image(real_inputs / name)
        except TileError:
            continue
        np.testing.assert_array_equal(tile, expected)
