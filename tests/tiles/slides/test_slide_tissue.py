"""Tissue: what is found by colour and what is not, masks and annotations, and damage that hides no tissue."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from slide_files import GLASS, TILE, destroy_tiles, glass, noise, write_tiff

from edgepath.errors import SlideError
from edgepath.tiles.slides.cutting import CutSettings, cut
from edgepath.tiles.slides.reader import open_slide
from edgepath.tiles.slides.synthetic import write_synthetic_slide
from edgepath.tiles.slides.tissue import Tissue, by_colour, find_tissue

PENS = {"green": (30, 150, 70), "turquoise": (0, 140, 150), "dull green": (90, 140, 100), "black": (35, 35, 40)}
PENS_LIKE_STAINS = {"blue": (40, 60, 170), "red": (190, 40, 50)}
SHAPE = (320, 384)  # a mask of a slide of 3.1 x 2.6 mm


def found(pixels: np.ndarray) -> np.ndarray:
    """Return the tissue in a picture of 8 um a pixel, with a camera's noise added."""
    noisy = pixels + np.random.default_rng(1).normal(0, 1.5, pixels.shape)
    return by_colour(noisy.clip(0, 255).astype(np.uint8), 8.0, np.zeros(pixels.shape[:2], bool))


def picture(*colours: tuple[int, int, int], background: tuple[int, int, int] = GLASS) -> Image.Image:
    """Draw squares of 40 pixels on glass, one a colour, in a row from (20, 20), 50 apart."""
    image = Image.new("RGB", SHAPE[::-1], background)
    for number, colour in enumerate(colours):
        ImageDraw.Draw(image).rectangle((20 + 50 * number, 20, 59 + 50 * number, 59), fill=colour)
    return image


def squares(mask: np.ndarray, count: int) -> list[bool]:
    shares = [mask[22:58, 22 + 50 * i : 58 + 50 * i].mean() for i in range(count)]
    assert all(share < 0.01 or share > 0.99 for share in shares)
    return [bool(share > 0.5) for share in shares]


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slide")
    return write_synthetic_slide(folder / "slide.tif", seed=3, width=1024, height=1024, pieces=1)


def tissue_of(path: Path, how: str | Path = "otsu") -> Tissue:
    with open_slide(path) as opened:
        return find_tissue(opened, 0.5, how)


def refused(path: Path, how: Path) -> str:
    with pytest.raises(SlideError) as caught:
        tissue_of(path, how)
    assert "\n" not in str(caught.value)
    assert str(how) in str(caught.value)
    return str(caught.value)


# --- by colour


@pytest.mark.parametrize("background", [(255, 255, 255), GLASS, (240, 233, 214), (228, 232, 240)])
def test_dark_and_pale_stains_are_tissue_on_any_glass(background: tuple[int, int, int]) -> None:
    stains = [(110, 50, 130), (190, 90, 160), (225, 150, 190), (150, 130, 190)]
    pale = tuple(int(level * share) for level, share in zip(background, (0.96, 0.87, 0.93), strict=True))
    mask = found(np.asarray(picture(*stains, pale, background=background)))
    assert squares(mask, 6) == [True] * 5 + [False]
    assert mask[100:].mean() == 0


@pytest.mark.parametrize("background", [(255, 255, 255), GLASS, (240, 233, 214), (228, 232, 240)])
def test_glass_alone_is_no_tissue(background: tuple[int, int, int]) -> None:
    assert not found(np.asarray(picture(background=background))).any()


def test_a_slide_of_nothing_but_tissue_is_all_tissue() -> None:
    flat = np.full((*SHAPE, 3), (190, 90, 160), np.uint8)
    assert by_colour(flat, 8.0, np.zeros(SHAPE, bool)).all()
    flat[:, :200] = (150, 60, 140)
    assert found(flat).all()


def test_pens_in_colours_that_no_stain_has_are_left_out_and_the_others_are_not() -> None:
    pens = [*PENS.values(), *PENS_LIKE_STAINS.values()]
    mask = found(np.asarray(picture((190, 90, 160), *pens)))
    assert squares(mask, 7) == [True, False, False, False, False, True, True]


