"""Every layout of a checkpoint gives the model that was saved, bit for bit, or one line that says what to do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from checkpoint_layouts import State, layouts, metas, other, under
from safetensors.torch import save_file

from edgepath.errors import WeightsError
from edgepath.models.catalogue import ModelSpec, find_model
from edgepath.models.reference import Runner
from edgepath.models.weights import build, load_model, random_model, state_sha256

_SHAPES = ("cls_token", "pos_embed", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight")
LAYOUTS = sorted(layouts(dict.fromkeys(_SHAPES, torch.zeros(1, 1, 1))))  # for their names


@pytest.fixture(scope="session")
def state(tiny: ModelSpec) -> State:
    """Weights in binary fractions, so that what Meta's files take apart adds up again."""
    return {name: (value * 1024).round() / 1024 for name, value in random_model(tiny, seed=1).state_dict().items()}


@pytest.fixture(scope="session")
def wanted(tiny: ModelSpec, state: State, tiles: np.ndarray) -> np.ndarray:
    """The embeddings of timm's own model with these weights."""
    vit = build(tiny).eval()
    vit.load_state_dict(state)
    return embeddings(vit, tiny, tiles)


def embeddings(vit: torch.nn.Module, spec: ModelSpec, tiles: np.ndarray) -> np.ndarray:
    with Runner(vit, spec.mean, spec.std) as runner:
        return runner(tiles[:1])


def refused(spec: ModelSpec, weights: str | Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_model(spec, weights)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message.replace(str(weights), "")) < 420
    return message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_model_that_was_saved(
    layout: str, tmp_path: Path, tiny: ModelSpec, state: State, wanted: np.ndarray, tiles: np.ndarray
) -> None:
    name, write, said = layouts(state)[layout]
    write(tmp_path / name)
    vit, spec, weights = load_model(tiny, tmp_path / name)
    assert np.array_equal(embeddings(vit, spec, tiles), wanted)
    assert weights.source == f"{name}{said}"


# --- one of several


def digest(spec: ModelSpec, state: State) -> str:
    vit = build(spec)
    vit.load_state_dict(state)
    return state_sha256(vit)


@pytest.mark.parametrize(
    ("key", "chosen", "place"),
    [
        ("", "average", "model_ema"),
        ("::model", "raw", "model"),
        ("::model_ema", "average", "model_ema"),
    ],
)
def test_a_key_chooses_one_of_several(
    key: str, chosen: str, place: str, tmp_path: Path, tiny: ModelSpec, state: State
) -> None:
    torch.save({"model": other(state), "model_ema": under("module.", state)}, tmp_path / "w.pth")
    _, _, weights = load_model(tiny, f"{tmp_path}/w.pth{key}")
    wrapper = ", module. taken off" if place == "model_ema" else ""
    left_out = "model" if place == "model_ema" else "model_ema"
    assert weights.source == f"w.pth::{place}{wrapper}, {left_out} left out"
    assert weights.sha256 == digest(tiny, state if chosen == "average" else other(state))


@pytest.mark.parametrize("key", ["student", "student.backbone", "student.module.backbone", "module.student"])
def test_a_key_names_what_a_wrapper_holds(key: str, tmp_path: Path, tiny: ModelSpec, state: State) -> None:
    torch.save(
        {"student": under("module.backbone.", state), "teacher": under("backbone.", other(state))}, tmp_path / "w"
    )
    _, _, weights = load_model(tiny, f"{tmp_path}/w::{key}")
    assert weights.source == "w::student.backbone, module. taken off, teacher left out"
    assert weights.sha256 == digest(tiny, state)


@pytest.mark.parametrize("name", ["a::b.pth", r"C:\runs\a.pth", "::a", "a::", "a::model"])
@pytest.mark.parametrize("key", ["", "::model"])
def test_names_with_colons_are_files_where_they_are_there(
    name: str, key: str, tmp_path: Path, tiny: ModelSpec, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open(name, "wb") as file:
        torch.save({"model": state}, file)
    assert load_model(tiny, f"{name}{key}")[2].sha256 == digest(tiny, state)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("::EMA", "EMA is not there; models are at model, model_ema; give FILE::KEY with one of them"),
        ("::", "give FILE::KEY, with a file before the colons and a key of it behind"),
        ("x::model", "no such file or folder"),
    ],
)
def test_a_key_that_names_nothing_says_what_there_is(
    key: str, said: str, tmp_path: Path, tiny: ModelSpec, state: State
) -> None:
    torch.save({"model": state, "model_ema": state}, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        load_model(tiny, f"{tmp_path}/w.pth{key}")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("encoder", "momentum_encoder"),
        ("encoder", "target_encoder"),
        ("ema_model", "teacher"),
        ("model_ema_0", "model_ema_1"),
        ("model", "state_dict"),
        ("student1", "student2"),
    ],
)
def test_models_that_cannot_be_told_apart_are_refused(
    names: tuple[str, str], tmp_path: Path, tiny: ModelSpec, state: State
) -> None:
    torch.save({names[0]: state, names[1]: other(state)}, tmp_path / "w.pth")
    assert f"holds 2 models ({names[0]}, {names[1]}); choose one with FILE::KEY" in refused(tiny, tmp_path / "w.pth")
    for name, values in zip(names, (state, other(state)), strict=True):
        assert load_model(tiny, f"{tmp_path}/w.pth::{name}")[2].sha256 == digest(tiny, values)


