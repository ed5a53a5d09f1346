"""A timm vision transformer with weights in it: from the hub, a hub snapshot folder, a file, or drawn at random.

Whatever they come from, weights fit the architecture exactly, are finite, and are known by one hash of their values.
`weightfiles` reads them, `checkpoints` finds the model in them, `fitting` puts it into timm's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from ..errors import UsageError, WeightsError, did_you_mean, first_line
from ..machine.tables import plain, shown
from .arguments import LAYERS
from .checkpoints import find_encoder
from .configs import CONFIG, with_hub_config
from .fitting import fit
from .spec import ModelSpec
from .weightfiles import STATES, locate, read_leaves

SEED = 0


class _WeightsFacts(TypedDict):
    source: str
    sha256: str
    random: bool


class WeightsFacts(_WeightsFacts, total=False):
    """`Weights` as JSON; the first version did not say in what precision they were stored."""

    precision: str
    rounded: bool


@dataclass(frozen=True)
class Weights:
    """Where a model's weights came from, in words without a path, and the sha256 of their values.

    `source` says what was taken of a file that holds more (`run.pth::teacher.backbone, student left out`). The hash is
    over name, shape and float32 bytes of every tensor in the order of names: one model has one hash, as `.safetensors`
    or `.pth`, in FP16 or FP32. `precision` is what they are stored in; `rounded` is true where that is less than FP32.
    """

    source: str
    sha256: str
    random: bool
    precision: str = "float32"
    rounded: bool = False

    def to_json(self) -> WeightsFacts:
        """Return the fields as JSON-able values."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "random": self.random,
            "precision": self.precision,
            "rounded": self.rounded,
        }


def load_model(
    spec: ModelSpec, weights: str | Path | None = None, *, option: str = "--weights"
) -> tuple[nn.Module, ModelSpec, Weights]:
    """Return the timm model in evaluation mode and FP32, its spec, and what its weights are.

    `weights` is a file of safetensors or a PyTorch checkpoint, an index of shards, a hub snapshot folder (`config.json`
    and weights), or `random`; `FILE::KEY` names one of several models in a file. None takes the model's own: from the
    hub, those that ship with edgepath, or for a model without any, random ones from a fixed seed. A folder's
    `config.json` decides mean and std, and of `timm:NAME` the arguments too; the spec that is returned has them.
    `option` is what gives other weights, in messages.

    Raises WeightsError for weights that are missing, gated, unreadable, of another shape or not finite.
    """
    shipped = shipped_weights(spec.name) if weights is None and not spec.hub else None
    if weights == "random" or (weights is None and not spec.hub and shipped is None):
        vit = random_model(spec)
        return vit, spec, Weights(f"random, seed {SEED}", state_sha256(vit), random=True)
    chosen = _find(spec, weights, shipped, option)
    built: Any = build(chosen.spec)
    who = f"weights {chosen.path}"
    encoder = find_encoder(read_leaves(chosen.file), chosen.key, built.patch_embed.proj.weight.shape, who)
    fitted = fit(built, encoder, chosen.spec, who)
    place = f"::{plain(encoder.place)}" if encoder.place else ""
    source = ", ".join([f"{chosen.source}{place}", *fitted.notes, *chosen.notes])
    return built.eval(), chosen.spec, Weights(source, state_sha256(built), False, fitted.precision, fitted.rounded)


@dataclass(frozen=True)
class _Found:
    """Weights that are there: as given, the file of them, the key in it, and the model as what lies beside says."""

    path: Path
    file: Path
    key: str
    spec: ModelSpec
    source: str
    notes: list[str]


