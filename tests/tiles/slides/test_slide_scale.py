"""Micrometres per pixel: taken as they are, refused when missing or too coarse, a caution where they are odd."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from slide_files import glass, write_tiff

from edgepath.errors import SlideError, UsageError
from edgepath.tiles.slides.cutting import CutSettings, cut
from edgepath.tiles.slides.reader import Level, Metadata, open_slide
from edgepath.tiles.slides.scale import SLACK, Scale, find_scale

Mpp = tuple[float, float]


def slide(
    mpp: Mpp | None = (0.25, 0.25), *downsamples: float, power: float | None = None, **properties: str
) -> Metadata:
    levels = tuple(Level(int(40000 / d), int(30000 / d), d) for d in (1.0, *downsamples))
    return Metadata("made", levels, mpp, power, properties)


def refused(found: Metadata, kind: type[Exception] = SlideError, **options: object) -> str:
    with pytest.raises(kind) as caught:
        find_scale(found, "a.svs", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_scale_is_exact_and_never_a_magnification() -> None:
    for mpp in (0.25, 0.31, 0.5, 0.59):
        scale = find_scale(slide((0.2431, 0.2431), 2, 4), "a.svs", size=224, mpp=mpp)
        assert scale.width * 0.2431 == pytest.approx(224 * mpp, rel=1e-12)
        assert scale.slide_mpp == (0.2431, 0.2431)
        assert scale.source == "metadata"


@given(
    st.floats(0.1, 2), st.floats(0.1, 20), st.lists(st.floats(1.1, 100), max_size=5, unique=True), st.integers(1, 20)
)
def test_the_level_is_the_coarsest_that_is_fine_enough(
    here: float, asked: float, downsamples: list[float], size: int
) -> None:
    found = slide((here, here), *sorted(downsamples))
    if here > asked * (1 + SLACK):
        assert "--allow-upsampling" in refused(found, mpp=asked)
        return
    scale = find_scale(found, "a.svs", size=size, mpp=asked)
    pixels = [here * level.downsample for level in found.levels]
    assert scale.level == 0 or pixels[scale.level] <= asked * 1.002
    assert all(one > asked for one in pixels[scale.level + 1 :])
    assert scale.downsample == found.levels[scale.level].downsample


def test_slack_is_for_the_finest_level_only() -> None:
    assert find_scale(slide((0.504, 0.504)), "a.svs").level == 0
    assert find_scale(slide((0.126, 0.126), 4), "a.svs").level == 0  # 0.504 would be enlarged, 0.126 is not
    assert find_scale(slide((0.125, 0.125), 4.0003), "a.svs").level == 1  # 4, but for sizes that are whole pixels


def test_coarser_than_asked_is_refused_unless_allowed() -> None:
    message = refused(slide((0.52, 0.52)))
    assert message == (
        "slide a.svs: its pixels span 0.52 um, tiles of 0.5 um were asked for; ask for --mpp 0.52 or more, or give "
        "--allow-upsampling"
    )
    scale = find_scale(slide((0.52, 0.52)), "a.svs", allow_upsampling=True)
    assert (scale.level, scale.width) == (0, pytest.approx(224 * 0.5 / 0.52))


def test_the_mpp_that_a_refusal_names_is_taken() -> None:
    for here in (0.5101, 0.52, 0.5211, 1.0149):
        named = float(refused(slide((here, here))).split("--mpp ")[1].split()[0])
        assert isinstance(find_scale(slide((here, here)), "a.svs", mpp=named), Scale)


@pytest.mark.parametrize("mpp", [None, (0.0, 0.0), (-0.5, 0.5), (math.nan, 0.5), (352.8, 352.8), (0.5, math.inf)])
def test_without_a_scale_the_three_remedies_are_named(mpp: Mpp | None) -> None:
    message = refused(slide(mpp))
    for remedy in ("--mpp-of-slide", "column mpp in a manifest.csv", "--mpp-key"):
        assert remedy in message


def test_a_given_scale_takes_the_place_of_metadata() -> None:
    scale = find_scale(slide(None), "a.svs", mpp_of_slide=0.25)
    assert (scale.slide_mpp, scale.source, scale.cautions) == ((0.25, 0.25), "given", ())
    scale = find_scale(slide((0.5, 0.5)), "a.svs", mpp_of_slide=0.207)
    (caution,) = scale.cautions
    assert "0.207 um per pixel (given), but its metadata say 0.5 um" in caution


def test_a_property_can_hold_the_scale() -> None:
    scale = find_scale(slide(None, **{"lab.PixelSize": "0.25"}), "a.svs", mpp_key="lab.PixelSize")
    assert (scale.slide_mpp, scale.source) == ((0.25, 0.25), "property lab.PixelSize")
    assert "known: lab.PixelSize" in refused(slide(None, **{"lab.PixelSize": "0.25"}), mpp_key="lab.pixels")
    assert "'0', no number of micrometres" in refused(slide(None, **{"lab.mpp": "0"}), mpp_key="lab.mpp")
    assert "'unknown', no number" in refused(slide(None, **{"lab.mpp": "unknown"}), mpp_key="lab.mpp")


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, 1000])
def test_what_is_asked_has_to_be_a_scale(value: float) -> None:
    assert "give micrometres per pixel" in refused(slide(), UsageError, mpp=value)
    assert "give micrometres per pixel" in refused(slide(), UsageError, mpp_of_slide=value)


def test_statements_that_disagree_are_a_caution() -> None:
    assert find_scale(slide((0.25, 0.27), power=40), "a.svs").cautions == ()
    (caution,) = find_scale(slide((0.25, 0.3)), "a.svs").cautions
    assert "0.25 um in x and 0.3 um in y" in caution
    (caution,) = find_scale(slide((0.25, 0.25), power=20), "a.svs").cautions
    assert "an objective of 20x, usually 0.5 um" in caution
    assert find_scale(slide((0.252, 0.252), power=40), "a.svs").cautions == ()


def test_x_and_y_have_each_their_own_scale() -> None:
    scale = find_scale(slide((0.25, 0.4)), "a.svs", size=100, mpp=0.5)
    assert (scale.width, scale.height) == (pytest.approx(200), pytest.approx(125))
    assert "span 0.6 um" in refused(slide((0.25, 0.6)))  # the coarser side decides


@pytest.mark.parametrize(("mpp", "expected"), [(None, None), (0.25, (0.25, 0.25)), ((0.25, 0.3), (0.25, 0.3))])
def test_a_file_says_its_own_scale(tmp_path: Path, mpp: float | Mpp | None, expected: Mpp | None) -> None:
    with open_slide(write_tiff(tmp_path / "a.tif", glass(512, 512), mpp=mpp)) as found:
        assert found.metadata.mpp == (None if expected is None else pytest.approx(expected, rel=1e-6))


@pytest.mark.parametrize(("resolution", "unit"), [((0, 0), 3), ((72, 72), 2), ((1, 1), 1)])
def test_a_file_whose_resolution_is_not_of_a_slide_is_refused(
    tmp_path: Path, resolution: tuple[int, int], unit: int
) -> None:
    """None at all, that of a printer, and one without a unit."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, glass(512, 512), tile=(256, 256), photometric="rgb", resolution=resolution, resolutionunit=unit
    )
    with pytest.raises(SlideError, match="--mpp-of-slide UM, a column mpp"):
        cut(path, CutSettings())
    with cut(path, CutSettings(mpp_of_slide=0.25, tissue="none")) as slide:
        assert slide.scale.source == "given"
