"""With the class token spared, every other token is rounded as before, the embedding drifts less, and IRs hold it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import edgepath
from edgepath.backends import builds_of
from edgepath.backends.openvino_ir import is_product, quantizer_of
from edgepath.backends.runners.openvino import core
from edgepath.checks.debugging import debug
from edgepath.checks.layerwise import prove
from edgepath.checks.parts import CLASS_TOKEN, differences, named_parts
from edgepath.errors import BundleError, RecipeError
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import calibrate
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.forms import Program
from edgepath.program.linear import INT8_MAX, QuantizedLinear, quantize, quantize_linear, spare_class_token
from edgepath.program.qad import FakeQuantLinear, Options, repair
from edgepath.program.split_projections import cut
from edgepath.recipes.recipe import Recipe, find_recipe
from edgepath.searching import search

TILES: dict[str, Any] = {"weights": "random", "calibration": "synthetic:64", "calibration_tiles": 16, "device": "cpu"}


def recipe() -> Recipe:
    base = find_recipe("openvino-int8")
    return replace(base, target="spared", quantize=replace(base.quantize, looks=13, class_token="float"))


@pytest.fixture
def written(tmp_path: Path) -> str:
    path = tmp_path / "spared.toml"
    path.write_text(recipe().to_toml(), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def plain(tiny: ModelSpec, tiles: np.ndarray) -> EdgeModel:
    net = fold(random_model(tiny), tiny)
    return quantize(net, calibrate(net, [tiles[:8]]))


def test_the_first_token_is_not_rounded_and_the_others_are_as_before() -> None:
    torch.manual_seed(0)
    layer = quantize_linear(nn.Linear(32, 16), 3.0)
    x = torch.randn(2, 7, 32)
    before = layer(x)
    weight = layer.weight * layer.weight_scale[:, None]
    layer.spared = "first"
    torch.testing.assert_close(layer(x)[:, 1:], before[:, 1:])
    torch.testing.assert_close(layer(x)[:, :1], F.linear(x[:, :1], weight, layer.bias))
    assert not torch.allclose(layer(x)[:, :1], before[:, :1], atol=1e-4)
    layer.spared = "all"
    torch.testing.assert_close(layer(x), F.linear(x, weight, layer.bias))


@pytest.mark.parametrize("embedding", ["cls", "cls+mean"])
def test_what_sees_the_class_token_alone_is_not_rounded_at_all(
    tiny: ModelSpec, tiles: np.ndarray, embedding: str
) -> None:
    net = fold(random_model(tiny), tiny, embedding=embedding)
    net = spare_class_token(quantize(net, calibrate(net, [tiles[:4]])))
    spared = {name: layer.spared for name, layer in net.named_modules() if isinstance(layer, QuantizedLinear)}
    alone = {f"vit.blocks.1.{name}" for name in ("attn.q", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert spared == {name: "all" if embedding == "cls" and name in alone else "first" for name in spared}
    assert all(layer.spared != "none" for layer in cut(net).modules() if isinstance(layer, QuantizedLinear))


def test_the_embedding_drifts_less(tiny: ModelSpec, plain: EdgeModel, tiles: np.ndarray) -> None:
    pixels, full = torch.from_numpy(tiles[8:16]), fold(random_model(tiny), tiny)
    with torch.inference_mode():
        wanted = full(pixels)
        drift = [
            float(1 - torch.cosine_similarity(net(pixels), wanted).mean())
            for net in (plain, spare_class_token(copy.deepcopy(plain)))
        ]
    assert drift[1] < 0.7 * drift[0]


def test_an_exported_bundle_holds_it_and_is_rebuilt(known_tiny: ModelSpec, written: str, tmp_path: Path) -> None:
    done = edgepath.export(written, model=known_tiny.name, out=tmp_path, **TILES)
    rounded = tmp_path / "rounded.toml"
    rounded.write_text(replace(recipe(), quantize=replace(recipe().quantize, class_token="int8")).to_toml())
    base = edgepath.export(str(rounded), model=known_tiny.name, out=tmp_path / "rounded", **TILES)
    total, before = (1 - one.report["drift"]["quantization"]["cosine_mean"] for one in (done, base))
    assert total < 0.7 * before
    # The weights are stored once, whatever is multiplied by them.
    assert done.report["artifact"]["size_bytes"] < 1.1 * base.report["artifact"]["size_bytes"] + 50_000
    found = edgepath.verify(done.bundle, tiles="synthetic:4:5", weights="random", device="cpu")
    assert found["tiles"]["differences"] == []
    assert found["tiles"]["drift"]["lowering"]["cosine_mean"] > 0.999
    looked = debug(done.bundle, weights="random")
    assert looked["parts"]["differences"] == looked["unproved"] == []


def test_an_artifact_of_the_other_program_is_told(plain: EdgeModel, tmp_path: Path) -> None:
    spared = spare_class_token(copy.deepcopy(plain))
    artifact = builds_of("openvino").build(Program(spared, recipe()), tmp_path, recipe())
    program = cut(spared)
    assert differences(program, artifact) == []
    assert "products with weights, the program has" in str(differences(cut(plain), artifact)[0])
    other = copy.deepcopy(program)
    name = next(name for name, product in named_parts(other)[0].items() if name.endswith(f"fc2{CLASS_TOKEN}"))
    layer: Any = other.get_submodule(name.removesuffix(CLASS_TOKEN))
    layer.weight = layer.weight.clone()
    layer.weight[0, 0] = -layer.weight[0, 0] - 1
    said = list(map(str, differences(other, artifact)))
    assert [line.partition(": ")[0] for line in said] == [name, name.removesuffix(CLASS_TOKEN)]
    other = copy.deepcopy(program)
    layer = other.get_submodule("vit.blocks.1.mlp.fc2")
    layer.spared = "none"
    assert list(map(str, differences(other, artifact))) == ["vit.blocks.1.mlp.fc2: its input is not rounded"]


def test_an_artifact_that_rounds_other_tokens_is_told(plain: EdgeModel, tmp_path: Path) -> None:
    program = cut(spare_class_token(copy.deepcopy(plain)))
    artifact = builds_of("openvino").build(
        Program(spare_class_token(copy.deepcopy(plain)), recipe()), tmp_path, recipe()
    )
    name = "vit.blocks.0.attn.proj"

    def altered(change: Callable[[Any, Any, Any], None]) -> Path:
        model = core().read_model(artifact)
        # The patch convolution, two products each of queries, keys and values, and the two of `name`.
        given, rounded = [node for node in model.get_ordered_ops() if is_product(node)][7:9]
        change(given, rounded, quantizer_of(rounded))
        openvino.save_model(model, tmp_path / "odd.xml", compress_to_fp16=False)
        return tmp_path / "odd.xml"

    def swap(given: Any, _: Any, quantizer: Any) -> None:
        first, rest = given.input_value(0), quantizer.input_value(0)
        given.input(0).replace_source_output(rest)
        quantizer.input(0).replace_source_output(first)

    assert list(map(str, differences(program, altered(swap)))) == [
        f"{name}{CLASS_TOKEN}: its input is rounded",
        f"{name}: its input is not rounded",
    ]

    def bare(_: Any, rounded: Any, quantizer: Any) -> None:
        rounded.input(0).replace_source_output(quantizer.input_value(0))

    odd = altered(bare)
    assert list(map(str, differences(program, odd))) == [f"{name}: its input is not rounded"]
    with pytest.raises(BundleError, match=f"the input of {name} is not quantized; export it again"):
        prove(program, odd, np.zeros((1, 224, 224, 3), np.uint8))


def test_search_judges_layers_with_the_class_token_spared(known_tiny: ModelSpec, written: str, tmp_path: Path) -> None:
    found = search(written, {"cosine_mean": 0.5}, tmp_path / "found.toml", model=known_tiny.name, **TILES)
    done = edgepath.export(written, model=known_tiny.name, out=tmp_path, **TILES)
    point = found["points"][0]
    assert point["cosine_mean"] == pytest.approx(done.report["drift"]["quantization"]["cosine_mean"], abs=1e-9)
    assert 'class_token = "float"' in (tmp_path / "found.toml").read_text()


@pytest.mark.parametrize("target", ["onnx-int8", "jetson-int8", "coreml-int8", "openvino-fp16"])
def test_other_targets_are_refused(target: str) -> None:
    values = find_recipe(target).to_json()
    values["quantize"]["class_token"] = "float"
    with pytest.raises(RecipeError, match=r'quantize\.class_token = "float"; it can be so in INT8 targets of openvino'):
        Recipe.from_json(values)


@pytest.mark.parametrize("spared", ["none", "first", "all"])
def test_fake_quantization_spares_what_the_stored_layer_spares(spared: Any) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 16), torch.randn(2, 7, 32)
    plain = quantize_linear(linear, 3.0)
    fake = FakeQuantLinear(linear, plain, INT8_MAX)
    plain.spared = fake.spared = spared
    torch.testing.assert_close(fake(x), plain(x), atol=1e-5, rtol=0)
    assert fake.frozen().spared == spared
    torch.testing.assert_close(fake.frozen()(x), plain(x))


def test_training_begins_with_the_class_token_spared(tiny: ModelSpec, tiles: np.ndarray) -> None:
    teacher = fold(random_model(tiny), tiny)
    ranges, held = calibrate(teacher, [tiles[:8]]), torch.from_numpy(tiles[:16:8].copy())
    net, facts = repair(
        copy.deepcopy(teacher), ranges, tiles[:16], teacher, Options(steps=1, learning_rate=10.0), class_token="float"
    )
    assert facts.best_step == 0
    plain = spare_class_token(quantize(copy.deepcopy(teacher), ranges))
    with torch.inference_mode():
        drift = 1 - torch.cosine_similarity(plain(held).double(), teacher(held).double()).mean()
        torch.testing.assert_close(net(held), plain(held), atol=1e-4, rtol=1e-4)
    assert facts.drift_before == pytest.approx(float(drift), rel=0.02, abs=1e-9)


def test_a_trained_bundle_spares_it_and_is_rebuilt(known_tiny: ModelSpec, written: str, tmp_path: Path) -> None:
    base = edgepath.export(written, model=known_tiny.name, out=tmp_path / "plain", **TILES)
    done = edgepath.export(written, model=known_tiny.name, qad=2, out=tmp_path, **TILES)
    # It began as near as the program that spares the class token is: with all tokens rounded it is twice as far.
    begun = done.report["qad"]["drift_before"]
    assert begun == pytest.approx(1 - base.report["drift"]["quantization"]["cosine_mean"], rel=0.4)
    found = edgepath.verify(done.bundle, tiles="synthetic:4:5", weights="random", device="cpu")
    assert found["tiles"]["differences"] == []
    assert found["tiles"]["drift"]["lowering"]["cosine_mean"] > 0.999
