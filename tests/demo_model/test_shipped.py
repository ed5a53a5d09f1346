"""The student that ships: its weights, its card, and that it is what `demo` means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgepath.models.catalogue import find_model
from edgepath.models.weights import load_model, shipped_weights
from tools.demo_model.card import to_card
from tools.demo_model.scoring import LABELLED, REGISTERED


@pytest.fixture(scope="module")
def folder() -> Path:
    found = shipped_weights("demo")
    assert found is not None
    return found


def test_demo_means_the_shipped_student(folder: Path) -> None:
    vit, spec, weights = load_model(find_model("demo"))
    assert weights.source == "demo, shipped with edgepath"
    assert not weights.random
    assert spec.mean == find_model("demo").mean
    _, _, again = load_model(find_model("demo"), folder)
    assert again.sha256 == weights.sha256
    _, _, drawn = load_model(find_model("demo"), "random")
    assert drawn.random
    assert drawn.sha256 != weights.sha256
    assert all(torch.isfinite(value).all() for value in vit.state_dict().values())


def test_weights_are_half_precision_and_small(folder: Path) -> None:
    from safetensors.torch import load_file

    assert (folder / "model.safetensors").stat().st_size <= 12e6
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float16}


def test_card_is_made_of_the_figures_that_ship(folder: Path) -> None:
    facts = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card == to_card(facts)
    for said in ("Not for clinical use", "CC BY 3.0", "Apache-2.0", "python -m tools.demo_model", "seed 0"):
        assert said in card
    for name in ("teacher", "student", "random weights", "colour histogram"):
        of = facts["figures"][name]
        assert 0 <= of[REGISTERED]["top1"] <= of[REGISTERED]["top10"] <= 1
        for labelled in LABELLED:
            assert f"{of[labelled]['knn']['balanced_accuracy']:.3f}" in card


def test_figures_are_the_weights_own(folder: Path, real_tiles: Path) -> None:
    from edgepath.models.reference import Runner
    from edgepath.tiles.opening import open_tiles
    from tools.demo_model.making import split
    from tools.demo_model.retrieval import retrieve
    from tools.demo_model.scoring import embed_all

    facts = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    vit, spec, _ = load_model(find_model("demo"))
    _, test = split(open_tiles(real_tiles))
    rows = [i for i, key in enumerate(test.keys) if key.startswith(REGISTERED)]
    registered = test.select(rows)
    with Runner(vit, spec.mean, spec.std) as run:
        embeddings = embed_all(run, registered)
    scanners = sorted({key.split("/")[1] for key in registered.keys})
    by_scanner = {name: embeddings[[key.split("/")[1] == name for key in registered.keys]] for name in scanners}
    found = retrieve(by_scanner)
    assert found.top1 == pytest.approx(facts["figures"]["student"][REGISTERED]["top1"], abs=0.02)
    assert found.cosine == pytest.approx(facts["figures"]["student"][REGISTERED]["cosine"], abs=1e-3)