def test_black_borders_bubbles_specks_and_holes() -> None:
    image = picture((190, 90, 160), (190, 90, 160))
    draw = ImageDraw.Draw(image)
    draw.rectangle((376, 0, 383, 319), fill=(6, 5, 5))
    draw.rectangle((0, 312, 383, 319), fill=(9, 8, 8))
    draw.ellipse((20, 200, 90, 270), outline=(110, 112, 115), width=3)  # an air bubble's rim, grey
    draw.rectangle((300, 100, 304, 104), fill=(190, 90, 160))  # 25 pixels: 1,600 um2
    draw.rectangle((30, 30, 34, 34), fill=GLASS)  # a hole of 1,600 um2, filled
    draw.rectangle((80, 25, 100, 50), fill=GLASS)  # one of 35,000 um2, kept
    mask = found(np.asarray(image))
    assert mask[30:35, 30:35].all()
    assert not mask[28:48, 83:98].any()
    mask[18:62, 18:112] = False
    assert not mask.any()


def test_the_tissue_of_a_procedural_slide_is_where_it_was_drawn(slide: Path) -> None:
    tissue = tissue_of(slide)
    assert 0.05 < tissue.mask.mean() < 0.6
    assert tissue.unread == 0
    with open_slide(slide) as opened:
        pixels = opened.read(0, 0, 2, 64, 64).astype(int)
    assert (np.abs(pixels - GLASS).max(2)[tissue.mask] > 10).mean() > 0.95
    rows, columns = np.nonzero(tissue.mask)
    for line in tissue.outlines():
        assert (line.min(0) >= (columns.min() * tissue.step[0] - 1, rows.min() * tissue.step[1] - 1)).all()
        assert (line.max(0) <= ((columns.max() + 1) * tissue.step[0] + 1, (rows.max() + 1) * tissue.step[1] + 1)).all()


def test_a_slide_of_glass_has_no_tile(tmp_path: Path) -> None:
    with cut(write_tiff(tmp_path / "glass.tif", glass(1024, 1024)), CutSettings()) as slide:
        assert not slide.tissue.mask.any()
        assert len(slide) == 0
        assert slide.tissue.outlines() == []


def test_none_is_everywhere(slide: Path) -> None:
    with cut(slide, CutSettings(tissue="none")) as opened:
        assert len(opened) == 16
        assert opened.tissue.everywhere


def test_tissue_is_found_on_a_level_that_is_read_in_blocks(tmp_path: Path) -> None:
    """A slide with one level and more than one block, its sides no multiple of the mask's step."""
    pixels = glass(2500, 2111)
    pixels[300:900, 1900:2450] = pixels[1700:2100, 100:700] = (190, 90, 160)
    with open_slide(write_tiff(tmp_path / "a.tif", pixels)) as opened:
        tissue = find_tissue(opened, 0.5)
    assert tissue.mask.shape == (132, 157)
    corners = np.array([[1950, 350], [2200, 600], [200, 1750], [1000, 1000], [0, 0]])
    assert tissue.shares(corners, 200, 200).round(2).tolist() == [1, 1, 1, 0, 0]


# --- damage


def test_tissue_behind_a_bad_tile_is_tried_not_passed_over(tmp_path: Path) -> None:
    """One tile of the file: its tiles are bad and are counted; those beside it are as they were."""
    pixels = glass(8 * TILE, 8 * TILE)
    pixels[2 * TILE : 6 * TILE, 2 * TILE : 6 * TILE] = noise(4 * TILE, 4 * TILE) // 3 + np.uint8([100, 40, 90])
    path = write_tiff(tmp_path / "a.tif", pixels)
    settings = CutSettings(size=128)
    with cut(path, settings) as slide:
        before = set(map(tuple, slide.coords.tolist()))
    destroy_tiles(path, [8 * 3 + 3, 0])  # one in the tissue, one of glass
    with cut(path, settings) as slide:
        after = set(map(tuple, slide.coords.tolist()))
        assert slide.tissue.unread == 2
    assert before <= after
    assert len(after - before) <= 9  # around the tile of glass that could not be read


def test_a_slide_of_which_nothing_can_be_read_is_no_slide_without_tissue(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(4 * TILE, 4 * TILE))
    destroy_tiles(path, range(16))
    with cut(path, CutSettings()) as slide:
        assert len(slide) == 16


