"""What a `config.json` or a model config says of a model is built, or refused by name: never passed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_layouts import State, metas, under
from safetensors.torch import save_file
from torch import nn

from edgepath.errors import EdgepathError, UsageError, WeightsError
from edgepath.models.catalogue import ModelSpec, find_model
from edgepath.models.weights import build, load_model, random_model

SMALL = {"embed_dim": 96, "num_heads": 3, "depth": 2, "img_size": 56, "num_classes": 0}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLASSES = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "GluMlp": timm.layers.GluMlp, "SiLU": nn.SiLU}
LIKE: dict[str, tuple[str, dict[str, Any]]] = {
    # As the folders of these models describe them, at a small width, and what their cards add in code.
    "UNI": ("vit_large_patch16_224", {"patch_size": 8, "init_values": 1e-5, "dynamic_img_size": True}),
    "Virchow2": (
        "vit_huge_patch14_224",
        {
            "reg_tokens": 4, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", "dynamic_img_size": True,
            "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU",
        },
    ),
    "UNI2": (
        "vit_giant_patch14_224",
        {
            "reg_tokens": 8, "no_embed_class": True, "init_values": 1e-5, "mlp_ratio": 5.33334,
            "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "dynamic_img_size": True,
        },
    ),
    "Prov-GigaPath": ("vit_giant_patch14_dinov2", {"patch_size": 8, "init_values": 1e-5, "mlp_ratio": 5.33334}),
    "relu": ("vit_tiny_patch16_224", {"patch_size": 8, "act_layer": "relu"}),
    "quick_gelu": ("vit_tiny_patch16_224", {"patch_size": 8, "act_layer": "quick_gelu"}),
    "swish": ("vit_tiny_patch16_224", {"patch_size": 8, "act_layer": "swish", "mlp_layer": "GluMlp"}),
    "no biases": ("vit_tiny_patch16_224", {"patch_size": 8, "qkv_bias": False, "proj_bias": False, "pre_norm": True}),
    "norms in attention": ("vit_tiny_patch16_224", {"patch_size": 8, "qk_norm": True}),
    "training": ("vit_tiny_patch16_224", {"patch_size": 8, "drop_path_rate": 0.1, "weight_init": "skip"}),
}  # fmt: skip


def timms_own(architecture: str, arguments: dict[str, Any]) -> nn.Module:
    """The model as timm builds it, under weights that show every part."""
    built = {name: CLASSES.get(value, value) if name.endswith("_layer") else value for name, value in arguments.items()}
    vit = timm.create_model(architecture, **SMALL | built).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in vit.parameters():
            value.copy_((value.ndim == 1) * 0.3 + 0.2 * torch.randn(value.shape, generator=generator))
    return vit


def folder(path: Path, state: State, of: str, arguments: dict[str, Any], **top: Any) -> Path:
    path.mkdir()
    save_file({name: value.contiguous() for name, value in state.items()}, path / "model.safetensors")
    seen = {"input_size": [3, 56, 56], "interpolation": "bicubic", **IMAGENET}
    values = {"architecture": of, "num_classes": 0, "model_args": arguments, "pretrained_cfg": seen}
    (path / "config.json").write_text(json.dumps(values | top))
    return path


def same(one: nn.Module, other: nn.Module, size: int = 56) -> bool:
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return torch.equal(one.forward_features(pixels), other.forward_features(pixels))


@pytest.mark.parametrize("like", LIKE)
def test_a_hub_folder_loads_as_timm_builds_it(like: str, tmp_path: Path) -> None:
    architecture, arguments = LIKE[like]
    wanted = timms_own(architecture, arguments)
    given = folder(tmp_path / like, wanted.state_dict(), architecture, SMALL | arguments)
    vit, spec, weights = load_model(find_model(f"timm:{architecture}"), given)
    assert same(vit, wanted)
    assert (spec.size, spec.mean, spec.licence) == (56, tuple(IMAGENET["mean"]), "not stated")
    assert weights.source == like
    # What a bundle records builds the same model again.
    again, _, _ = load_model(ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))), given)
    assert same(again, wanted)


def test_a_folder_that_leaves_the_gate_to_code_says_what_to_give(tmp_path: Path) -> None:
    # Virchow's and UNI2's own folders: their cards pass mlp_layer and act_layer in code.
    architecture, arguments = LIKE["Virchow2"]
    wanted = timms_own(architecture, arguments)
    named = {name: value for name, value in arguments.items() if not name.endswith("_layer")}
    given = folder(tmp_path / "virchow2", wanted.state_dict(), architecture, SMALL | named)
    with pytest.raises(WeightsError, match="its MLPs are gated: give --model-config with mlp_layer and act_layer"):
        load_model(find_model(f"timm:{architecture}"), given)
    table = "\n".join(f"{name} = {json.dumps(value)}" for name, value in (SMALL | arguments).items())
    text = f'architecture = "{architecture}"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n[model_args]\n{table}\n'
    (tmp_path / "virchow2.toml").write_text(text)
    vit, spec, weights = load_model(find_model(str(tmp_path / "virchow2.toml")), given)
    assert same(vit, wanted)
    assert (spec.mean, weights.source) == (tuple(IMAGENET["mean"]), "virchow2, mean and std from its config.json")


def test_an_argument_that_is_left_out_changes_the_model() -> None:
    # The test above would not see a loader that passes over act_layer, if these were equal.
    relu, gelu = timms_own("vit_tiny_patch16_224", {"act_layer": "relu"}), timms_own("vit_tiny_patch16_224", {})
    assert not same(relu, gelu)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"act_layer": "mish"}, {}, 'model_args.act_layer = "mish"'),
    ({"mlp_layer": "ConvMlp"}, {}, 'model_args.mlp_layer = "ConvMlp"'),
    ({"mlp_layer": "SwiGLUPacked"}, {}, 'model_args.mlp_layer = "SwiGLUPacked" needs its act_layer too'),
    ({"norm_layer": "rmsnorm"}, {}, "model_args.norm_layer is not a key"),
    ({"block_fn": "ParallelScalingBlock"}, {}, "model_args.block_fn is not a key"),
    ({"global_pool": "avg"}, {}, 'model_args.global_pool = "avg"; only "token" or ""'),
    ({}, {"global_pool": "map"}, 'global_pool = "map"; only "token" or ""'),
    ({}, {"num_classes": -1}, "num_classes = -1"),
    ({"in_chans": 1}, {}, "model_args.in_chans = 1; only RGB"),
    ({"pos_embed": "none"}, {}, 'model_args.pos_embed = "none"'),
    ({"img_size": [56, 112]}, {}, "model_args.img_size = [56, 112]; expected int"),
    ({"depth": "two"}, {}, "model_args.depth = 'two'; expected int"),
    ({"depth": 10**9}, {}, "model_args.depth = 1000000000; a number from 1 to 512"),
    ({"pretrained": True}, {}, "model_args.pretrained is not a key"),
    ({"checkpoint_path": "/etc/passwd"}, {}, "model_args.checkpoint_path is not a key"),
    ({}, {"model_args": []}, "model_args.the file is []; expected a table"),
    ({}, {"architecture": "vit_small_patch16_224"}, "architecture is vit_small_patch16_224"),
    ({}, {"architecture": 7}, "architecture = 7; expected str"),
    ({}, {"pretrained_cfg": IMAGENET | {"input_size": [1, 56, 56]}}, "input_size = [1, 56, 56]; expected 3 x S x S"),
    ({}, {"pretrained_cfg": IMAGENET | {"input_size": [3, 56, 112]}}, "input_size = [3, 56, 112]"),
    ({}, {"pretrained_cfg": IMAGENET | {"input_size": "56"}}, "input_size = '56'"),
]


@pytest.mark.parametrize(("arguments", "top", "said"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(
    arguments: dict[str, Any], top: dict[str, Any], said: str, tmp_path: Path
) -> None:
    name = "vit_tiny_patch16_224"
    given = folder(tmp_path / "f", {"x": torch.ones(1)}, name, SMALL | arguments, **top)
    with pytest.raises(WeightsError) as caught:
        load_model(find_model(f"timm:{name}"), given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_size_and_resizing_a_folder_wants_are_said(tmp_path: Path) -> None:
    wanted = timms_own("vit_tiny_patch16_224", {"img_size": 224})
    seen = IMAGENET | {"input_size": [3, 384, 384], "interpolation": "bilinear", "license": "cc-by-nc-4.0"}
    given = folder(
        tmp_path / "f", wanted.state_dict(), "vit_tiny_patch16_224", SMALL | {"img_size": 224}, pretrained_cfg=seen
    )
    _, spec, weights = load_model(find_model("timm:vit_tiny_patch16_224"), given)
    assert weights.source == "f, made for 384 px, used at 224 px, meant for 'bilinear' resizing (--resize is bicubic)"
    assert (spec.size, spec.licence) == (224, "cc-by-nc-4.0")


@pytest.mark.parametrize(
    ("arguments", "top", "said"),
    [
        ({"act_layer": "relu"}, {}, "model_args.act_layer = 'ReLU', tiny has 'SiLU'; choose --model timm:vit_base"),
        ({"mlp_ratio": 4.0}, {}, "model_args.mlp_ratio = 4.0, tiny has 5.33334"),
        ({"img_size": 112}, {}, "model_args.img_size = 112, tiny has 224"),
        ({}, {"pretrained_cfg": IMAGENET | {"input_size": [3, 112, 112]}}, "input_size is 112 px, tiny takes 224 px"),
    ],
)
def test_a_folder_does_not_contradict_a_model_of_its_own_name(
    arguments: dict[str, Any], top: dict[str, Any], said: str, tmp_path: Path, tiny: ModelSpec
) -> None:
    seen = {"pretrained_cfg": IMAGENET}
    given = folder(tmp_path / "f", random_model(tiny).state_dict(), tiny.timm_name, arguments, **seen | top)
    with pytest.raises(WeightsError) as caught:
        load_model(tiny, given)
    assert said in str(caught.value)
    # By other spellings of the same, it does not.
    agreeing = {
        "act_layer": "silu",
        "mlp_ratio": 5.333340000001,
        "dynamic_img_size": True,
        "reg_tokens": 4,
        "init_values": 1,
    }
    given = folder(tmp_path / "g", random_model(tiny).state_dict(), tiny.timm_name, agreeing, **seen)
    assert load_model(tiny, given)[2].sha256 == load_model(tiny, "random")[2].sha256


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["Dinov2Model"], "model_type": "dinov2", "hidden_size": 96},
        {"model_type": "Dinov2Model"},
    ],
)
def test_transformers_folders_are_named(config: dict[str, Any], tmp_path: Path, tiny: ModelSpec) -> None:
    given = folder(tmp_path / "f", {"x": torch.ones(1)}, tiny.timm_name, {})
    (given / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="is of transformers' Dinov2Model, whose weights have other names"):
        load_model(tiny, given)


# --- a model config


CONFIG = """
architecture = "vit_large_patch16_224"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
licence = "ours"
embedding = "cls+mean"