def _find(spec: ModelSpec, weights: str | Path | None, shipped: Path | None, option: str) -> _Found:
    """Return where a model's weights are, and the model as their folder describes it."""
    if weights == "":
        raise WeightsError('weights "": give a file, a hub snapshot folder, or random')
    key = ""
    if shipped is not None:
        path, source = shipped, f"{spec.name}, shipped with edgepath"
    elif weights is not None:
        path, key = locate(weights)
        source = path.resolve().name
    else:
        path, source = _from_hub(spec, option), f"hub {spec.hub}"
    if not path.exists():
        raise WeightsError(f"weights {path}: no such file or folder; give a file, a hub snapshot folder, or random")
    if path.is_dir():
        file = _state_in(path)
        described, notes = with_hub_config(spec, path)
        if weights is None:  # its own weights, whose licence is known
            described = replace(described, licence=spec.licence)
        return _Found(path, file, key, described, source, notes)
    if not spec.name.startswith("timm:"):
        return _Found(path, path, key, spec, source, [])
    # Of these weights timm knows nothing: neither whose they are, nor what they want to see.
    notes = [f"normalised as timm's {spec.timm_name} is"]
    return _Found(path, path, key, replace(spec, licence="not stated"), source, notes)


def shipped_weights(name: str) -> Path | None:
    """Return the folder of the weights that ship with edgepath under a model's name, None where there are none."""
    folder = Path(__file__).parents[1] / "shipped" / name
    return folder if (folder / STATES[0]).is_file() else None


def build(spec: ModelSpec) -> nn.Module:
    """Return the timm model of `spec`, untrained."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    arguments: dict[str, Any] = {
        key: _layer(str(value)) if key.endswith("_layer") else value for key, value in spec.timm_args.items()
    }
    if not timm.is_model(spec.timm_name.partition(".")[0]):  # a spec comes from files too: no `hf-hub:` of someone's
        raise UsageError(f"model {spec.name}: timm has no architecture {shown(spec.timm_name)}")
    try:
        model: nn.Module = timm.create_model(spec.timm_name, pretrained=False, **arguments)
    except (TypeError, AssertionError) as error:
        # timm passes arguments on to whatever class the name stands for; one that takes no img_size is no plain ViT.
        why = str(error) or type(error).__name__
        raise UsageError(
            f"model {spec.name}: timm cannot build it as an embedding of {spec.size} px tiles ({why}); choose another"
        ) from None
    if not isinstance(model, VisionTransformer):
        kind = type(model).__name__
        raise UsageError(f"model {spec.name}: {kind} is not timm's VisionTransformer; choose another model")
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

    known = (*LAYERS.values(), "Mlp", "GluMlp", "SwiGLUPacked")
    if name not in known:
        raise UsageError(f'layer "{name}" is not known; {did_you_mean(name, known)}')
    return getattr(timm.layers, name, None) or getattr(nn, name)


def _from_hub(spec: ModelSpec, option: str) -> Path:
    """Fetch a model's snapshot (cached by huggingface_hub), and say in one line what keeps it from coming."""
    from huggingface_hub import errors, get_token, snapshot_download

    other_ways = f"or give {option} FILE, FOLDER or random"
    try:
        return Path(snapshot_download(spec.hub, allow_patterns=[CONFIG, *STATES[:2], "model-*-of-*.safetensors"]))
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


def _state_in(folder: Path) -> Path:
    """Return the file of weights in a hub snapshot folder; WeightsError says what the folder is instead."""
    if (folder / "adapter_config.json").is_file():
        raise WeightsError(
            f"weights {folder}: LoRA adapters, not a whole model; merge them into the model they adapt (peft: "
            "merge_and_unload()) and save that"
        )
    if (folder / ".metadata").is_file():
        raise WeightsError(
            f"weights {folder}: a distributed checkpoint; make one file of it with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save and give that"
        )
    state = next((folder / name for name in STATES if (folder / name).is_file()), None)
    missing = STATES[0] if state is None else CONFIG
    if state is None or not (folder / CONFIG).is_file():
        raise WeightsError(
            f"weights {folder}: holds no {missing}; give a hub snapshot folder, or the weights file itself"
        )
    return state
