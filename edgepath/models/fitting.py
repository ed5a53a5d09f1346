"""Weights into the model they are of: names translated, every shape held, every number finite, precision noted.

Meta's names (`register_tokens`, `mlp.w12`, a class token within the positions) are translated by timm's own
`checkpoint_filter_fn`. That function also resamples kernels and positions that do not fit; here only the positions of a
`timm:` model may be, and that is said.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import GluMlp  # type: ignore[attr-defined]
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from ..errors import WeightsError
from ..machine.tables import plain
from .checkpoints import ANCHOR, Encoder, aside, few
from .inert import Inert
from .spec import ModelSpec

State = dict[str, Tensor]
_META = ("register_tokens", "blocks.0.mlp.w12.weight")  # names that only Meta's files have
_MASK = "mask_token"  # by which timm knows Meta's files
_DINOV3 = ("rope_embed.periods", "storage_tokens")


@dataclass(frozen=True)
class Fitted:
    """What was done to make weights fit, in words; the precision they are stored in; whether that rounded them."""

    notes: list[str]
    precision: str
    rounded: bool


def fit(vit: nn.Module, encoder: Encoder, spec: ModelSpec, who: str) -> Fitted:
    """Copy an encoder's weights into `vit`. Raises WeightsError unless they are exactly its own."""
    tensors = {name: value for name, value in encoder.leaves.items() if isinstance(value, Tensor)}
    apart = aside(tensors)
    state = {name: value for name, value in tensors.items() if name not in apart}
    for name, value in state.items():
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise WeightsError(f"{who}: {plain(name)} is no plain tensor ({value.layout}, {value.device})")
    stored = Counter(str(value.dtype).removeprefix("torch.") for value in state.values())
    # In FP32 before translation: sums are to be those of the model, which computes in it.
    full = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    full, resampled = _translated(vit, full, may_resample=spec.name.startswith("timm:"), who=who)
    if odd := _odd(vit, full, encoder):
        raise WeightsError(f"{who}: not the weights of {spec.name}: {odd}{_hint(vit, full, encoder, spec)}")
    _check_numbers(full, who)
    vit.load_state_dict(full)
    left_out = [*encoder.left_out, *dict.fromkeys(name.partition(".")[0] for name in apart)]
    notes = [*encoder.notes, *([f"{few(left_out)} left out"] if left_out else []), *resampled]
    return Fitted(notes, *_precision(stored, full))


def _translated(vit: Any, state: State, *, may_resample: bool, who: str) -> tuple[State, list[str]]:
    """Return the state by timm's names and in the model's grid, and in words whether positions were resampled.

    What cannot be translated comes back as it is, for `_odd` to name what is off.
    """
    kernel, given, wanted = state.get(ANCHOR), state.get("pos_embed"), vit.pos_embed
    meta = any(name in state for name in _META)
    if kernel is None or kernel.shape != vit.patch_embed.proj.weight.shape or given is None or wanted is None:
        return state, []
    if given.ndim != 3 or given.shape[2] != wanted.shape[2] or "cls_token" not in state:
        return state, []
    # Meta's class token has a position of its own where there are registers; timm adds it to the token.
    moved = int("register_tokens" in state)
    count = given.shape[1] - moved - (wanted.shape[1] - vit.patch_embed.num_patches)
    side, other_size = math.isqrt(max(0, count)), count != vit.patch_embed.num_patches
    if other_size and (not may_resample or not side or side * side != count or not given.is_floating_point()):
        if moved:  # what is off is not the names
            also = "; Meta's registers have none: set no_embed_class" if not vit.no_embed_class else ""
            raise WeightsError(f"{who}: pos_embed is {_shape(given)}, {_shape(wanted)} is needed{also}")
        return state, []
    mlp = vit.blocks[0].mlp
    if _META[1] in state and not (getattr(mlp, "gate_last", True) is False and isinstance(mlp.act, nn.SiLU)):
        raise WeightsError(f'{who}: its MLPs are SwiGLU: give mlp_layer = "SwiGLUPacked" and act_layer = "SiLU"')
    marked = state | {_MASK: given} if meta else state
    translated: State = checkpoint_filter_fn(dict(marked), vit, adapt_layer_scale=True)
    changes = ({"pos_embed"} if other_size or moved else set()) | ({"cls_token"} if moved else set())
    same = {id(value) for value in state.values()}
    if odd := [name for name, value in translated.items() if id(value) not in same and name not in changes]:
        raise WeightsError(f"{who}: timm would change {few(odd)} in translating the names; give timm's own weights")
    if len(translated) != len(state):
        raise WeightsError(f"{who}: two of its weights have one name among timm's ({few(list(state))}); keep one")
    if not other_size:
        return translated, []
    grid = vit.patch_embed.grid_size
    return translated, [f"position embedding resampled from {side} x {side} to {grid[0]} x {grid[1]} patches"]


