"""What an image file may hold and what becomes of it, compared with NumPy formulas and Pillow's own decoder."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from edgepath.errors import TileError, UsageError
from edgepath.tiles.images import LARGEST, check_resize, describe, read_image, resize_tile, tile_sha256

SIZE = 24


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Uneven in every direction, so that no turn or mirror image of it is the same."""
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes, interlaced: int = 0) -> bytes:
    """A PNG file by the book (ISO/IEC 15948), for what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def tiff(width: int, height: int, samples: np.ndarray) -> bytes:
    """An uncompressed little-endian RGB TIFF of one strip (TIFF 6.0), with the bit depth of `samples`."""
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    bits = 8 + 2 + 9 * 12 + 4  # where the three bit depths lie: behind the header and the directory
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, bits + 6),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0\x08\0\0\0" + directory + struct.pack("<3H", *[8 * samples.dtype.itemsize] * 3) + data


def refused(path: Path, size: int = SIZE, resize: str = "refuse") -> str:
    with pytest.raises(TileError) as caught:
        read_image(path, size, resize)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# --- what is converted


@pytest.mark.parametrize("name", ["a.png", "a.tif", "png.jpg", "no suffix"])
def test_rgb_is_kept_to_the_bit(pixels: np.ndarray, tmp_path: Path, name: str) -> None:
    Image.fromarray(pixels).save(tmp_path / name, "TIFF" if name.endswith(".tif") else "PNG")
    tile = read_image(tmp_path / name, SIZE)
    assert (tile.dtype, tile.shape) == (np.uint8, (SIZE, SIZE, 3))
    np.testing.assert_array_equal(tile, pixels)


def test_jpeg_is_what_pillow_decodes(pixels: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.jpeg", quality=90)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpeg", SIZE), np.array(Image.open(tmp_path / "a.jpeg")))


def test_palette_is_looked_up(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    palette = random.integers(0, 256, (256, 3), dtype=np.uint8)
    index = random.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    image = Image.fromarray(index).convert("L")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as written:
        assert written.mode == "P"
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", SIZE), palette[index])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_alpha_is_laid_over_white(pixels: np.ndarray, tmp_path: Path, name: str) -> None:
    alpha = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 1), dtype=np.uint8)
    alpha[0], alpha[1] = 0, 255
    Image.fromarray(np.concatenate([pixels, alpha], 2)).save(tmp_path / name)
    tile = read_image(tmp_path / name, SIZE)
    over = alpha / 255
    # Pillow blends in integers: up to one level beside the exact value.
    np.testing.assert_allclose(tile, pixels * over + 255 * (1 - over), atol=1)
    assert (tile[0] == 255).all()
    np.testing.assert_array_equal(tile[1], pixels[1])


def test_transparent_colour_becomes_white(pixels: np.ndarray, tmp_path: Path) -> None:
    glass = tuple(int(value) for value in pixels[3, 5])
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=glass)
    expected = pixels.copy()
    expected[(pixels == pixels[3, 5]).all(2)] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", SIZE), expected)


def test_transparent_palette_entry_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((2, 3), 0)
    image.save(tmp_path / "a.png", transparency=0)
    expected = np.full((SIZE, SIZE, 3), (40, 50, 60), np.uint8)
    expected[3, 2] = 255
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", SIZE), expected)


def test_16_bit_png_gives_its_high_bytes(tmp_path: Path) -> None:
    samples = np.random.default_rng(3).integers(0, 1 << 16, (SIZE, SIZE, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    (tmp_path / "a.png").write_bytes(png(SIZE, SIZE, 16, 2, rows))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", SIZE), samples >> 8)


def test_16_bit_tiff_gives_its_high_bytes(tmp_path: Path) -> None:
    samples = np.random.default_rng(3).integers(0, 1 << 16, (SIZE, SIZE, 3), dtype=np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff(SIZE, SIZE, samples))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", SIZE), samples >> 8)


def test_ycbcr_tiff_is_converted_as_in_jfif(pixels: np.ndarray, tmp_path: Path) -> None:
    y, cb, cr = np.moveaxis(np.clip(pixels, 64, 191).astype(float), 2, 0)
    Image.merge("YCbCr", [Image.fromarray(np.uint8(plane)) for plane in (y, cb, cr)]).save(tmp_path / "a.tif")
    expected = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    # Pillow rounds a table for each term: two levels.
    np.testing.assert_allclose(
        read_image(tmp_path / "a.tif", SIZE), np.clip(np.stack(expected, 2), 0, 255), atol=2, rtol=0
    )


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # Exif 2.32, tag 274: what brings the stored rows upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_orientation_is_honoured(pixels: np.ndarray, tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(tmp_path / "turned", kind, exif=exif)
    Image.fromarray(pixels).save(tmp_path / "plain", kind)
    stored = read_image(tmp_path / "plain", SIZE)
    np.testing.assert_array_equal(read_image(tmp_path / "turned", SIZE), UPRIGHT[orientation](stored))


def test_colour_profile_and_gamma_are_not_applied(pixels: np.ndarray, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "profile.png", icc_profile=profile)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    (tmp_path / "gamma.png").write_bytes(png(SIZE, SIZE, 8, 2, rows, chunk(b"gAMA", struct.pack(">I", 100000))))
    np.testing.assert_array_equal(read_image(tmp_path / "profile.png", SIZE), pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "gamma.png", SIZE), pixels)


# --- what is refused


@pytest.mark.parametrize(
    ("mode", "kind", "said"),
    [
        ("L", "PNG", "greyscale (Pillow mode L)"),
        ("L", "JPEG", "greyscale (Pillow mode L)"),
        ("1", "PNG", "greyscale (Pillow mode 1)"),
        ("LA", "PNG", "greyscale (Pillow mode LA)"),
        ("I;16", "PNG", "greyscale (Pillow mode I;16)"),
        ("I", "TIFF", "greyscale (Pillow mode I)"),
        ("CMYK", "JPEG", "CMYK colours, RGB is needed"),
        ("CMYK", "TIFF", "CMYK colours, RGB is needed"),
        ("LAB", "TIFF", "LAB colours, RGB is needed"),
        ("F", "TIFF", "F colours, RGB is needed"),
    ],
)
def test_no_rgb_is_refused(tmp_path: Path, mode: str, kind: str, said: str) -> None:
    Image.new(mode, (SIZE, SIZE)).save(tmp_path / "a", kind)
    assert said in refused(tmp_path / "a")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "MPO"])
def test_several_images_in_one_file_are_refused(pixels: np.ndarray, tmp_path: Path, kind: str) -> None:
    one, two = Image.fromarray(pixels), Image.fromarray(255 - pixels)
    one.save(tmp_path / "a", kind, save_all=True, append_images=[two])
    assert "holds 2 images; save the one that is the tile" in refused(tmp_path / "a")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("keep", [12, 0.5, -5], ids=["header", "half", "end"])
def test_cut_off_file_is_refused(pixels: np.ndarray, tmp_path: Path, kind: str, keep: float) -> None:
    if (kind, keep) == ("JPEG", -5):
        keep = -40  # the last bytes of a JPEG are padding and the end mark: nothing of the picture
    whole = io.BytesIO()
    Image.fromarray(pixels).save(whole, kind)
    data = whole.getvalue()
    if (kind, keep) == ("TIFF", -5):
        data = tiff(SIZE, SIZE, pixels)  # Pillow writes the directory after the pixels, and nothing else
    (tmp_path / "a.png").write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    assert "replace the file, or leave it out" in refused(tmp_path / "a.png")


def test_every_flipped_byte_of_a_png_is_seen(pixels: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(pixels[:4, :4]).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    # But for length and checksum of the end chunk, which has no content: not read, and without effect.
    for place in {*range(len(data))} - {*range(len(data) - 12, len(data) - 8), *range(len(data) - 4, len(data))}:
        (tmp_path / "a.png").write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        refused(tmp_path / "a.png", 4)


def in_passes(pixels: np.ndarray) -> bytes:
    """The rows of an interlaced PNG: seven smaller images (ISO/IEC 15948, 8.2)."""
    grids = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    passes = [pixels[top::down, left::across] for left, top, across, down in grids]
    return b"".join(b"\0" + row.tobytes() for one in passes if one.size for row in one)


@pytest.mark.parametrize("size", [1, 2, 5, 9, SIZE])
@pytest.mark.parametrize("interlaced", [0, 1])
def test_png_with_fewer_pixels_than_it_says_is_refused(
    pixels: np.ndarray, tmp_path: Path, size: int, interlaced: int
) -> None:
    part = np.ascontiguousarray(pixels[:size, :size])
    rows = in_passes(part) if interlaced else b"".join(b"\0" + row.tobytes() for row in part)
    (tmp_path / "a.png").write_bytes(png(size, size, 8, 2, rows, interlaced=interlaced))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", size), part)
    for kept in (rows[:-1], rows[: len(rows) // 2], b""):
        (tmp_path / "a.png").write_bytes(png(size, size, 8, 2, kept, interlaced=interlaced))
        assert f"its pixels have {len(kept)} bytes of {len(rows)}" in refused(tmp_path / "a.png", size)


def test_pixels_of_no_colour_of_the_palette_are_refused(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + bytes(range(SIZE)) for _ in range(SIZE))
    for known, kept in ((SIZE, True), (SIZE - 1, False)):
        palette = chunk(b"PLTE", bytes(range(3 * known)))
        (tmp_path / "a.png").write_bytes(png(SIZE, SIZE, 8, 3, rows, palette))
        if kept:
            assert read_image(tmp_path / "a.png", SIZE)[0, -1].tolist() == [3 * SIZE - 3, 3 * SIZE - 2, 3 * SIZE - 1]
        else:
            assert f"its pixels name colour {known} of a palette of {known}" in refused(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content", [b"", b"these are not the pixels\n", b"GIF89a" + bytes(40), b"BM" + bytes(60), b"\x89PNG\r\n\x1a\n"]
)
def test_other_content_under_an_image_name_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert "leave it out" in refused(tmp_path / "a.png")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in refused(tmp_path / "folder.png")
    assert "not a regular file" in refused(tmp_path / "pipe.png")
    assert "No such file" in refused(tmp_path / "none.png")


def large(kind: str, side: int) -> bytes:
    """An image whose header says `side` x `side`; the little that follows would fail to decode in another way."""
    if kind == "PNG":
        return png(side, side, 8, 2, bytes(100))
    if kind == "TIFF":
        return tiff(side, side, np.zeros((8, 8, 3), np.uint8))
    small = io.BytesIO()
    Image.new("RGB", (8, 8)).save(small, "JPEG")
    data = bytearray(small.getvalue())
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_huge_image_is_refused_before_it_is_decoded(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(large(kind, 60_000))
    script = (
        "import resource, sys\n"
        "from edgepath.errors import TileError\n"
        "from edgepath.tiles.images import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for resize in ('refuse', 'squash', 'crop'):\n"
        "    try: read_image(sys.argv[1], 224, resize)\n"
        "    except TileError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "a.png")]
    *messages, cost = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(messages) == 3
    assert all("60000 x 60000 pixels, 224 x 224 are needed" in message for message in messages)
    assert "--resize" not in messages[0]  # no resize would help
    assert int(cost) < 20_000  # kB; decoded, it would take 10.8 GB


def test_largest_image_that_is_resized_is_bounded(tmp_path: Path) -> None:
    side = int(LARGEST**0.5)
    (tmp_path / "a.png").write_bytes(large("PNG", side))
    (tmp_path / "b.png").write_bytes(large("PNG", side + 1))
    assert "cannot be read" in refused(tmp_path / "a.png", resize="crop")  # tried, and found cut off
    assert "pixels" in refused(tmp_path / "b.png", resize="crop")


# --- other sizes


def test_other_size_is_refused_and_the_ways_out_named(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    said = refused(tmp_path / "a.png")
    assert "30 x 20 pixels, 24 x 24 are needed" in said
    assert "--resize crop or --resize squash" in said


def test_squash_is_pillows_bicubic(tmp_path: Path) -> None:
    source = np.random.default_rng(4).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(source).save(tmp_path / "a.png")
    expected = np.array(Image.fromarray(source).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", SIZE, "squash"), expected)


@pytest.mark.parametrize(("width", "height"), [(96, 48), (48, 96), (72, 48)])
def test_crop_resizes_the_short_side_and_takes_the_centre(tmp_path: Path, width: int, height: int) -> None:
    source = Image.fromarray(np.random.default_rng(4).integers(64, 192, (height, width, 3), dtype=np.uint8))
    source.save(tmp_path / "a.png")
    small = np.array(source.resize((width // 2, height // 2), Image.Resampling.BICUBIC)).astype(int)
    left, top = (width // 2 - SIZE) // 2, (height // 2 - SIZE) // 2
    # The same filter, its weights rounded for another window: one level. (Levels far from 0 and 255 are not cut off.)
    tile = read_image(tmp_path / "a.png", SIZE, "crop").astype(int)
    np.testing.assert_allclose(tile, small[top : top + SIZE, left : left + SIZE], atol=1)


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_decoded_tile_is_resized_like_a_file(pixels: np.ndarray, tmp_path: Path, resize: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(resize_tile(pixels, 14, resize), read_image(tmp_path / "a.png", 14, resize))


def test_unknown_resize_is_refused() -> None:
    with pytest.raises(UsageError, match=r'resize "crops"; did you mean "crop"\?'):
        check_resize("crops")


# --- what a tile looks like


def test_hash_is_of_the_pixels_and_not_of_the_file(pixels: np.ndarray, tmp_path: Path) -> None:
    expected = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert tile_sha256(pixels) == expected
    assert tile_sha256(np.asfortranarray(pixels)) == expected
    for name in ("a.png", "a.tif"):
        Image.fromarray(pixels).save(tmp_path / name)
        assert tile_sha256(read_image(tmp_path / name, SIZE)) == expected
    assert tile_sha256(pixels[::-1]) != expected


@pytest.mark.parametrize(
    ("colour", "tissue"),
    [
        ((255, 255, 255), 0),  # glass
        ((240, 238, 242), 0),  # glass, as scanners show it
        ((180, 178, 176), 0),  # glass in dim light: pale and grey
        ((0, 0, 0), 0),  # padding
        ((230, 150, 190), 1),  # eosin
        ((90, 60, 140), 1),  # haematoxylin
        ((170, 150, 120), 1),  # DAB, weak
    ],
)
def test_what_counts_as_tissue(colour: tuple[int, int, int], tissue: float) -> None:
    assert describe(np.full((56, 56, 3), colour, np.uint8))[0] == tissue


def test_tissue_is_a_share_of_the_area() -> None:
    tile = np.full((64, 64, 3), 250, np.uint8)
    tile[:16] = (200, 90, 150)
    assert describe(tile)[0] == pytest.approx(0.25)


def test_descriptor_of_an_even_colour_is_its_density() -> None:
    tissue, descriptor = describe(np.full((64, 64, 3), (200, 100, 150), np.uint8))
    assert (tissue, descriptor.dtype, descriptor.shape) == (1, np.float32, (11,))
    # -log10((x + 1) / 256), the optical density of an 8-bit level, in float32
    np.testing.assert_allclose(descriptor[:3], -np.log10(np.array([201, 101, 151]) / 256), rtol=1e-5)
    np.testing.assert_allclose(descriptor[3:], 0, atol=1e-6)


def test_descriptor_tells_fine_from_coarse_texture() -> None:
    stripes = {
        step: np.where(np.arange(64) // step % 2, 200, 100).astype(np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
        for step in (1, 8, 32)
    }
    fine, middle, coarse = (describe(tile)[1] for tile in stripes.values())
    assert fine[6] == pytest.approx(100 / 255)  # every pixel differs from the next
    np.testing.assert_allclose(fine[7:], 0, atol=1e-6)  # and means of 4 pixels do not
    jump = np.log10(201 / 101)
    # Stripes of 8 pixels: all differ 8 pixels on, across the stripes; none along them.
    assert middle[8] == pytest.approx(jump / 2, rel=1e-4)
    assert middle[9] == pytest.approx(0, abs=1e-6)
    assert coarse[10] == pytest.approx(jump / 2, rel=1e-4)
    assert coarse[6] < middle[6] < fine[6]
