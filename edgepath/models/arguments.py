"""The arguments of timm's vision transformers that edgepath takes, from a spec, a `config.json` or a bundle.

They decide what a model computes, so each one is known here and taken, or refused by name; none is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from ..errors import EdgepathError
from ..machine.tables import read_table

Value = bool | int | float | str
Count = Annotated[int, Meta(ge=1, le=1 << 16, description="a number from 1 to 65,536 is needed")]
Ratio = Annotated[float, Meta(gt=0, le=64, description="a number above 0, 64 at most, is needed")]
Share = Annotated[float, Meta(ge=0, le=1, description="a number from 0 to 1 is needed")]
LAYERS = {"gelu": "GELU", "gelu_tanh": "GELUTanh", "quick_gelu": "QuickGELU", "relu": "ReLU", "silu": "SiLU"}
"""Activations by timm's own names, and the classes they stand for."""


@dataclass(frozen=True)
class ModelArgs:
    """What timm's `VisionTransformer` may be built with. What a file does not name stays as the architecture has it."""

    img_size: Annotated[int, Meta(ge=14, le=4096, description="a number of pixels from 14 to 4,096 is needed")] = 224
    in_chans: Annotated[int, Meta(ge=3, le=3, description="only RGB, 3, is known")] = 3
    patch_size: Count = 16
    embed_dim: Count = 768
    depth: Annotated[int, Meta(ge=1, le=512, description="a number from 1 to 512 is needed")] = 12
    num_heads: Count = 12
    mlp_ratio: Ratio = 4.0
    qkv_bias: bool = True
    qk_norm: bool = False
    proj_bias: bool = True
    init_values: Annotated[float, Meta(gt=0, description="a number above 0 is needed")] = 1e-5
    class_token: bool = True
    pos_embed: Literal["learn"] = "learn"
    no_embed_class: bool = False
    reg_tokens: Annotated[int, Meta(ge=0, le=1024, description="a number from 0 to 1,024 is needed")] = 0
    pre_norm: bool = False
    act_layer: Literal[
        "GELU", "GELUTanh", "QuickGELU", "ReLU", "SiLU", "gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "swish"
    ] = "GELU"
    mlp_layer: Literal["Mlp", "GluMlp", "SwiGLUPacked"] = "Mlp"
    # An embedding is read before the classifier, and from the class token.
    num_classes: Annotated[int, Meta(ge=0, description="a number of 0 or more is needed")] = 0
    global_pool: Annotated[
        str, Meta(pattern=r"^(token)?\Z", description='only "token" or "" is known: edgepath reads the class token')
    ] = ""
    # These change nothing for tiles of one size, or outside of training.
    dynamic_img_size: bool = False
    dynamic_img_pad: bool = False
    drop_rate: Share = 0.0
    pos_drop_rate: Share = 0.0
    patch_drop_rate: Share = 0.0
    proj_drop_rate: Share = 0.0
    attn_drop_rate: Share = 0.0
    drop_path_rate: Share = 0.0
    weight_init: str = ""
    fix_init: bool = False


_NO_EFFECT = ("dynamic_img_size", "weight_init", "fix_init")


def check_arguments(values: object, refuse: Callable[[str], EdgepathError]) -> dict[str, Value]:
    """Return what is given, checked against `ModelArgs`; raise what `refuse` makes of the first problem."""
    read_table(ModelArgs, values, refuse)
    assert isinstance(values, dict)
    if values.get("mlp_layer") == "SwiGLUPacked" and "act_layer" not in values:
        # timm gates by whatever the architecture's activation is, and that is mostly GELU.
        raise refuse('mlp_layer = "SwiGLUPacked" needs its act_layer too: "SiLU" in DINOv2, Virchow and H0-mini')
    return dict(values)


def that_matter(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the arguments that change an embedding, activations by the name of their class."""
    kept = {
        name: value
        for name, value in values.items()
        if name not in ("in_chans", "num_classes", "global_pool", *_NO_EFFECT) and not name.endswith("_rate")
    }
    if "act_layer" in kept:
        name = str(kept["act_layer"]).replace("swish", "silu")
        kept["act_layer"] = LAYERS.get(name, name)
    return kept


def first_contradiction(given: Mapping[str, Value], known: Mapping[str, Value]) -> str:
    """Return the name of the first argument that two tables set differently, empty where none is.

    LayerScale is there or not, whatever it started from. A ratio may be rounded: weights have to fit it exactly anyhow.
    """

    def same(value: Value, other: Value) -> bool:
        numbers = isinstance(value, (int, float)) and isinstance(other, (int, float))
        return math.isclose(value, other, rel_tol=1e-4) if numbers else value == other  # type: ignore[arg-type]

    both = [name for name in given if name in known and name != "init_values"]
    return next((name for name in both if not same(given[name], known[name])), "")
