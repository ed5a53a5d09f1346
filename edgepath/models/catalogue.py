"""Which models there are, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UsageError, did_you_mean
from ..machine.tables import shown
from .arguments import Value
from .configs import read_model_config
from .spec import FIXED, SIZE
from .spec import ModelSpec as ModelSpec

H0_MINI_MEAN = (0.707223, 0.578729, 0.703617)
H0_MINI_STD = (0.211883, 0.230117, 0.177517)
# The hub's H0-mini, spelled out: DINOv2's ViT with 4 registers and a gated MLP (fc1 768 -> 4096, fc2 2048 -> 768).
_H0_MINI_ARGS: dict[str, Value] = {
    "img_size": SIZE,
    **FIXED,
    "init_values": 1e-5,
    "mlp_ratio": 5.33334,
    "mlp_layer": "SwiGLUPacked",
    "act_layer": "SiLU",
}


_SPECS = (
    ModelSpec(
        name="demo",
        summary="ViT-Ti/14 built like H0-mini, 5.5 M parameters, its weights ship with edgepath",
        timm_name="vit_base_patch14_reg4_dinov2",
        timm_args={**_H0_MINI_ARGS, "embed_dim": 192, "num_heads": 3},
        mean=H0_MINI_MEAN,
        std=H0_MINI_STD,
        licence="Apache-2.0",
    ),
    ModelSpec(
        name="h0-mini",
        summary="ViT-B/14 distilled from H-optimus-0, 86 M parameters",
        timm_name="vit_base_patch14_reg4_dinov2",
        timm_args=_H0_MINI_ARGS,
        mean=H0_MINI_MEAN,
        std=H0_MINI_STD,
        licence="CC-BY-NC-ND-4.0, gated",
        hub="bioptimus/H0-mini",
    ),
    # As its card builds it: hf-hub:bioptimus/H-optimus-0 with init_values=1e-5 and dynamic_img_size=False.
    ModelSpec(
        name="h-optimus-0",
        summary="ViT-g/14, the teacher of H0-mini, 1.1 B parameters, 1536 features",
        timm_name="vit_giant_patch14_reg4_dinov2",
        timm_args={"img_size": SIZE, **FIXED, "init_values": 1e-5},
        mean=H0_MINI_MEAN,
        std=H0_MINI_STD,
        licence="Apache-2.0, gated",
        hub="bioptimus/H-optimus-0",
    ),
)


def model_specs() -> tuple[ModelSpec, ...]:
    """Return the models known by name."""
    return _SPECS


def find_model(name: str) -> ModelSpec:
    """Return a model by name, any timm vision transformer as `timm:NAME`, or what a `.toml` file describes.

    Raises UsageError naming the nearest known names, MissingRuntime where `timm:` is given without timm.
    """
    if name.endswith(".toml"):
        spec = read_model_config(Path(name))
        _check_architecture(spec.timm_name, f"model config {name}: architecture {shown(spec.timm_name)}", "")
        return spec
    known = {spec.name: spec for spec in _SPECS}
    if name.startswith("timm:"):
        return _timm_spec(name.removeprefix("timm:"))
    if name not in known:
        raise UsageError(f'model "{name}" is not known; {did_you_mean(name, known)}, timm:NAME, or a .toml file')
    return known[name]


def _timm_spec(name: str) -> ModelSpec:
    """Take preprocessing and licence from timm's configuration; tiles stay 224 px, whatever it was trained at."""
    _check_architecture(name, f'model "timm:{name}"', "timm:")
    import timm

    config: Any = timm.get_pretrained_cfg(name)
    assert config is not None
    return ModelSpec(
        name=f"timm:{name}",
        summary=f"timm's {name}",
        timm_name=name,
        timm_args={"img_size": SIZE, **FIXED},
        mean=config.mean,
        std=config.std,
        licence=config.license or "not stated by timm",
        hub=config.hf_hub_id or "",
    )


def _check_architecture(name: str, who: str, prefix: str) -> None:
    """Raise UsageError unless timm has a vision transformer of this name; `prefix` is before such names in messages."""
    from ..machine.packages import require

    require("timm", "export")
    import timm

    modules = ("vision_transformer", "deit")  # what timm builds from its class VisionTransformer
    known = [
        architecture
        for module in modules
        for tags in (False, True)
        for architecture in timm.list_models(module=module, include_tags=tags)
    ]
    if name not in known:
        near = did_you_mean(name, known).replace('"', f'"{prefix}', 1)
        # There are hundreds; without a near one, timm lists them.
        hint = "timm.list_models('vit_*') names them" if near.startswith("known:") else near
        raise UsageError(f"{who} is not a timm vision transformer; {hint}")
