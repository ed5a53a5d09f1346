"""Stain vectors are the published ones, as unit vectors."""

from __future__ import annotations

import numpy as np
import pytest

from edgepath.tiles.stains import EOSIN, HAEMATOXYLIN, stain_vector, stain_vectors


@pytest.mark.parametrize(("stain", "row"), [(HAEMATOXYLIN, 0), (EOSIN, 1)])
def test_hues_0_and_1_are_the_published_vectors(stain: tuple[tuple[float, ...], ...], row: int) -> None:
    for hue, vector in enumerate(stain):
        assert stain_vectors(hue, hue)[row] == pytest.approx(np.array(vector) / np.linalg.norm(vector))


def test_vectors_are_units_and_the_rest_is_across_both_middles() -> None:
    for hue in (-0.5, 0.0, 0.5, 1.5):
        vectors = stain_vectors(hue, hue)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
        assert (vectors[:2] >= 0).all()  # light is taken, never added
    middle = stain_vectors(0.5, 0.5)
    assert middle[2] @ middle[0] == pytest.approx(0, abs=1e-12)
    assert middle[2] @ middle[1] == pytest.approx(0, abs=1e-12)
    assert stain_vector(HAEMATOXYLIN, 0.5) == pytest.approx(middle[0])
