"""Checkpoints as the frameworks of the field lay them out, made of one small model's weights."""

from __future__ import annotations

import argparse
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


def under(prefix: str, state: State) -> State:
    """The state with every name behind a prefix."""
    return {f"{prefix}{name}": value for name, value in state.items()}


def other(state: State) -> State:
    """Weights of the same model that are not the ones to be taken."""
    return {name: value + 0.25 for name, value in state.items()}


def heads(width: int = 96) -> State:
    """What DINOv2's heads have beside a backbone."""
    return {
        f"{head}.{name}": torch.ones(8, width)
        for head in ("dino_head", "ibot_head")
        for name in ("mlp.0.weight", "mlp.2.weight", "last_layer.weight_v")
    }


def grouped(state: State, size: int = 1) -> State:
    """Names as DINOv2 trains with its blocks in groups: blocks.GROUP.BLOCK."""
    names = {name: name.split(".") for name in state}
    return {
        ".".join(["blocks", str(int(parts[1]) // size), *parts[1:]]) if parts[0] == "blocks" else name: state[name]
        for name, parts in names.items()
    }


def metas(state: State) -> State:
    """timm's names and positions turned back into Meta's: what DINOv2 with registers, and SwiGLU, writes."""
    state = dict(state)
    given: State = {"mask_token": torch.zeros(1, state["cls_token"].shape[-1])}
    if "reg_token" in state:
        given["register_tokens"] = state.pop("reg_token")
        # In binary fractions, so that taking apart and adding again is exact.
        moved = torch.full_like(state["cls_token"], 0.5)
        given["cls_token"] = state.pop("cls_token") - moved
        given["pos_embed"] = torch.cat([moved, state.pop("pos_embed")], dim=1)
    gated = len(state["blocks.0.mlp.fc1.weight"]) != state["blocks.0.mlp.fc2.weight"].shape[1]
    for name, value in state.items():
        given[name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3") if gated else name] = value
    return given


@contextmanager
def pretended(module: str, **names: object) -> Iterator[types.ModuleType]:
    """A package that is not installed here, as a checkpoint that it wrote names it, while this is open."""
    made, before = types.ModuleType(module), dict(sys.modules)
    for name, value in names.items():
        if isinstance(value, type):
            value.__module__, value.__qualname__ = module, name
        setattr(made, name, value)
    parts = module.split(".")
    for end in range(1, len(parts)):
        sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    sys.modules[module] = made
    try:
        yield made
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


def lightning(path: Path, state: State) -> None:
    """What Lightning's `save_hyperparameters` leaves beside `state_dict`."""
    attributes = type("AttributeDict", (dict,), {})
    with pretended("lightning_fabric.utilities.data", AttributeDict=attributes):
        torch.save(
            {
                "epoch": 3,
                "pytorch-lightning_version": "2.5.0",
                "state_dict": under("model.", state) | {"criterion.weight": torch.ones(3)},
                "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
                "hyper_parameters": attributes(lr=1e-4, path=Path("run"), seen=np.float64(0.5)),
            },
            path,
        )


def with_settings(path: Path, state: State) -> None:
    """Settings, counters and paths beside the tensors, as training scripts of all kinds write them."""
    counts: dict[str, list[int]] = defaultdict(list)
    counts["steps"].append(3)
    torch.save(
        {
            "args": argparse.Namespace(lr=1e-4, out=Path("run"), device=torch.device("cpu")),
            "best": np.float64(0.9),
            "step": np.int64(7),
            "losses": np.arange(4.0),
            "history": counts,
            "model": state,
            "scaler": None,
        },
        path,
    )


def saved(value: object) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path)


Layout = tuple[str, Callable[[Path], object], str]


def layouts(state: State) -> dict[str, Layout]:
    """Every layout by name: the file's name, how it is written, and what is said of it behind the file's name."""
    return _of_dino(state) | _of_wrappers(state) | _of_trainers(state)


def _of_dino(state: State) -> dict[str, Layout]:
    raw, head = other(state), {"head.last_layer.weight_g": torch.ones(4)}
    run = under("teacher.backbone.", state) | under("student.backbone.", raw) | under("teacher.", heads())
    dino = {
        "student": under("module.backbone.", raw) | under("module.", head),
        "teacher": under("backbone.", state) | head,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
        "epoch": 9,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }
    ibot = state | {"head.mlp.weight": torch.ones(2), "masked_embed": torch.zeros(1, 96)}
    metas_run = under("backbone.", grouped(metas(state))) | heads()
    decoder = {"decoder_embed.weight": torch.ones(3), "decoder_blocks.0.norm1.weight": torch.ones(3)}
    mae = state | {"mask_token": torch.ones(1, 1, 96)} | decoder
    two_heads = "teacher.dino_head, teacher.ibot_head"
    return {
        "dinov2 teacher": (
            "teacher_checkpoint.pth",
            saved({"teacher": under("backbone.", state) | heads()}),
            f"::teacher.backbone, {two_heads} left out",
        ),
        "dinov2 run": (
            "model_final.rank_0.pth",
            saved({"model": run}),
            "::model.teacher.backbone, model.student, model.teacher.dino_head, model.teacher.ibot_head left out",
        ),
        "dinov2 groups of blocks": (
            "w.pth",
            saved({"teacher": under("backbone.", grouped(state))}),
            "::teacher.backbone",
        ),
        "dino": (
            "checkpoint.pth",
            saved(dino),
            "::teacher.backbone, student, teacher.head, optimizer and 1 more left out",
        ),
        "ibot": ("checkpoint_teacher.pth", saved({"state_dict": ibot}), "::state_dict, head, masked_embed left out"),
        "meta's names": ("dinov2_reg4.pth", saved(metas(state)), ", mask_token left out"),
        "meta's names in a run": (
            "w.pth",
            saved({"teacher": metas_run}),
            f"::teacher.backbone, {two_heads}, mask_token left out",
        ),
        "mae": ("mae.pth", saved({"model": mae}), "::model, mask_token, decoder_embed, decoder_blocks left out"),
    }


def _of_wrappers(state: State) -> dict[str, Layout]:
    compiled_blocks = {name.replace("blocks.1.", "blocks.1._orig_mod."): value for name, value in state.items()}
    sharded = {name.replace("blocks.", "blocks._fsdp_wrapped_module."): value for name, value in state.items()}
    swa = under("module.", state) | {"n_averaged": torch.tensor(5)}
    deepspeed = {"module": state, "ds_version": "0.14"}
    prefixes = ("model", "backbone", "encoder", "visual.trunk", "vision_model.vit", "base_model.model")
    return {
        "bare": ("w.pth", saved(state), ""),
        "no suffix": ("weights", saved(state), ""),
        "compiled": ("w.pth", saved(under("_orig_mod.", state)), ", _orig_mod. taken off"),
        "parallel": ("w.pth", saved(under("module.", state)), ", module. taken off"),
        "parallel and compiled": (
            "w.pth",
            saved(under("module._orig_mod.", state)),
            ", _orig_mod. taken off, module. taken off",
        ),
        "compiled block by block": ("w.pth", saved(compiled_blocks), ", _orig_mod. taken off"),
        "sharded training": ("w.pth", saved(sharded), ", _fsdp_wrapped_module. taken off"),
        "deepspeed": ("mp_rank_00_model_states.pt", saved(deepspeed), ", module. taken off"),
        "stochastic weight averaging": ("swa.pth", saved(swa), ", module. taken off, n_averaged left out"),
        **{f"{one} in front": ("w.pth", saved(under(f"{one}.", state)), f"::{one}") for one in prefixes},
    }


def _of_trainers(state: State) -> dict[str, Layout]:
    raw = other(state)
    openmmlab = under("backbone.", state) | {"head.fc.weight": torch.ones(3, 96)}
    timm = {"state_dict": raw, "state_dict_ema": state, "args": argparse.Namespace(model="vit"), "metric": 0.5}
    ema = under("net.", raw) | under("ema_model.module.", state) | {"ema_model.initted": torch.ones(1)}
    old = {"args": argparse.Namespace(a=1), "seen": np.float32(2), "model": state}
    wider = {"patch_embed.proj.weight": torch.ones(192, 3, 14, 14)}
    return {
        "openmmlab": (
            "epoch_100.pth",
            saved({"meta": {"epoch": 100}, "state_dict": openmmlab}),
            "::state_dict.backbone, state_dict.head left out",
        ),
        "lightning": (
            "last.ckpt",
            lambda path: lightning(path, state),
            "::state_dict.model, state_dict.criterion left out",
        ),
        "pth.tar": ("model_best.pth.tar", saved({"arch": "vit_tiny", "state_dict": state}), "::state_dict"),
        "timm with average": ("last.pth.tar", saved(timm), "::state_dict_ema, state_dict left out"),
        "average beside raw": ("w.pth", saved({"model": raw, "model_ema": state}), "::model_ema, model left out"),
        "average within one state": (
            "w.ckpt",
            saved({"state_dict": ema}),
            "::state_dict.ema_model, module. taken off, state_dict.net, initted left out",
        ),
        "average only": (
            "w.pth",
            saved({"model_ema": under("module.", state), "updates": 7}),
            "::model_ema, module. taken off",
        ),
        "teacher wider than the model": (
            "w.pth",
            saved({"student": state, "teacher": wider}),
            "::student, teacher left out",
        ),
        "settings beside": ("w.pth", lambda path: with_settings(path, state), "::model"),
        "settings beside, before zip": (
            "w.pth",
            lambda path: torch.save(old, path, _use_new_zipfile_serialization=False),
            "::model",
        ),
    }
