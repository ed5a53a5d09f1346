"""A spec says what a model is: checked against timm, and against what H0-mini's authors published."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from edgepath.errors import UsageError
from edgepath.models.catalogue import ModelSpec, find_model, model_specs
from edgepath.models.weights import build


def parameters(spec: ModelSpec) -> int:
    with torch.device("meta"):  # shapes only: nothing is allocated
        return sum(value.numel() for value in build(spec).parameters())


def test_h0_mini_is_the_published_architecture() -> None:
    spec = find_model("h0-mini")
    assert parameters(spec) == 85_739_520
    with torch.device("meta"):
        vit = build(spec).eval()
        assert vit.num_prefix_tokens == 5  # the class token and 4 registers
        assert vit.forward_features(torch.empty(1, 3, 224, 224)).shape == (1, 261, 768)
    assert [vit.get_submodule(f"blocks.0.mlp.{name}").weight.shape for name in ("fc1", "fc2")] == [
        (4096, 768),
        (768, 2048),
    ]
    assert len(vit.blocks) == 12


def test_h0_mini_sees_what_it_was_trained_on() -> None:
    # From its model card; ImageNet's mean and std are a mistake that changes every figure and crashes nothing.
    spec = find_model("h0-mini")
    assert spec.mean == (0.707223, 0.578729, 0.703617)
    assert spec.std == (0.211883, 0.230117, 0.177517)
    assert (spec.size, spec.hub, spec.embedding) == (224, "bioptimus/H0-mini", "cls")
    assert spec.licence == "CC-BY-NC-ND-4.0, gated"


def test_h_optimus_0_is_the_published_architecture() -> None:
    # Its card: hf-hub:bioptimus/H-optimus-0, init_values=1e-5, 1.1 B parameters, 1536 features, H0-mini's mean and std.
    spec = find_model("h-optimus-0")
    assert parameters(spec) == 1_134_774_272
    with torch.device("meta"):
        vit = build(spec).eval()
        assert vit.num_prefix_tokens == 5
        assert vit.forward_features(torch.empty(1, 3, 224, 224)).shape == (1, 261, 1536)
        assert "blocks.39.ls2.gamma" in vit.state_dict()
    assert (spec.mean, spec.std) == (find_model("h0-mini").mean, find_model("h0-mini").std)
    assert (spec.hub, spec.licence) == ("bioptimus/H-optimus-0", "Apache-2.0, gated")


def test_demo_is_h0_minis_structure_at_5_5_million_parameters() -> None:
    demo, h0_mini = find_model("demo"), find_model("h0-mini")
    assert 5.4e6 < parameters(demo) < 5.6e6
    assert demo.hub == ""  # its weights ship with edgepath
    assert (demo.mean, demo.std, demo.timm_name) == (h0_mini.mean, h0_mini.std, h0_mini.timm_name)


def test_tiny_has_h0_minis_blocks(tiny: ModelSpec) -> None:
    with torch.device("meta"):
        small, large = build(tiny), build(find_model("h0-mini"))
    kinds = [[type(layer) for layer in vit.blocks[0].modules()] for vit in (small, large)]
    assert kinds[0] == kinds[1]
    assert small.num_prefix_tokens == large.num_prefix_tokens


@pytest.mark.parametrize(
    ("name", "million", "mean"),
    [
        ("vit_tiny_patch16_224", 5.5, (0.5, 0.5, 0.5)),
        ("vit_tiny_patch16_224.augreg_in21k", 5.5, (0.5, 0.5, 0.5)),
        ("deit_tiny_patch16_224", 5.5, (0.485, 0.456, 0.406)),
        ("vit_small_patch14_reg4_dinov2", 22, (0.485, 0.456, 0.406)),
    ],
)
def test_timm_names_bring_their_own_preprocessing(name: str, million: float, mean: tuple[float, ...]) -> None:
    spec = find_model(f"timm:{name}")
    assert (spec.name, spec.timm_name, spec.mean) == (f"timm:{name}", name, mean)
    assert spec.licence == "apache-2.0"
    assert spec.hub.startswith(f"timm/{name.partition('.')[0]}.")
    assert abs(parameters(spec) / 1e6 - million) < 0.1 * million
    with torch.device("meta"):
        assert build(spec).patch_embed.img_size == (224, 224)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("h0mini", 'did you mean "h0-mini"'),
        ("H0-mini", '"h0-mini"'),
        ("resnet", "known: demo, h-optimus-0, h0-mini"),
        ("timm:vit_tiny_patch16_244", "vit_tiny_patch16_224"),
        ("timm:", "timm.list_models"),
        ("timm:resnet50", "timm.list_models"),
    ],
)
def test_unknown_name_is_one_line_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_model(name)
    assert f'"{name}"' in str(caught.value)
    assert nearest in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["demo", "h0-mini", "timm:vit_tiny_patch16_224"])
def test_spec_survives_json(name: str) -> None:
    spec = find_model(name)
    values = json.loads(json.dumps(spec.to_json()))
    assert ModelSpec.from_json(values) == spec
    assert values["schema"] == 1
    assert values["mean"] == list(spec.mean)
    assert parameters(ModelSpec.from_json(values)) == parameters(spec)


def test_names_are_unique_and_every_model_says_its_licence() -> None:
    assert len({spec.name for spec in model_specs()}) == len(model_specs())
    assert all(spec.licence and spec.summary for spec in model_specs())


def test_known_models_are_found_without_timm_and_torch() -> None:
    script = (
        "import sys; sys.modules.update(timm=None, torch=None)\n"
        "from edgepath.errors import MissingRuntime\n"
        "from edgepath.models import find_model\n"
        "print(find_model('h0-mini').name)\n"
        "try: find_model('timm:vit_tiny_patch16_224')\n"
        "except MissingRuntime as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith("h0-mini\n")
    assert "pip install 'edgepath[export]'" in said
