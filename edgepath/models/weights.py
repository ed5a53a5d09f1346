"""A timm vision transformer with weights in it: from the hub, a hub snapshot folder, a file, or drawn at random.

Whatever they come from, weights fit the architecture exactly, are finite, and are known by one hash of their values.
`weightfiles` reads them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError, WeightsError, did_you_mean, first_line
from .catalogue import ModelSpec
from .weightfiles import read_state

SEED = 0
LAYERS = ("SwiGLUPacked", "SiLU", "GELU")
_CONFIG, _STATE = "config.json", "model.safetensors"


@dataclass(frozen=True)
class Weights:
    """Where a model's weights came from, in words without a path, and the sha256 of their values.

    The hash is over name, shape and float32 bytes of every tensor in the order of names: one model has one hash, as
    `.safetensors` or `.pth`, in FP16 or FP32.
    """

    source: str
    sha256: str
    random: bool

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


def load_model(
    spec: ModelSpec, weights: str | Path | None = None, *, option: str = "--weights"
) -> tuple[nn.Module, ModelSpec, Weights]:
    """Return the timm model in evaluation mode and FP32, its spec, and what its weights are.

    `weights` is a `.safetensors`, `.pth`, `.pt` or `.bin` file, a hub snapshot folder (`config.json` and
    `model.safetensors`), or `random`; None takes the model's own: from the hub, those that ship with edgepath, or for a
    model without any, random ones from a fixed seed. A folder's `config.json` decides mean and std; the spec that is
    returned has them. `option` is what gives other weights, in messages.

    Raises WeightsError for weights that are missing, gated, unreadable, of another shape or not finite.
    """
    shipped = shipped_weights(spec.name) if weights is None and not spec.hub else None
    if weights == "random" or (weights is None and not spec.hub and shipped is None):
        vit = random_model(spec)
        return vit, spec, Weights(f"random, seed {SEED}", state_sha256(vit), random=True)
    if weights == "":
        raise WeightsError('weights "": give a file, a hub snapshot folder, or random')
    if shipped is not None:
        path, source = shipped, f"{spec.name}, shipped with edgepath"
    elif weights is not None:
        path, source = Path(weights), Path(weights).resolve().name
    else:
        path, source = _from_hub(spec, option), f"hub {spec.hub}"
    if not path.exists():
        raise WeightsError(f"weights {path}: no such file or folder; give a file, a hub snapshot folder, or random")
    if path.is_dir():
        spec = _with_config(spec, path)
    vit = build(spec)
    state = read_state(path / _STATE if path.is_dir() else path)
    if spec.name.startswith("timm:"):
        state, resampled = _at_this_size(vit, state)
        source += resampled
    _fill(vit, state, f"weights {path}", spec)
    return vit.eval(), spec, Weights(source, state_sha256(vit), random=False)


def shipped_weights(name: str) -> Path | None:
    """Return the folder of the weights that ship with edgepath under a model's name, None where there are none."""
    folder = Path(__file__).parents[1] / "shipped" / name
    return folder if (folder / _STATE).is_file() else None


def build(spec: ModelSpec) -> nn.Module:
    """Return the timm model of `spec`, untrained."""
    import timm

    arguments = {key: _layer(value) if key.endswith("_layer") else value for key, value in spec.timm_args.items()}
    try:
        model: nn.Module = timm.create_model(spec.timm_name, pretrained=False, **arguments)
    except (TypeError, AssertionError) as error:
        # timm passes arguments on to whatever class the name stands for; one that takes no img_size is no plain ViT.
        why = str(error) or type(error).__name__
        raise UsageError(
            f"model {spec.name}: timm cannot build it as an embedding of {spec.size} px tiles ({why}); choose another"
        ) from None
    return model


def random_model(spec: ModelSpec, seed: int = SEED) -> nn.Module:
    """Return the model with random weights under which every block matters, the same for every seed and machine.

    timm's own start (LayerScale 1e-5) makes all blocks a no-op, and quantizing a no-op shows no drift. Here LayerScale
    is near 0.3, linears and the patch convolution keep the variance of what they are fed, and norms are near one.
    """
    vit = build(spec).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in vit.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            leaf = name.rpartition(".")[2]
            if leaf == "gamma":
                value.copy_(0.3 + 0.03 * noise)
            elif leaf == "bias":
                value.copy_(0.05 * noise)
            elif value.ndim == 1:
                value.copy_(1.0 + 0.1 * noise)
            elif leaf == "weight":
                value.copy_(noise / value[0].numel() ** 0.5)
            else:  # class token, registers, position embedding
                value.copy_(0.5 * noise)
    return vit