[model_args]
img_size = 56
patch_size = 8
embed_dim = 96
num_heads = 3
depth = 2
init_values = 1e-5
reg_tokens = 4
no_embed_class = true
mlp_layer = "SwiGLUPacked"
act_layer = "SiLU"
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "our-vit.toml").write_text(text)
        return str(tmp_path / "our-vit.toml")

    return write


def test_a_model_config_describes_what_timm_has_no_name_for(tmp_path: Path, written: Callable[[str], str]) -> None:
    arguments = {
        "patch_size": 8, "init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True, "mlp_layer": "SwiGLUPacked",
        "act_layer": "SiLU",
    }  # fmt: skip
    wanted = timms_own("vit_large_patch16_224", arguments)
    state = {name: (value * 1024).round() / 1024 for name, value in wanted.state_dict().items()}
    wanted.load_state_dict(state)
    torch.save({"teacher": under("backbone.", metas(state))}, tmp_path / "teacher.pth")
    vit, spec, weights = load_model(find_model(written(CONFIG)), tmp_path / "teacher.pth")
    assert same(vit, wanted)
    assert (spec.name, spec.licence, spec.embedding, spec.size) == ("our-vit", "ours", "cls+mean", 56)
    assert weights.source == "teacher.pth::teacher.backbone, mask_token left out"
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("init_values", "init_value", 'model_args.init_value is not a key; did you mean "init_values"?'),
        ("licence", "license", 'license is not a key; did you mean "licence"?'),
        ('act_layer = "SiLU"\n', "", 'mlp_layer = "SwiGLUPacked" needs its act_layer too'),
        ("mean = [0.485, 0.456, 0.406]\n", "", "mean is missing"),
        ("[0.485, 0.456, 0.406]", "[0.485, 0.456]", "mean (0.485, 0.456) and std"),
        ("[0.485, 0.456, 0.406]", "[123.7, 116.3, 103.5]", "are not those of an RGB image in 0..1"),
        ("[0.229, 0.224, 0.225]", "[0.0, 0.2, 0.2]", "are not those of an RGB image"),
        ('"cls+mean"', '"mean"', 'embedding = "mean"'),
        ('"vit_large_patch16_224"', '"vit_large_patch16_225"', 'did you mean "vit_large_patch'),
        ('"vit_large_patch16_224"', '"resnet50"', "not a timm vision transformer"),
        ('"vit_large_patch16_224"', '"hf-hub:someone/model"', "not a timm vision transformer"),
        ("[model_args]", 'name = "../x"\n[model_args]', "it names folders"),
        ("[model_args]", "schema = 2\n[model_args]", "this edgepath reads schema 1"),
        ("embed_dim = 96", "embed_dim = 0", "model_args.embed_dim = 0"),
        ("num_heads = 3", "num_heads = 5", "timm cannot build it"),
        ("[model_args]", "[model_args", "cannot be read as TOML"),
    ],
)
def test_a_model_config_is_strict(before: str, after: str, said: str, written: Callable[[str], str]) -> None:
    assert before in CONFIG
    with pytest.raises(EdgepathError) as caught:
        load_model(find_model(written(CONFIG.replace(before, after, 1))), "random")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_config_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file; give a \.toml that names a timm architecture"):
        find_model(str(tmp_path / "absent.toml"))


def test_the_model_config_of_the_docs_loads(checkout: Path, written: Callable[[str], str]) -> None:
    text = (checkout / "docs" / "weights.md").read_text().partition("```toml\n")[2].partition("```")[0]
    spec = find_model(written(text))
    with torch.device("meta"):
        vit: Any = build(spec)
    assert (spec.name, spec.licence, vit.num_reg_tokens, vit.blocks[0].mlp.gate_last) == (
        "our-vit-l", "CC-BY-NC-4.0", 4, False,
    )  # fmt: skip
    assert type(vit.blocks[0].mlp.act) is nn.SiLU
    assert vit.blocks[0].ls1.gamma.shape == (1024,)
