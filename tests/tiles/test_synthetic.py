"""Synthetic tiles: the same bytes for the same arguments, one tissue in every look, colours by Beer-Lambert."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from edgepath.errors import UsageError
from edgepath.tiles import stains
from edgepath.tiles.images import read_image
from edgepath.tiles.synthetic import MAX_SHIFT, SCANNERS, STAININGS, look_of, looks, synthesize
from edgepath.tiles.synthetic.fields import PERIOD, Field, bank
from edgepath.tiles.synthetic.grounds import any_ground
from edgepath.tiles.synthetic.looks import SCANNER_TABLE, STAINING_TABLE, Scanner, Staining, scan, stain
from edgepath.tiles.synthetic.nuclei import KINDS, stamps_of
from edgepath.tiles.synthetic.tissue import REACH, grow

PAIRS = [(staining, scanner) for staining in STAININGS for scanner in SCANNERS]


def density(tiles: np.ndarray) -> np.ndarray:
    """Grey optical density, float64 (N, S, S)."""
    return -np.log10(np.maximum(tiles.astype(float), 1.0).mean(axis=-1) / 255)


def python(script: str) -> str:
    """What a fresh single-threaded Python prints."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | threads).stdout


# --- the same tile for the same arguments


def test_tiles_are_uint8_rgb_of_the_size_asked_for() -> None:
    for size in (32, 100, 224, 600):
        tiles = synthesize(2, size=size)
        assert (tiles.dtype, tiles.shape) == (np.uint8, (2, size, size, 3))
    assert synthesize(0).shape == (0, 224, 224, 3)


def test_another_process_draws_the_same_bytes(tiles: np.ndarray) -> None:
    script = (
        "import hashlib\nfrom edgepath.tiles.synthetic import synthesize\n"
        # other tiles first: what was drawn before must not matter
        "synthesize(3, seed=1, size=64)\nprint(hashlib.sha256(synthesize(24, seed=7)).hexdigest())"
    )
    assert python(script).strip() == hashlib.sha256(tiles.tobytes()).hexdigest()


def test_every_seed_has_tiles_of_its_own() -> None:
    drawn = [synthesize(2, seed=seed, staining="GIV", scanner="AT2") for seed in (0, 1, 2, 2**40)]
    assert len({tile.tobytes() for tiles in drawn for tile in tiles}) == 8


@pytest.mark.parametrize(("start", "count"), [(0, 1), (5, 1), (5, 4), (22, 2)])
def test_tile_does_not_depend_on_count_or_start(tiles: np.ndarray, start: int, count: int) -> None:
    np.testing.assert_array_equal(synthesize(count, seed=7, start=start), tiles[start : start + count])


def test_default_look_is_the_one_look_of_names(tiles: np.ndarray) -> None:
    for index in (0, 11):
        staining, scanner = look_of(index, seed=7)
        np.testing.assert_array_equal(
            synthesize(1, seed=7, start=index, staining=staining, scanner=scanner)[0], tiles[index]
        )


def test_one_given_half_of_a_look_leaves_the_other(tiles: np.ndarray) -> None:
    staining, scanner = look_of(3, seed=7)
    np.testing.assert_array_equal(synthesize(1, seed=7, start=3, staining=staining)[0], tiles[3])
    np.testing.assert_array_equal(synthesize(1, seed=7, start=3, scanner=scanner)[0], tiles[3])
    other = SCANNERS[(SCANNERS.index(scanner) + 1) % len(SCANNERS)]
    assert (synthesize(1, seed=7, start=3, scanner=other)[0] != tiles[3]).any()


# --- looks


def test_names_are_those_of_plism() -> None:
    assert " ".join(STAININGS) == "GIV GIVH GM GMH GV GVH HR HRH KR KRH LM LMH MY"
    assert " ".join(SCANNERS) == "AT2 GT450 P S210 S360 S60 SQ"


@pytest.mark.parametrize("seed", [0, 7])
def test_each_run_of_91_tiles_has_every_look_once(seed: int) -> None:
    runs = [[look_of(index, seed) for index in range(start, start + 91)] for start in (0, 91, 910)]
    for run in runs:
        assert sorted(run) == sorted(PAIRS)
    assert runs[0] != runs[1] != runs[2]


def test_looks_of_another_seed_come_in_another_order() -> None:
    assert [look_of(i, 0) for i in range(91)] != [look_of(i, 1) for i in range(91)]


def test_one_tile_is_one_tissue_in_all_91_looks() -> None:
    for index in (1, 5):
        drawn = [synthesize(1, seed=3, start=index, staining=s, scanner=c, size=160)[0] for s, c in PAIRS]
        assert len({tile.tobytes() for tile in drawn}) == len(PAIRS)
        same = np.corrcoef(density(np.stack(drawn)).reshape(len(PAIRS), -1))
        # Not 1: haematoxylin and eosin weigh differently in each look.
        assert same.min() > 0.8