def state_sha256(model: nn.Module) -> str:
    """Return the hash of a model's weights (see `Weights`)."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().float().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _layer(name: str) -> Any:
    """Return the layer class behind a name; a spec comes from JSON too, so only these few names are looked up."""
    import timm.layers

    if name not in LAYERS:
        raise UsageError(f'layer "{name}" is not known; {did_you_mean(name, LAYERS)}')
    return getattr(timm.layers, name, None) or getattr(nn, name)


def _from_hub(spec: ModelSpec, option: str) -> Path:
    """Fetch a model's snapshot (cached by huggingface_hub), and say in one line what keeps it from coming."""
    from huggingface_hub import errors, get_token, snapshot_download

    other_ways = f"or give {option} FILE, FOLDER or random"
    try:
        return Path(snapshot_download(spec.hub, allow_patterns=[_CONFIG, _STATE]))
    except errors.GatedRepoError:
        page = f"https://huggingface.co/{spec.hub}"
        if not get_token():
            why = f"gated, and no token is here; ask for access at {page}, then `hf auth login` or set HF_TOKEN"
        else:
            why = f"gated, and this token has no access; ask for it at {page}"
    except errors.RepositoryNotFoundError:
        why = "not found on the hub, or private; check the token (`hf auth whoami`)"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):
        why = "not in the local cache, and the hub cannot be reached; connect once"
    except Exception as error:  # a full disk, a broken transfer: the hub's HTTP library has errors of its own
        why = f"cannot be fetched ({first_line(error)}); try again"
    raise WeightsError(f"weights of {spec.name} ({spec.hub}): {why}, {other_ways}")


def _with_config(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Check a snapshot's `config.json` against the architecture and take its mean and std."""
    for name in (_CONFIG, _STATE):
        if not (folder / name).is_file():
            raise WeightsError(
                f"weights {folder}: holds no {name}; give a hub snapshot folder, or the weights file itself"
            )
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        preprocessing = config.get("pretrained_cfg", config)
        mean, std = (tuple(map(float, preprocessing[key])) for key in ("mean", "std"))
        architecture = str(config["architecture"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"weights {folder}: {_CONFIG} is not timm's ({type(error).__name__}: {error})") from None
    wanted = spec.timm_name.partition(".")[0]
    if architecture.partition(".")[0] != wanted:
        raise WeightsError(
            f"weights {folder}: {_CONFIG} says {architecture}, {spec.name} is {wanted}; choose another --model"
        )
    if len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise WeightsError(f"weights {folder}: {_CONFIG}: mean {mean} and std {std} are not those of an RGB image")
    return replace(spec, mean=mean, std=std)


def _at_this_size(vit: Any, state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str]:
    """Resample a square position embedding to the model's own grid, as timm does when it loads weights, and say so.

    Many timm models were trained at another size than tiles have: DINOv2 at 518 px, on 37 x 37 patches.
    """
    from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]

    given, wanted = state.get("pos_embed"), vit.pos_embed
    if given is None or wanted is None or given.ndim != 3 or given.shape[::2] != wanted.shape[::2]:
        return state, ""
    prefix = wanted.shape[1] - vit.patch_embed.num_patches
    side = math.isqrt(max(0, given.shape[1] - prefix))
    if given.shape == wanted.shape or side == 0 or side * side != given.shape[1] - prefix:
        return state, ""
    grid = vit.patch_embed.grid_size
    fitting = resample_abs_pos_embed(given.float(), list(grid), num_prefix_tokens=prefix)
    said = f", position embedding resampled from {side} x {side} to {grid[0]} x {grid[1]} patches"
    return {**state, "pos_embed": fitting}, said


def _fill(vit: nn.Module, state: Mapping[str, Tensor], who: str, spec: ModelSpec) -> None:
    """Copy `state` into the model; every name and shape has to fit, every number has to be finite."""
    wanted = vit.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith(_classifier(vit))}
    odd = [f"{name} is missing" for name in wanted if name not in state]
    odd += [f"{name} is not a weight of it" for name in state if name not in wanted]
    odd += [
        f"{name} is {_shape(state[name])}, {_shape(value)} is needed"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise WeightsError(f"{who}: not the weights of {spec.name}: {'; '.join(odd[:3])}{more}")
    for name, value in state.items():
        if not value.is_floating_point():
            raise WeightsError(
                f"{who}: {name} holds {str(value.dtype).removeprefix('torch.')}, not floating-point numbers"
            )
    full = {name: value.float() for name, value in state.items()}
    for name, value in full.items():
        if not torch.isfinite(value).all():
            raise WeightsError(f"{who}: {name} holds NaN or infinite numbers; the file is damaged or training diverged")
    vit.load_state_dict(full)


def _classifier(vit: nn.Module) -> tuple[str, ...]:
    """Return how the names of a classifier's weights start: timm's files have one, an embedding has no use for it."""
    known: Any = vit.pretrained_cfg
    heads = known.get("classifier") or ()
    return tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a number"
