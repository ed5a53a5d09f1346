"""Watch what flows into every linear layer while the full-precision model embeds the calibration tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import WeightsError

Progress = Callable[[int], None]

LARGEST = 65504.0 * 127
"""The largest activation whose INT8 scale FP16 can hold."""


@dataclass(frozen=True)
class Ranges:
    """Largest magnitude each input channel of each linear took: name -> float32 (in_features,).

    These few numbers and the weights are all that quantization needs, so a bundle keeps them: the quantized
    program can be rebuilt from the weights without the calibration tiles.
    """

    absmax: dict[str, np.ndarray]
    tiles: int

    def save(self, path: Path) -> None:
        """Write the ranges as `.npz` (one float32 array a layer, and `tiles`)."""
        np.savez_compressed(path, tiles=np.int64(self.tiles), **self.absmax)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Read what `save` wrote; nothing is unpickled."""
        with np.load(path, allow_pickle=False) as file:
            absmax = {name: file[name] for name in file.files if name != "tiles"}
            return cls(absmax, int(file["tiles"]))


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of the transformer blocks by name, the ones that INT8 is for."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and "blocks." in name}


def calibrate(
    model: nn.Module, batches: Iterable[np.ndarray], *, device: str = "cpu", progress: Progress | None = None
) -> Ranges:
    """Return the input ranges of the linears of `model` over `batches`, each uint8 (N, S, S, 3).

    Keeps one float32 vector a layer, so memory does not grow with the number of tiles. Raises WeightsError when an
    activation is not finite.
    """
    seen: dict[str, Tensor] = {}
    hooks = [layer.register_forward_pre_hook(_watch(seen, name)) for name, layer in linears(model).items()]
    count = 0
    model.to(device)
    try:
        with torch.inference_mode():
            for tiles in batches:
                model(torch.from_numpy(np.array(tiles, order="C")).to(device))
                count += len(tiles)
                if progress is not None:
                    progress(len(tiles))
    finally:
        for hook in hooks:
            hook.remove()
        model.to("cpu")
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


def _watch(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        largest = inputs[0].detach().abs().flatten(0, -2).amax(dim=0)
        seen[name] = torch.maximum(seen[name], largest) if name in seen else largest

    return hook