def test_a_damaged_average_is_not_replaced_by_the_raw_weights(tmp_path: Path, tiny: ModelSpec, state: State) -> None:
    damaged = {name: value for name, value in state.items() if name != "blocks.1.mlp.fc2.bias"}
    torch.save({"model": state, "model_ema": damaged}, tmp_path / "w.pth")
    message = refused(tiny, tmp_path / "w.pth")
    assert message.endswith("blocks.1.mlp.fc2.bias is missing; it holds model too: choose with FILE::KEY")


def test_an_average_without_names_is_said_to_be_left_out(tmp_path: Path, tiny: ModelSpec, state: State) -> None:
    average = {"shadow_params": [value + 0.1 for value in state.values()], "decay": 0.999}
    torch.save({"model": state, "ema": average}, tmp_path / "w.pth")
    assert load_model(tiny, tmp_path / "w.pth")[2].source == "w.pth::model, ema left out"


def test_names_in_a_file_do_not_reach_the_terminal_as_they_are(tmp_path: Path, tiny: ModelSpec, state: State) -> None:
    torch.save({"a\x1b[31m\nb": state, "c\n": {"x": torch.ones(2)}}, tmp_path / "w.pth")
    assert load_model(tiny, tmp_path / "w.pth")[2].source == r"w.pth::'a\x1b[31m\nb', 'c\n' left out"


# --- what does not fit


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks.2.norm1.weight": torch.ones(96)}, "blocks.2.norm1.weight is not a weight of it"),
        ({"norm_pre.weight": torch.ones(96)}, "norm_pre.weight is not a weight of it"),
        ({"fc_norm.weight": torch.ones(96)}, "fc_norm.weight is not a weight of it"),
        ({"blocks.0.attn.q_norm.weight": torch.ones(32)}, "blocks.0.attn.q_norm.weight is not a weight of it"),
        ({"patch_embed.proj.weight": torch.ones(96, 3, 16, 16)}, "patch_embed.proj.weight is 96 x 3 x 16 x 16, 96 x 3"),
        ({"norm.bias": [0.0] * 96}, "norm.bias is a list, not a tensor"),
        ({"norm.bias": np.zeros(96)}, "norm.bias is a value that is not read, not a tensor"),
        ({"norm.bias": torch.zeros(96).to_sparse()}, "norm.bias is no plain tensor (torch.sparse_coo"),
        ({"norm.bias": torch.zeros(96, device="meta")}, "norm.bias is no plain tensor (torch.strided, meta"),
        ({"blocks.0.attn.qkv.lora_A.default.weight": torch.ones(4, 96)}, "LoRA adapters (blocks.0.attn.qkv.lora_A"),
        ({"rope_embed.periods": torch.ones(8)}, "it is DINOv3's, whose rotary positions edgepath does not know"),
        # Both of Meta's names and of timm's: one of them would win unsaid.
        ({"blocks.0.mlp.w12.weight": torch.ones(1024, 96)}, "two of its weights have one name among timm's"),
    ],
)
def test_what_an_embedding_depends_on_is_never_left_out(
    change: dict[str, object], said: str, tmp_path: Path, tiny: ModelSpec, state: State
) -> None:
    torch.save({"teacher": {"backbone": {**state, **change}}}, tmp_path / "w.pth")
    assert said in refused(tiny, tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["base_model.model.blocks.0.attn.qkv.lora_A.weight"],
            "LoRA adapters (base_model.model.blocks.0.attn.qkv.",
        ),
        (["lora_unet_down.lora_down.weight"], "LoRA adapters"),
        (["embeddings.patch_embeddings.projection.weight"], "named as transformers names them"),
        (["layer1.0.conv1.weight", "fc.weight"], "none of its 2 tensors is patch_embed.proj.weight, with or without"),
    ],
)
def test_files_of_other_models_are_named(names: list[str], said: str, tmp_path: Path, tiny: ModelSpec) -> None:
    save_file({name: torch.ones(2, 2) for name in names}, tmp_path / "w.safetensors")
    assert said in refused(tiny, tmp_path / "w.safetensors")