# --- masks


def test_a_mask_image_says_where_tissue_is(slide: Path, tmp_path: Path) -> None:
    mask = np.zeros((32, 32), bool)
    mask[8:16, 4:20] = True
    for name, pixels in (("white.png", mask * np.uint8(255)), ("label.png", mask * np.uint8(1)), ("bit.png", mask)):
        Image.fromarray(pixels).save(tmp_path / name)
        tissue = tissue_of(slide, tmp_path / name)
        assert np.array_equal(tissue.mask, mask)
        assert tissue.step == (32, 32)
        assert tissue.shares(np.array([[128, 256], [0, 0]]), 512, 256).tolist() == [1, 0]


def test_what_is_no_mask_of_this_slide_is_refused(slide: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 64), np.uint8)).save(tmp_path / "wide.png")
    assert "64 x 32 pixels, the slide 1024 x 1024: not of one shape" in refused(slide, tmp_path / "wide.png")
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32) % 3).save(tmp_path / "labels.png")
    assert "grey levels up to 2" in refused(slide, tmp_path / "labels.png")
    (tmp_path / "text.png").write_text("no image")
    assert "no mask image and no GeoJSON" in refused(slide, tmp_path / "text.png")
    assert "no mask image and no GeoJSON" in refused(slide, tmp_path / "not-there.png")


# --- annotations


def square(left: int, top: int, side: int) -> list[list[int]]:
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side], [left, top]]


def feature(kind: str, coordinates: object) -> dict[str, object]:
    properties = {"objectType": "annotation", "classification": {"name": "Tumor"}}
    geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "id": "1", "geometry": geometry, "properties": properties}


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_annotations_say_where_tissue_is(slide: Path, tmp_path: Path) -> None:
    features = [
        feature("Polygon", [square(96, 96, 320), square(160, 160, 128)]),
        feature("MultiPolygon", [[square(608, 608, 160)], [square(800, 96, 96)]]),
        feature("Point", [500, 500]),
        {"type": "Feature", "geometry": None, "properties": {}},
    ]
    for content in ({"type": "FeatureCollection", "features": features}, features):
        tissue = tissue_of(slide, written(tmp_path / "a.geojson", content))
        corners = np.array([[112, 112], [176, 176], [624, 624], [816, 112], [480, 480]])
        assert (np.abs(tissue.shares(corners, 32, 32) - [1, 0, 1, 1, 0]) < 0.2).all()
        # Each ring is drawn with its border, half a pixel of 16 on either side.
        assert tissue.mask.mean() * 1024**2 == pytest.approx(336**2 - 144**2 + 176**2 + 112**2)


def test_thousands_of_annotations_and_those_beyond_the_edge(slide: Path, tmp_path: Path) -> None:
    features = [feature("Polygon", [square(10 * i % 2000 - 500, 10 * i // 20 - 500, 10)]) for i in range(3000)]
    assert tissue_of(slide, written(tmp_path / "a.geojson", features)).mask.any()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        (feature("LineString", [[0, 0], [5, 5]]), "holds no polygon"),
        (feature("Polygon", []), "holds no polygon"),
        (feature("Polygon", [square(5000, 5000, 100)]), "none of its polygons is on a slide of 1024 x 1024"),
        (feature("Polygon", [[[0, 0], [1, 1]]]), "fewer than three points"),
        (feature("Polygon", [[[0, 0], [float("nan"), 1], [5, 5]]]), "NaN is not JSON"),
        (feature("Polygon", "text"), "no GeoJSON of polygons"),
        ({"no": "type"}, "no GeoJSON of polygons"),
        (5, "no GeoJSON of polygons"),
    ],
)
def test_what_is_no_annotation_of_this_slide_is_refused(
    slide: Path, tmp_path: Path, content: object, reason: str
) -> None:
    assert reason in refused(slide, written(tmp_path / "a.geojson", content))


def test_text_that_is_no_json_is_refused(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_bytes(b"\xff\xfe no json")
    assert "no GeoJSON of polygons" in refused(slide, tmp_path / "a.geojson")
    (tmp_path / "deep.geojson").write_text("[" * 100_000)
    assert "no GeoJSON of polygons" in refused(slide, tmp_path / "deep.geojson")
