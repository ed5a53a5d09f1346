"""Watch what flows into every linear layer while the full-precision model embeds the calibration tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..machine.arrays import read_npz
from ..machine.inference import inference
from ..machine.progress import Advance

LARGEST = 65504.0 * 127
"""The largest activation whose INT8 scale FP16 can hold."""


@dataclass(frozen=True)
class Ranges:
    """What calibration saw: the largest magnitude each input channel of each linear took, on so many tiles.

    `absmax`, name -> float32 (in_features,).
    """

    absmax: dict[str, np.ndarray]
    tiles: int


@dataclass(frozen=True)
class Plan:
    """What was decided for each layer (`program.tune`); where nothing was, what holds is the recipe's and the range's.

    `strengths`, name -> (alpha, quiet) of smoothing; `limits`, name -> the magnitude that 127 stands for.
    """

    strengths: dict[str, tuple[float, float]] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)

    def limit(self, name: str, ranges: Ranges) -> float:
        """Return the magnitude of a layer's input that the largest integer stands for; `ranges` are smoothed."""
        return self.limits.get(name, float(ranges.absmax[name].max()))


NO_PLAN = Plan()


def save_ranges(path: Path | IO[bytes], ranges: Ranges, plan: Plan) -> None:
    """Write both as `.npz`: `tiles`, and arrays `KIND/<layer>`, KIND absmax, strength, limit.

    These few numbers and the weights are all that quantization needs, so a bundle keeps them: the quantized program can
    be rebuilt from the weights without the calibration tiles.
    """
    arrays: dict[str, Any] = {f"absmax/{name}": values for name, values in ranges.absmax.items()}
    arrays |= {f"strength/{name}": np.array(values) for name, values in plan.strengths.items()}
    arrays |= {f"limit/{name}": np.float64(value) for name, value in plan.limits.items()}
    np.savez_compressed(path, tiles=np.int64(ranges.tiles), **arrays)


def load_ranges(path: Path) -> tuple[Ranges, Plan]:
    """Read what `save_ranges` wrote; nothing is unpickled. Raises ValueError for other arrays.

    Those of queries and keys, `scores/...`, which older versions wrote, are left out.
    """
    by_kind: dict[str, dict[str, np.ndarray]] = {"absmax": {}, "strength": {}, "limit": {}, "scores": {}}
    with open(path, "rb") as file:
        held = read_npz(file)
    for name, values in held.items():
        kind, _, layer = name.partition("/")
        if kind in by_kind:
            by_kind[kind][layer] = values
        elif name != "tiles":
            raise ValueError(f"{name} is not of a set of ranges")
    tiles = int(held["tiles"])
    strengths = {name: (float(pair[0]), float(pair[1])) for name, pair in by_kind["strength"].items()}
    limits = {name: float(limit) for name, limit in by_kind["limit"].items()}
    return Ranges(by_kind["absmax"], tiles), Plan(strengths, limits)


class Rows:
    """A few tokens that entered each linear: of each tile the class token, the registers and some patches.

    `of(name)` is float32 (rows, in_features). The prefix tokens are a few beside hundreds of patches, and what the
    model says goes through them: drawn like the others, they would hardly be seen. Tiles beyond `most` are thinned out
    evenly, so memory does not grow with their number.
    """

    def __init__(self, prefix: int, tiles: int, *, patches: int = 7, most: int = 32, seed: int = 0) -> None:
        self.prefix, self.patches, self.every = prefix, patches, max(1, math.ceil(tiles / most))
        self._tiles, self._seed = math.ceil(tiles / self.every), seed
        self._rows: dict[str, Tensor] = {}
        self._passed: dict[str, int] = {}

    def take(self, name: str, inputs: Tensor) -> None:
        """Keep rows of `inputs`, float32 (N, T, in_features), T all tokens or the class token alone."""
        others = min(self.patches, max(0, inputs.shape[1] - self.prefix))
        picked = list(range(min(self.prefix, inputs.shape[1])))
        if name not in self._rows:
            # All of it at once: small pieces kept between activations that come and go would scatter the heap, and
            # the process grow by gigabytes.
            self._rows[name] = torch.empty(self._tiles, len(picked) + others, inputs.shape[2])
        for tokens in inputs:
            passed = self._passed[name] = self._passed.get(name, -1) + 1
            if passed % self.every:
                continue
            rng = np.random.default_rng((self._seed, passed))  # the same tokens at every layer
            patches = self.prefix + rng.choice(max(1, len(tokens) - self.prefix), others, replace=False)
            self._rows[name][passed // self.every] = tokens[picked + patches.tolist()]

    def of(self, name: str) -> Tensor:
        """Return what was kept of a layer's input."""
        return self._rows[name][: self._passed[name] // self.every + 1].flatten(0, 1)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of the transformer blocks by name, the ones that INT8 is for."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and "blocks." in name}


def calibrate(
    model: nn.Module,
    batches: Iterable[np.ndarray],
    *,
    rows: Rows | None = None,
    device: str = "cpu",
    progress: Advance | None = None,
) -> Ranges:
    """Return the input ranges of the linears of `model` over `batches`, each uint8 (N, S, S, 3).

    Keeps a float32 vector a layer, and in `rows` a few tokens, however many tiles there are.
    Raises WeightsError when an activation is not finite.
    """
    seen: dict[str, Tensor] = {}
    count = 0
    model.to(device)
    with ExitStack() as after, inference():
        after.callback(model.to, "cpu")
        for name, layer in linears(model).items():
            after.enter_context(layer.register_forward_pre_hook(_watch(seen, name, rows)))
        for tiles in batches:
            model(torch.from_numpy(np.array(tiles, order="C")).to(device))
            count += len(tiles)
            if progress is not None:
                progress(len(tiles))
    absmax = {name: values.cpu().numpy() for name, values in seen.items()}
    for name, values in absmax.items():
        if not np.isfinite(values).all():
            raise WeightsError(f"calibration: the input of {name} is not finite; the model overflows on these tiles")
        if values.max() > LARGEST:
            raise WeightsError(
                f"calibration: the input of {name} reaches {values.max():.3g}; its scale does not fit FP16 above "
                f"{LARGEST:.3g}: the weights are not those of a model that works"
            )
    return Ranges(absmax, count)


def _watch(seen: dict[str, Tensor], name: str, rows: Rows | None) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if rows is not None:
            rows.take(name, inputs[0])
        largest = inputs[0].detach().abs().flatten(0, -2).amax(dim=0)
        seen[name] = torch.maximum(seen[name], largest) if name in seen else largest

    return hook