def test_metas_positions_are_not_resampled_unsaid(tmp_path: Path, tiny: ModelSpec, state: State) -> None:
    given = metas(state)
    given["pos_embed"] = torch.zeros(1, 1 + 37 * 37, 96)
    torch.save(given, tmp_path / "w.pth")
    assert "pos_embed is 1 x 1370 x 96, 1 x 256 x 96 is needed" in refused(tiny, tmp_path / "w.pth")


def test_a_missing_register_is_refused(tmp_path: Path, tiny: ModelSpec, state: State) -> None:
    given = metas(state)
    del given["register_tokens"]
    torch.save(given, tmp_path / "w.pth")
    assert "reg_token is missing" in refused(tiny, tmp_path / "w.pth")


@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
def test_metas_files_for_a_timm_model_are_resampled_as_timm_does(prefix: str, tmp_path: Path) -> None:
    spec = find_model("timm:vit_small_patch14_reg4_dinov2")
    spec = replace(spec, timm_args={**spec.timm_args, "embed_dim": 48, "num_heads": 2, "depth": 1})
    given = metas(random_model(spec, seed=1).state_dict())
    generator = torch.Generator().manual_seed(0)
    given["pos_embed"] = torch.randn(1, 1 + 37 * 37, 48, generator=generator)
    torch.save(under(prefix, given), tmp_path / "w.pth")
    vit, _, weights = load_model(spec, tmp_path / "w.pth")
    wanted = timm.models.vision_transformer.checkpoint_filter_fn(dict(given), build(spec))
    assert vit.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in vit.state_dict().items())
    assert "position embedding resampled from 37 x 37 to 16 x 16 patches" in weights.source


def test_deit3s_own_names_load(tmp_path: Path) -> None:
    spec = find_model("timm:deit3_small_patch16_224")
    spec = replace(spec, timm_args={**spec.timm_args, "embed_dim": 48, "num_heads": 2, "depth": 1})
    state = random_model(spec, seed=1).state_dict()
    names = {name: re.sub(r"ls(\d)\.gamma", r"gamma_\1", name) for name in state}
    torch.save({"model": {names[name]: value for name, value in state.items()}}, tmp_path / "w.pth")
    assert sum(name != own for name, own in names.items()) == 2
    assert load_model(spec, tmp_path / "w.pth")[2].sha256 == state_sha256(random_model(spec, seed=1))


# --- what weights are stored in


@pytest.mark.parametrize(
    ("part", "dtype", "precision", "rounded"),
    [
        ("", torch.float32, "float32", False),
        ("", torch.float64, "float64", False),
        ("", torch.bfloat16, "bfloat16", True),
        ("", torch.float16, "float16", True),
        ("blocks.", torch.bfloat16, "bfloat16 (28 of 35), float32 (7 of 35)", True),
        ("", torch.float8_e4m3fn, "float8_e4m3fn", True),
    ],
)
def test_precision_is_what_the_file_has(
    part: str, dtype: torch.dtype, precision: str, rounded: bool, tmp_path: Path, tiny: ModelSpec
) -> None:
    given = {
        name: value.to(dtype) if name.startswith(part) else value
        for name, value in random_model(tiny, seed=1).state_dict().items()
    }
    torch.save(given, tmp_path / "w.pth")
    vit, _, weights = load_model(tiny, tmp_path / "w.pth")
    assert (weights.precision, weights.rounded) == (precision, rounded)
    assert all(torch.equal(value, given[name].float()) for name, value in vit.state_dict().items())


def test_numbers_rounded_once_and_stored_again_are_told(tmp_path: Path, tiny: ModelSpec) -> None:
    given = {name: value.bfloat16().float() for name, value in random_model(tiny, seed=1).state_dict().items()}
    torch.save(given, tmp_path / "w.pth")
    weights = load_model(tiny, tmp_path / "w.pth")[2]
    assert (weights.precision, weights.rounded) == ("float32, rounded to bfloat16", True)


def test_sums_of_metas_positions_are_full_precision(tmp_path: Path, tiny: ModelSpec) -> None:
    # Meta's model adds the class token and its position in FP32; in bfloat16 the sum would be rounded once more.
    given = {name: value.bfloat16() for name, value in metas(random_model(tiny, seed=1).state_dict()).items()}
    given["pos_embed"] = given["pos_embed"] / 3
    torch.save(given, tmp_path / "w.pth")
    vit = load_model(tiny, tmp_path / "w.pth")[0]
    exact = given["cls_token"].float() + given["pos_embed"][:, :1].float()
    assert torch.equal(vit.state_dict()["cls_token"], exact)
    assert not torch.equal(exact, exact.bfloat16().float())
