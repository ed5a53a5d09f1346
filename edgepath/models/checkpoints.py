"""Find the vision transformer in a checkpoint: which of several, under which prefix, by whose names.

A checkpoint is a training run's: wrappers leave prefixes, a moving average lies beside the raw weights, heads beside
the backbone. What is taken and what is left out is said; what cannot be told apart is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import WeightsError
from ..machine.tables import plain

ANCHOR = "patch_embed.proj.weight"
"""The weight that every vision transformer has, in timm's names and in Meta's."""
# What DistributedDataParallel, torch.compile, FSDP, activation checkpointing and DeepSpeed put into names.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
_CHUNK = re.compile(r"\bblocks\.\d+\.(?=\d+\.)")  # DINOv2 trains with its blocks in groups: blocks.GROUP.BLOCK
_AVERAGE = re.compile(r"(^|_)(ema|teacher|averaged|swa)(_|\d|\Z)")
_LORA = re.compile(r"(^|\.)(lora_\w+|base_layer|lokr_\w+|hada_w\d\w*)(\.|\Z)")
# Parts of a training run's model that an embedding does not pass through.
_HEAD = re.compile(
    r"(head|heads|head_dist|\w+_head|fc|classifier|projector|predictor|pre_logits|last_layer|pooler"
    r"|mask_token|masked_embed|decoder|decoder_\w+)(\.|\Z)"
)


@dataclass(frozen=True)
class Encoder:
    """The leaves of one encoder by its own names, and where they stood (`teacher.backbone`).

    `said` is what was done to the names, `left_out` what else the file holds, `others` where further encoders are.
    """

    leaves: Mapping[str, object]
    place: str
    notes: Sequence[str]
    left_out: Sequence[str]
    others: Sequence[str]


def find_encoder(leaves: Mapping[str, object], key: str, shape: Sequence[int], who: str) -> Encoder:
    """Return the encoder in a checkpoint: the only one, the one that `key` names, or the average beside the raw ones.

    `shape` is that of the model's patch embedding, which tells a student from a larger teacher. Raises WeightsError
    where none is found, or where two are equally likely.
    """
    clean = _unwrapped(leaves, who)
    places = _places(clean)
    if not places:
        raise WeightsError(f"{who}: {_what_else(clean)}")
    chosen = _under(places, key, who) if key else _likeliest(places, clean, shape, who)
    prefix = f"{chosen}." if chosen else ""
    inside = {name[len(prefix) :]: value for name, value in clean.items() if name.startswith(prefix)}
    if lora := next((name for name in inside if _LORA.search(name)), None):
        raise WeightsError(f"{who}: {_lora(lora)}")
    outside = [name for name, value in clean.items() if _holds_tensors(value) and not name.startswith(prefix)]
    parts = {part for name in leaves if _short(name).startswith(prefix) for part in name.split(".")}
    notes = [f"{wrapper}. taken off" for wrapper in sorted(_WRAPPERS & parts)]
    return Encoder(inside, chosen, notes, _groups(outside, chosen), [place for place in places if place != chosen])


def aside(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names that belong to heads, and counters: an embedding is the same without them."""
    return [name for name, value in tensors.items() if _HEAD.match(name) or ("." not in name and value.numel() == 1)]


def few(names: Sequence[str], most: int = 3) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(plain, names[:most])) + more


def _unwrapped(leaves: Mapping[str, object], who: str) -> dict[str, object]:
    """Return the leaves by names without wrappers' parts and groups of blocks."""
    clean: dict[str, object] = {}
    for name, value in leaves.items():
        short = _short(name)
        if short in clean and (isinstance(value, Tensor) or isinstance(clean[short], Tensor)):
            raise WeightsError(f"{who}: {plain(short)} stands in it with and without a wrapper's prefix; keep one")
        clean[short] = value
    return clean


def _short(name: str) -> str:
    return _CHUNK.sub("blocks.", ".".join(part for part in name.split(".") if part not in _WRAPPERS))


def _places(clean: Mapping[str, object]) -> list[str]:
    """Return where encoders are: what stands before the name of a patch embedding."""
    return [name[: -len(ANCHOR)].rstrip(".") for name in clean if name == ANCHOR or name.endswith(f".{ANCHOR}")]


def _under(places: Sequence[str], key: str, who: str) -> str:
    """Return the encoder that a user's key names, or the only one below it."""
    key = _short(key)
    below = [key] if key in places else [place for place in places if place.startswith(f"{key}." if key else "")]
    if len(below) == 1:
        return below[0]
    held = f"holds {len(below)} models ({few(below)})" if below else f"is not there; models are at {_shown(places)}"
    raise WeightsError(f"{who}: {plain(key)} {held}; give FILE::KEY with one of them")


def _likeliest(places: Sequence[str], clean: Mapping[str, object], shape: Sequence[int], who: str) -> str:
    """Return the only encoder of the right width, or of several the one that is a moving average."""
    fitting = [place for place in places if _shape(clean[f"{place}.{ANCHOR}" if place else ANCHOR]) == tuple(shape)]
    fitting = fitting or list(places)
    averages = [place for place in fitting if any(map(_AVERAGE.search, place.split(".")))]
    chosen = fitting if len(fitting) == 1 else averages
    if len(chosen) == 1:
        return chosen[0]
    raise WeightsError(f"{who}: holds {len(fitting)} models ({_shown(fitting)}); choose one with FILE::KEY")


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _shown(places: Sequence[str]) -> str:
    return few([place or "its top" for place in places], 6)


def _groups(names: Sequence[str], place: str) -> list[str]:
    """Return the shortest parts of names that tell them from what was taken: `student`, `teacher.dino_head`."""
    taken, groups = place.split("."), dict[str, None]()
    for name in names:
        parts = name.split(".")
        same = next((i for i, (part, other) in enumerate(zip(parts, taken, strict=False)) if part != other), len(taken))
        groups[".".join(parts[: same + 1])] = None
    return list(groups)


def _what_else(clean: Mapping[str, object]) -> str:
    """Say what a file without a vision transformer holds, and what to do about it."""
    names = [name for name, value in clean.items() if isinstance(value, Tensor)]
    if not names:
        return f"holds no tensors ({few(list(clean)) or 'it is empty'}); give a model's state dict"
    if lora := next(filter(_LORA.search, names), None):
        return _lora(lora)
    if any("patch_embeddings.projection" in name for name in names):
        return "named as transformers names them (embeddings.patch_embeddings); give timm's or Meta's own weights"
    return (
        f"no vision transformer by timm's or Meta's names: none of its {len(names)} tensors is {ANCHOR}, with or "
        f"without a prefix (it has {few(names)})"
    )


def _lora(name: str) -> str:
    return (
        f"LoRA adapters ({plain(name)}), not a whole model; merge them into the model they adapt "
        "(peft: merge_and_unload()) and give its state dict"
    )
