"""WebP, BMP and JPEG 2000 are read as what they hold, and no image takes more memory than is said."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from edgepath.errors import TileError
from edgepath.tiles.decoding import LARGEST, LONGEST
from edgepath.tiles.images import read_image

SIDE = 40
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
KINDS: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True, "exact": True},
    "BMP": {},
    "JPEG2000": {},
    "JPEG2000 codestream": {"no_jp2": True},
}
EACH = pytest.mark.parametrize("kind", KINDS)


def saved(pixels: np.ndarray | Image.Image, kind: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind.split()[0], **(KINDS.get(kind, {}) | how))
    return file.getvalue()


def read(data: bytes, folder: Path, **how: Any) -> np.ndarray:
    (folder / "tile").write_bytes(data)
    return read_image(folder / "tile", SIDE, **how)


def refused(data: bytes, folder: Path, **how: Any) -> str:
    with pytest.raises(TileError) as caught:
        read(data, folder, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def over_white(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)


@EACH
def test_rgb_is_kept_to_the_bit(kind: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(saved(PIXELS[..., :3], kind), tmp_path), PIXELS[..., :3])


@pytest.mark.parametrize("kind", ["WEBP", "JPEG2000"])
def test_alpha_is_laid_over_white(kind: str, tmp_path: Path) -> None:
    # Pillow blends in integers: up to one level beside the exact value.
    np.testing.assert_allclose(read(saved(PIXELS, kind), tmp_path), over_white(PIXELS), atol=1)


def test_fourth_byte_of_a_bmp_means_alpha_only_where_it_says_so(tmp_path: Path) -> None:
    data = saved(PIXELS, "BMP")  # of the first version: the fourth byte means nothing
    np.testing.assert_array_equal(read(data, tmp_path), PIXELS[..., :3])


def test_lossy_webp_is_what_pillow_decodes(tmp_path: Path) -> None:
    data = saved(PIXELS[..., :3], "WEBP", lossless=False, quality=80)
    np.testing.assert_array_equal(read(data, tmp_path), np.array(Image.open(io.BytesIO(data)).convert("RGB")))


def test_orientation_of_a_webp_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    np.testing.assert_array_equal(
        read(saved(PIXELS[..., :3], "WEBP", exif=exif), tmp_path), np.rot90(PIXELS[..., :3], -1)
    )


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [9, 10, 12, 16])
def test_jpeg_2000_of_more_than_8_bits_is_refused(form: str, bits: int, tmp_path: Path) -> None:
    # Pillow 13 turns the brightest levels of these into 0.
    wide = np.random.default_rng(1).integers(0, 1 << bits, (SIDE, SIDE, 3), dtype=np.uint16)
    data = imagecodecs.jpeg2k_encode(wide, level=0, codecformat=form, reversible=True, bitspersample=bits)
    assert f"samples of {bits} bits" in refused(data, tmp_path)
    eight = imagecodecs.jpeg2k_encode(PIXELS[..., :3].copy(), level=0, codecformat=form, reversible=True)
    np.testing.assert_array_equal(read(eight, tmp_path), PIXELS[..., :3])


def test_colour_space_of_a_jpeg_2000_is_heeded(tmp_path: Path) -> None:
    middle = PIXELS[..., :3] // 2 + 64
    data = saved(middle, "JPEG2000", mct=0)
    place = data.index(b"colr") + 7
    assert data[place : place + 4] == struct.pack(">I", 16)
    for number in (12, 14, 15, 17, 19, 20, 24):  # CMYK, Lab, an old default, grey, others of RGB and YCC
        said = refused(data[:place] + struct.pack(">I", number) + data[place + 4 :], tmp_path)
        assert f"colour space {number}, RGB is needed" in said
    y, cb, cr = np.moveaxis(middle.astype(float), 2, 0)
    rgb = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    tile = read(data[:place] + struct.pack(">I", 18) + data[place + 4 :], tmp_path)
    # As in a JPEG; Pillow rounds a table for each term: two levels.
    np.testing.assert_allclose(tile, np.clip(np.stack(rgb, 2), 0, 255), atol=2, rtol=0)


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "BMP"), ("1", "BMP"), ("L", "JPEG2000"), ("LA", "JPEG2000"), ("I;16", "JPEG2000")]
)
def test_greyscale_is_refused(mode: str, kind: str, tmp_path: Path) -> None:
    assert "greyscale" in refused(saved(Image.new(mode, (SIDE, SIDE)), kind), tmp_path)


def test_animated_webp_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    assert "holds 2 images; save the one that is the tile" in refused(data, tmp_path)


@EACH
def test_file_that_is_cut_off_is_refused(kind: str, tmp_path: Path) -> None:
    data = saved(PIXELS[..., :3], kind)
    for keep in (*range(20, len(data), len(data) // 40), len(data) - 1):
        refused(data[:keep], tmp_path)


# --- memory


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, LARGEST), (LARGEST, 1), (LONGEST + 1, 1), (1, LONGEST + 1), (LONGEST, 1025), (60000, 60000)],
)
@pytest.mark.parametrize("resize", ["refuse", "squash", "crop"])
def test_sides_are_bounded_as_well_as_pixels(width: int, height: int, resize: str, tmp_path: Path) -> None:
    data = bytearray(saved(PIXELS[..., :3], "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    said = refused(bytes(data), tmp_path, resize=resize)
    assert f"{width} x {height} pixels, {SIDE} x {SIDE} are needed; cut tiles of that size" in said
    assert "--resize" not in said  # would not help


def test_declared_sizes_take_no_memory(tmp_path: Path) -> None:
    jp2 = saved(PIXELS[..., :3], "JPEG2000")
    box = jp2.index(b"jp2h") - 4
    declared = struct.pack(">I4sQ", 1, b"jp2h", 1 << 62)  # Pillow asks the file for so many bytes
    assert "cannot be read" in refused(jp2[:box] + declared + jp2[box + 8 :], tmp_path)
    tag = struct.pack("<HHQQ", 34675, 7, 1 << 62, 16)  # a colour profile of a BigTIFF
    tiff = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 1) + tag + bytes(8)
    assert "cannot be read" in refused(tiff, tmp_path)


def test_chain_of_many_images_is_not_followed_to_its_end(tmp_path: Path) -> None:
    tags = struct.pack("<HHIIHHII", 256, 4, 1, SIDE, 257, 4, 1, SIDE) + struct.pack(
        "<HHIHHHHIHH", 258, 3, 1, 8, 0, 262, 3, 1, 1, 0
    )
    tags += struct.pack("<HHIIHHII", 273, 4, 1, 8, 279, 4, 1, 100)
    length = 2 + len(tags) + 4
    chain = [struct.pack("<H", 6) + tags + struct.pack("<I", 8 + (i + 1) * length) for i in range(100_000)]
    assert "holds 100 images" in refused(b"II*\0" + struct.pack("<I", 8) + b"".join(chain), tmp_path)  # else: 4 minutes


def test_known_file_of_one_column_is_refused(real_inputs: Path) -> None:
    for resize in ("squash", "crop"):
        with pytest.raises(TileError, match="1 x 67108864 pixels"):
            read_image(real_inputs / "png-1x67108864.png", 224, resize)


@pytest.mark.slow
def test_largest_images_take_the_memory_of_one_however_many_threads_decode(tmp_path: Path) -> None:
    side = int(LARGEST**0.5)
    exif = Image.Exif()
    exif[274] = 6  # has to be turned, and laid over white
    Image.fromarray(np.tile(PIXELS, (side // SIDE + 1,) * 2 + (1,))[:side, :side]).save(
        tmp_path / "a.png", exif=exif, compress_level=1
    )
    for name in "bcd":
        (tmp_path / f"{name}.png").hardlink_to(tmp_path / "a.png")
    script = (
        "import sys\n"
        "from edgepath.machine.progress import forget_peak, peak_bytes\n"
        "from edgepath.tiles.opening import open_tiles\n"
        "before = peak_bytes()\n"
        "for batch in open_tiles(sys.argv[1], resize='crop').batches(4, threads=4): assert len(batch.keys) == 4\n"
        "print(peak_bytes() - before)"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    cost = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 4 * LARGEST < cost < 500e6  # all four at once take 0.8 GB


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_a_png_has_one_header_and_begins_with_it(tmp_path: Path) -> None:
    whole = saved(PIXELS[..., :3], "PNG")
    start, header, rest = whole[:8], whole[8:33], whole[33:]
    small = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE // 2, 8, 2, 0, 0, 0))
    for damaged in (chunk(b"tEXt", b"a\0b") + header, small + header, header + header):
        assert "begins with its one header" in refused(start + damaged + rest, tmp_path)
    assert "begins with its one header" in refused(start + header + small + rest, tmp_path, resize="squash")
    text = start + header + chunk(b"tEXt", b"a\0b") + rest
    np.testing.assert_array_equal(read(text, tmp_path), PIXELS[..., :3])