def test_different_tiles_are_different_tissue() -> None:
    drawn = density(synthesize(48, seed=3, staining="GIV", scanner="AT2")).reshape(48, -1)
    between = np.abs(np.corrcoef(drawn)[np.triu_indices(48, 1)])
    # Unrelated tiles still share that one side may be glass: some pairs correlate, never as two looks of a tile do.
    assert between.max() < 0.7
    assert between.mean() < 0.1


def test_name_with_h_has_more_haematoxylin() -> None:
    plain = [name for name in STAININGS if f"{name}H" in STAININGS]
    assert len(plain) == 6
    for name in plain:
        one, other = (synthesize(6, staining=s, scanner="P", size=96) for s in (name, f"{name}H"))
        # red light is absorbed by haematoxylin, hardly by eosin
        assert other[..., 0].mean() < one[..., 0].mean() - 3


@pytest.mark.parametrize("shift", [(8, -8), (0, 5), (-3, 2), (-8, 0)])
def test_shift_moves_the_tissue_right_and_down(shift: tuple[int, int]) -> None:
    for index in (0, 13):
        still = density(synthesize(1, start=index, staining="GIV", scanner="AT2"))[0]
        moved = density(synthesize(1, start=index, staining="HRH", scanner="SQ", shift=shift))[0]
        # the peak of the cross-correlation is where the two register
        spectra = (np.fft.fft2(image - image.mean()) for image in (still, moved))
        correlation = np.fft.ifft2(np.conj(next(spectra)) * next(spectra)).real
        down, right = np.unravel_index(correlation.argmax(), correlation.shape)
        assert ((right + 112) % 224 - 112, (down + 112) % 224 - 112) == shift


def test_shifted_tile_shows_the_same_pixels_but_for_noise() -> None:
    still, moved = (synthesize(1, scanner="P", shift=s)[0].astype(int) for s in ((0, 0), (3, -5)))
    difference = moved[:-5, 3:] - still[5:, :-3]
    # The noise stays where it is and the tissue moves: two draws of 1.2 levels, and rounding.
    assert difference[1:-1, 1:-1].std() < 1.2 * 2**0.5 + 0.5
    assert np.abs(difference[1:-1, 1:-1]).max() < 14


# --- Beer-Lambert and scanners


def test_pure_dyes_have_the_published_colours() -> None:
    # Ruifrok & Johnston's vectors as scikit-image and ImageJ print them, to two digits.
    one = np.eye(3, dtype=np.float32)[:, :, None]  # (3 dyes, 3 pixels of one dye each, 1)
    light = stain(one, Staining(0.0, 1.0, 0.0, 1.0))
    np.testing.assert_allclose(-np.log10(light[:, 0, 0]), (0.65, 0.70, 0.29), atol=0.006)
    np.testing.assert_allclose(-np.log10(light[:, 1, 0]), (0.07, 0.99, 0.11), atol=0.006)


@pytest.mark.parametrize("name", STAININGS)
def test_stain_is_beer_lambert(name: str) -> None:
    dyes = np.random.default_rng(0).uniform(0, 1.5, (3, 20, 20)).astype(np.float32)
    staining = STAINING_TABLE[name]

    def unit(first: tuple[float, ...], second: tuple[float, ...], hue: float) -> np.ndarray:
        vector = np.clip((1 - hue) * np.array(first) + hue * np.array(second), 0, None)
        return vector / np.sqrt((vector**2).sum())

    h = unit(*stains.HAEMATOXYLIN, staining.haematoxylin_hue)
    e = unit(*stains.EOSIN, staining.eosin_hue)
    r = unit(looks.RED_CELLS, looks.RED_CELLS, 0)
    amounts = dyes.astype(np.float64)
    expected = np.empty((3, 20, 20))
    for channel in range(3):
        optical_density = (
            amounts[0] * staining.haematoxylin * h[channel]
            + amounts[1] * (staining.eosin * e[channel] + staining.ground * h[channel])
            + amounts[2] * (0.4 + 0.6 * staining.eosin) * r[channel]
        )
        expected[channel] = 10**-optical_density
    # float32 exponents up to 5 carry a relative error of about 5 x 6e-8 into the result
    np.testing.assert_allclose(stain(dyes, staining), expected, rtol=3e-6)


def test_no_dye_is_the_scanners_white() -> None:
    for name, scanner in SCANNER_TABLE.items():
        glass = scan(np.ones((3, 64, 64), np.float32), scanner, np.random.default_rng(0))
        # the mean of 4096 pixels with 3 levels of correlated noise
        np.testing.assert_allclose(glass.mean(axis=(0, 1)), scanner.white, atol=0.5, err_msg=name)


