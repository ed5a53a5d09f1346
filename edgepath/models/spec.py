"""A model as one value, without weights: architecture, preprocessing, embedding and licence.

A spec travels into every bundle: mean and std of the wrong model change every figure and crash nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import UsageError
from ..machine.tables import read_table
from .arguments import Value, check_arguments

SIZE = 224
FIXED: dict[str, Value] = {"num_classes": 0, "global_pool": ""}
"""What every model is built with: no classifier, all tokens."""


@dataclass(frozen=True)
class ModelSpec:
    """A vision transformer: how timm builds it, what its tiles look like, and which embedding it has.

    `timm_name` and `timm_args` are `timm.create_model`'s (see `models.arguments`; layers by name). Tiles are
    `size` x `size` RGB, normalised as (x / 255 - mean) / std. `embedding` is the model's own choice, `cls` or
    `cls+mean`. `hub` is the Hugging Face repository of its weights, empty where it has none.
    """

    name: str
    summary: str
    timm_name: str
    timm_args: Mapping[str, Value]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    size: int = SIZE
    embedding: str = "cls"
    hub: str = ""
    schema: int = field(default=1, kw_only=True)

    def to_json(self) -> dict[str, object]:
        """Return the spec as JSON-able values."""
        return dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> ModelSpec:
        """Return the spec that `to_json` wrote. Raises UsageError for other values."""
        spec = read_table(cls, values, lambda problem: UsageError(f"model.{problem}"))
        check_arguments(spec.timm_args, lambda problem: UsageError(f"model.timm_args.{problem}"))
        return spec