def _odd(vit: nn.Module, state: State, encoder: Encoder) -> str:
    """Say which weights are missing, are none of the model's, or have another shape; empty where all fit."""
    wanted = vit.state_dict()
    odd = [f"{name} is missing" for name in wanted if name not in state and name not in encoder.leaves]
    odd += [
        f"{name} is {_kind(encoder.leaves[name])}, not a tensor"
        for name in wanted
        if name not in state and name in encoder.leaves
    ]
    odd += [f"{plain(name)} is not a weight of it" for name in state if name not in wanted]
    odd += [
        f"{name} is {_shape(state[name])}, {_shape(value)} is needed"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
    return "; ".join(odd[:3]) + more


def _kind(value: object) -> str:
    return "a value that is not read" if isinstance(value, Inert) else f"a {type(value).__name__}"


def _hint(vit: Any, state: State, encoder: Encoder, spec: ModelSpec) -> str:
    """Say what to try with weights that do not fit."""
    if any(name in state for name in _DINOV3):
        return "; it is DINOv3's, whose rotary positions edgepath does not know: choose another model"
    if encoder.others:
        return (
            f"; it holds {few([other or 'another at its top' for other in encoder.others])} too: choose with FILE::KEY"
        )
    fc1, fc2 = (state.get(f"blocks.0.mlp.{name}.weight") for name in ("fc1", "fc2"))
    gated = fc1 is not None and fc2 is not None and fc1.shape[0] == 2 * fc2.shape[-1]
    if gated and not isinstance(vit.blocks[0].mlp, GluMlp):
        return '; its MLPs are gated: give --model-config with mlp_layer and act_layer ("SwiGLUPacked", "SiLU" mostly)'
    if spec.name.startswith("timm:"):
        return "; if it has registers, LayerScale or a gated MLP that timm's does not, describe it with --model-config"
    return ""


def _check_numbers(state: State, who: str) -> None:
    for name, value in state.items():
        if not value.is_floating_point():
            raise WeightsError(
                f"{who}: {name} holds {str(value.dtype).removeprefix('torch.')}, not floating-point numbers"
            )
        if not torch.isfinite(value).all():
            raise WeightsError(f"{who}: {name} holds NaN or infinite numbers; the file is damaged or training diverged")


def _precision(stored: Counter[str], full: State) -> tuple[str, bool]:
    """Return the number formats that weights are stored in, and whether they were rounded to fewer bits than FP32."""
    named = ", ".join(f"{name} ({count} of {stored.total()})" for name, count in stored.most_common())
    named = named if len(stored) > 1 else next(iter(stored))
    if any(name not in ("float32", "float64") for name in stored):
        return named, True
    for kind in (torch.bfloat16, torch.float16):  # rounded once, and stored again in more bits
        if all(torch.equal(value, value.to(kind).float()) for value in full.values()):
            return f"{named}, rounded to {str(kind).removeprefix('torch.')}", True
    return named, False


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a number"