@pytest.mark.parametrize("name", SCANNERS)
def test_scanner_keeps_flat_colours_by_its_formula(name: str) -> None:
    look = SCANNER_TABLE[name]
    silent = Scanner(look.matrix, look.white, look.gamma, look.softness, 0.0)
    for colour in ((0.4, 0.4, 0.4), (0.9, 0.5, 0.8), (0.3, 0.2, 0.6)):
        light = np.broadcast_to(np.array(colour, np.float32)[:, None, None], (3, 8, 8))
        pixels = scan(light, silent, np.random.default_rng(0))
        seen = np.clip(np.array(look.matrix) @ np.array(colour), 0, 1)
        expected = np.array(look.white) * seen**look.gamma
        # rounding to levels, and a table of 4096 steps
        np.testing.assert_allclose(pixels.reshape(-1, 3), np.tile(expected, (64, 1)), atol=0.65)
    assert np.allclose(np.array(look.matrix).sum(axis=1), 1)


def test_softness_blurs_and_sharpens() -> None:
    light = np.random.default_rng(1).uniform(0.3, 0.7, (3, 64, 64)).astype(np.float32)

    def contrast(softness: float) -> float:
        plain = Scanner(((1, 0, 0), (0, 1, 0), (0, 0, 1)), (255, 255, 255), 1.0, softness, 0.0)
        return float(scan(light, plain, np.random.default_rng(0)).std())

    assert contrast(0.15) < contrast(0.0) < contrast(-0.05)


def test_colours_are_those_of_real_tiles(real_tiles: Path) -> None:
    with open(real_tiles / "manifest.csv", encoding="utf-8", newline="") as file:
        names = [row["path"] for row in csv.DictReader(file) if not row["group"].startswith("scanners4")]
    real = np.stack([read_image(real_tiles / name, 224, "squash") for name in names[::12]])
    drawn = synthesize(91)
    # Hue and saturation, as differences of channels: R-G, B-G and B-R of the real tiles, 12 levels either way.
    for one, other in ((0, 1), (2, 1), (2, 0)):
        low, high = np.percentile(real[..., one].astype(int) - real[..., other], (0.05, 99.95))
        difference = drawn[..., one].astype(int) - drawn[..., other]
        assert ((low - 12 <= difference) & (difference <= high + 12)).mean() > 0.995


# --- tissue


def test_tissue_is_dye_amounts_with_room_for_the_shift() -> None:
    assert MAX_SHIFT == REACH == 8
    for index in range(12):
        dyes = grow(np.random.default_rng(index), 64)
        assert (dyes.dtype, dyes.shape) == (np.float32, (3, 80, 80))
        assert np.isfinite(dyes).all()
        assert dyes.min() >= 0
        assert dyes.max() < 4


def test_91_tiles_show_glass_nuclei_stroma_and_blood() -> None:
    tissue = np.stack([grow(np.random.default_rng((4, index)), 160) for index in range(91)])
    haematoxylin, eosin, red = tissue.transpose(1, 0, 2, 3).reshape(3, 91, -1)
    glass = (haematoxylin + eosin + red < 0.08).mean(axis=1)
    nuclear = (haematoxylin > 0.45).mean(axis=1)
    pink = ((eosin > 0.2) & (haematoxylin < 0.2)).mean(axis=1)
    bloody = (red > 0.2).mean(axis=1)
    assert 5 <= (glass > 0.4).sum() <= 40  # fat, lumina, the section's edge
    assert (glass < 0.05).sum() >= 10
    assert (nuclear > 0.3).sum() >= 3  # lymphoid tissue
    assert (nuclear > 0.05).sum() >= 30
    assert (pink > 0.5).sum() >= 5
    assert 3 <= (bloody > 0.05).sum() <= 45


def test_every_kind_of_ground_is_drawn() -> None:
    kinds = set()
    for index in range(150):
        kinds |= {cells.kind for cells in any_ground(np.random.default_rng(index), 64).cells}
    assert kinds == set(KINDS) - {"columnar"}  # those stand in glands


# Diameters of circles of the same area, in micrometres at 0.5 mpp: red cells are 6-8 in life and shrink when fixed.
@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        ("lymphocyte", 4.5, 7.5),
        ("epithelial", 5, 10),
        ("columnar", 4, 8),
        ("stromal", 3, 8),
        ("atypical", 5.5, 14),
        ("debris", 1, 5),
        ("red cell", 4.5, 7.5),
    ],
)
def test_cells_have_the_size_of_cells(kind: str, least: float, most: float) -> None:
    coverage = stamps_of(kind)[:, :, 0]
    diameter = 2 * np.sqrt(coverage.sum(axis=(-1, -2)) / np.pi) * 0.5
    assert least < diameter.min() < diameter.max() < most


