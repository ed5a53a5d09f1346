"""What a program makes of golden tiles is computed once for a program, and again for any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grimp
import numpy as np
import pytest

from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program import own_embeddings as module
from edgepath.program.fold import fold
from edgepath.program.forms import Program
from edgepath.program.linear import QuantizedLinear, quantize_linear
from edgepath.program.own_embeddings import COMPUTED_BY, KEPT, own_embeddings
from edgepath.recipes.recipe import find_recipe

LAYER = "vit.blocks.0.mlp.fc1"


def program(tiny: ModelSpec, change: Callable[[Any], object] = lambda layer: None) -> Program:
    """Return a program with one quantized layer, changed by `change`."""
    net = fold(random_model(tiny), tiny)
    parent: Any = net.vit.blocks[0].mlp  # type: ignore[union-attr, index]
    parent.fc1 = quantize_linear(parent.fc1, 3.0)
    assert isinstance(net.get_submodule(LAYER), QuantizedLinear)
    change(parent.fc1)
    return Program(net, find_recipe("onnx-int8"))


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiles: np.ndarray) -> Callable[[Program], bool]:
    """Tell whether what a program makes of the tiles was known; either way it has to be what the program makes."""
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path))

    def ask(asked: Program) -> bool:
        done: list[int] = []
        calls: list[int] = []
        encode = asked.model.encode
        asked.model.encode = lambda x: (calls.append(len(x)), encode(x))[1]  # type: ignore[method-assign]
        found = own_embeddings(asked, tiles[:10], done.append)
        asked.model.encode = encode  # type: ignore[method-assign]
        assert sum(done) == 10
        np.testing.assert_array_equal(found["program"], np.concatenate([asked(tiles[:8]), asked(tiles[8:10])]))
        np.testing.assert_array_equal(found["nudged"], asked.nudged(tiles[:8]))
        return not calls

    return ask


def test_one_program_is_computed_once(tiny: ModelSpec, known: Callable[[Program], bool], tmp_path: Path) -> None:
    assert not known(program(tiny))
    assert known(program(tiny))
    for file in (tmp_path / "program").iterdir():
        file.write_bytes(file.read_bytes()[:-30])
    assert not known(program(tiny))
    assert known(program(tiny))


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.weight.view(-1)[:1].add_(1),
        lambda layer: layer.weight_scale[:1].mul_(2),
        lambda layer: layer.bias[:1].add_(0.5),
        lambda layer: setattr(layer, "input_scale", layer.input_scale * 2),
        lambda layer: setattr(layer, "spared", "first"),
    ],
    ids=["weight", "scale of weights", "bias", "scale of inputs", "spared tokens"],
)
def test_another_program_is_computed_anew(
    change: Callable[[Any], object], tiny: ModelSpec, known: Callable[[Program], bool]
) -> None:
    assert not known(program(tiny))
    assert not known(program(tiny, change))


def test_other_code_computes_anew(
    tiny: ModelSpec, known: Callable[[Program], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not known(program(tiny))
    for changed in ("device_name", "_code"):
        with monkeypatch.context() as patch:
            patch.setattr(module, changed, lambda *_: "another")
            assert not known(program(tiny))


def test_a_program_that_is_watched_is_always_computed(
    tiny: ModelSpec, tiles: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path))
    watched = Program(fold(random_model(tiny), tiny), find_recipe("jetson-fp16"))
    assert set(own_embeddings(watched, tiles[:2], lambda _: None)) == set(KEPT)
    assert not (tmp_path / "program").exists()


def test_what_computes_a_program_is_all_that_it_imports() -> None:
    graph = grimp.build_graph("edgepath", cache_dir=None)
    roots = ("edgepath.program.fold", "edgepath.program.linear")
    found = set(roots).union(*map(graph.find_upstream_modules, roots))
    in_program = {name.removeprefix("edgepath.").replace(".", "/") for name in found if ".program." in name}
    assert in_program <= set(COMPUTED_BY)
