"""A look's cell is the mean over its pairs; where there are no looks, a cell is a pair."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from edgepath.reports.page.heat import Cell, HeatMap, less, map_differences, map_scores, matrix
from edgepath.reports.page.rendering import templates

LOOKS = {f"{a}_{b}": [a, b] for a in ("GMH", "KR") for b in ("AT2", "S60", "P")}
RNG = np.random.default_rng(0)
PAIRS = [{"of": list(of), "cosine": float(RNG.uniform())} for of in combinations(LOOKS, 2)]


def found_cells(drawn: HeatMap) -> list[Cell]:
    return [cell for _, cells in drawn.rows for cell in cells if cell is not None]


def test_a_look_is_the_mean_over_its_pairs() -> None:
    found = matrix(PAIRS, LOOKS, "cosine")
    assert (found.rows, found.columns, found.looks) == (("GMH", "KR"), ("AT2", "P", "S60"), True)
    expected = np.mean([pair["cosine"] for pair in PAIRS if "KR_P" in pair["of"]])
    assert found.values[1][1] == pytest.approx(expected)
    # The mean over a scanner's column is what the gate on the worst scanner averages, pairs within it counted twice.
    own = [pair["cosine"] for pair in PAIRS for name in pair["of"] if name.endswith("_P")]
    assert np.mean([row[1] for row in found.values]) == pytest.approx(np.mean(own))


def test_slides_without_stainings_are_compared_in_pairs() -> None:
    looks = {name: ["", name] for name in "abc"}
    pairs = [{"of": ["a", "b"], "cosine": 0.5}, {"of": ["a", "c"], "cosine": 0.25}, {"of": ["b", "c"], "cosine": 1.0}]
    found = matrix(pairs, looks, "cosine")
    assert found.values == ((None, 0.5, 0.25), (0.5, None, 1.0), (0.25, 1.0, None))
    assert not found.looks
    one_scanner = {"GMH_P": ["GMH", "P"], "KR_P": ["KR", "P"]}
    assert matrix([{"of": list(one_scanner), "cosine": 0.5}], one_scanner, "cosine").rows == ("GMH_P", "KR_P")


def test_differences_say_what_was_lost_in_hundredths() -> None:
    full = matrix(PAIRS, LOOKS, "cosine")
    artifact = matrix(
        [pair | {"cosine": pair["cosine"] - 0.02 * ("KR_P" in pair["of"])} for pair in PAIRS], LOOKS, "cosine"
    )
    drawn = less(full, artifact)
    assert drawn.values[1][1] == pytest.approx(-0.02)
    assert drawn.values[0][0] == pytest.approx(-0.02 / 5)  # one of its five pairs
    cells = found_cells(map_differences(drawn, "difference", 0.01))
    assert (cells[4].ground, cells[4].text) == ("#7f3b08", "\N{MINUS SIGN}2.0")  # the darkest orange
    assert {cell.text for cell in cells if cell != cells[4]} == {"\N{MINUS SIGN}0.4"}


def test_scores_are_light_to_dark_on_a_common_scale() -> None:
    cells = found_cells(map_scores(matrix(PAIRS, LOOKS, "cosine"), "a", 0, 1))
    assert len(cells) == 6
    by_value = sorted((float(cell.text), int(cell.ground[1:3], 16)) for cell in cells)
    assert [red for _, red in by_value] == sorted((red for _, red in by_value), reverse=True)


def test_names_stay_text_and_empty_cells_empty() -> None:
    looks = {name: ["", name] for name in ("<b>", "c")}
    drawn = map_scores(matrix([{"of": ["<b>", "c"], "cosine": 0.5}], looks, "cosine"), "<i>", 0.5, 0.5)
    html = templates().get_template("parts.html.j2").module.heat_map(drawn)  # type: ignore[attr-defined]
    assert "<b>" not in html
    assert "<i>" not in html
    assert html.count("&lt;b&gt;") == 2
    assert html.count("<td></td>") == 3  # the corner and the diagonal