@pytest.mark.parametrize("kind", KINDS)
def test_no_cell_is_cut_off_by_its_stamp(kind: str) -> None:
    stamps = stamps_of(kind)
    coverage = stamps[:, :, 0]
    assert stamps.shape[-1] == stamps.shape[-2]
    assert stamps.shape[-1] % 2 == 1
    for border in (coverage[..., 0], coverage[..., -1], coverage[..., 0, :], coverage[..., -1, :]):
        assert border.max() == 0
    assert coverage.max() == 1
    assert (stamps[:, :, 1] >= 0).all()
    assert not np.logical_and(stamps[:, :, 1] > 0, coverage == 0).any()


# --- the bank


def test_noise_has_mean_0_and_deviation_1() -> None:
    for name in ("cloud", "blotch", "granule", "grain", "bundle", "fibril"):
        values = getattr(bank(), name).values
        # float32 of a field normalised in float64
        assert values.shape == (PERIOD, PERIOD)
        assert abs(values.mean()) < 1e-5, name
        assert abs(values.std() - 1) < 1e-5, name
        # periodic: the step across the seam is no larger than steps elsewhere
        assert np.abs(values[0] - values[-1]).mean() < 1.5 * np.abs(np.diff(values, axis=0)).mean(), name


def test_lookup_is_bilinear_and_wraps() -> None:
    field = Field(np.random.default_rng(0).standard_normal((PERIOD, PERIOD)).astype(np.float32))
    x, y = np.random.default_rng(1).uniform(-700, 1300, (2, 40, 40)).astype(np.float32)
    expected = map_coordinates(field.values.astype(np.float64), [y, x], order=1, mode="grid-wrap")
    # float32 coordinates near 1000 resolve 6e-5 of a texel
    np.testing.assert_allclose(field.at(x, y), expected, atol=1e-3)


def test_window_is_a_piece_of_the_field_flipped_or_not() -> None:
    values = np.arange(PERIOD * PERIOD, dtype=np.float32).reshape(PERIOD, PERIOD)  # every texel its own number
    steps = set()
    for seed in range(12):
        window = Field(values).crop(np.random.default_rng(seed), 600)
        rows, columns = np.divmod(window.astype(int), PERIOD)
        assert (rows == rows[:, :1]).all()
        assert (columns == columns[:1]).all()
        down, right = (np.unique(np.diff(line) % PERIOD) for line in (rows[:, 0], columns[0]))
        steps.add((int(down.item()), int(right.item())))
    assert steps == {(a, b) for a in (1, PERIOD - 1) for b in (1, PERIOD - 1)}


@pytest.mark.parametrize("name", ["cells", "vacuoles"])
def test_mosaic_is_the_voronoi_diagram_of_its_centres(name: str) -> None:
    mosaic = getattr(bank(), name)
    pixels = np.stack(np.meshgrid(np.arange(PERIOD), np.arange(PERIOD)), -1).reshape(-1, 2)
    distance, owner = cKDTree(mosaic.centres.astype(np.float64) % PERIOD, boxsize=PERIOD).query(pixels, k=2)
    border = mosaic.border.values.ravel()
    # float32 distances up to 60 px; where the two are equally far either may own the pixel
    np.testing.assert_allclose(border, (distance[:, 1] - distance[:, 0]) / 2, atol=1e-4)
    inside = border > 1e-3
    np.testing.assert_array_equal(mosaic.cell.values.ravel()[inside], owner[inside, 0])


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"staining": "GIVX"}, 'staining "GIVX" is unknown; did you mean "GIV'),
        ({"staining": "trichrome"}, "known: GIV, GIVH, GM"),
        ({"scanner": "GT45"}, 'scanner "GT45" is unknown; did you mean "GT450"'),
        ({"scanner": ""}, 'scanner "" is unknown'),
        ({"count": -1}, "count = -1; give 0 or more"),
        ({"seed": -1}, "seed = -1; give 0 or more"),
        ({"start": -2}, "start = -2; give 0 or more"),
        ({"size": 31}, "size = 31; give 32 or more"),
        ({"shift": (9, 0)}, "at most 8 pixels either way"),
        ({"shift": (0, -9)}, "at most 8 pixels either way"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        synthesize(**({"count": 1} | arguments))  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("index", "seed"), [(-1, 0), (0, -1)])
def test_no_look_before_the_first_tile(index: int, seed: int) -> None:
    with pytest.raises(UsageError, match="give 0 or more for both"):
        look_of(index, seed)
