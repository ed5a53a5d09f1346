"""Values too large for FP16 made smaller, without another result: powers of two moved into neighbours.

What makes a value is divided, and what reads it multiplied, by the same power of two. Both are exact in floating point
(short of its smallest numbers), so the model computes what it did. There are three kinds of places:

    channels    a LayerNorm, the values of attention or of a gated MLP, and the linears that read them (`smooth.folds`)
    scores      queries and keys: only their products count, so that one can lend to the other
    stream      the residual stream: every LayerNorm that reads it undoes a common factor, given its epsilon is divided
                by the factor's square

What has no such place, the hidden layer of a plain MLP or a gate, stays as it is, and is seen in the headroom.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import BundleError
from ..machine.arrays import read_npz
from ..machine.inference import inference
from .fold import ClsOnlyAttention, EdgeModel
from .headroom import FP16_MAX
from .smooth import divide_rows, folds

RESCALED = "rescaled.npz"
_STREAM = "stream"
_SPARE = 2.0  # times what a recipe asks for: other tissue is louder

Exponents = dict[str, np.ndarray]
"""By place, int8 (channels,) or (): what is made there is divided by 2 to this power."""


def find_exponents(model: EdgeModel, batches: Iterable[np.ndarray], at_least: float) -> Exponents:
    """Return what keeps the values of `batches`, uint8 (N, S, S, 3) each, `at_least` times below FP16's largest.

    Empty where none comes near. Values that have no place to go are left out: `headroom` shows them.
    """
    made, read = _largest(model, batches)
    limit, exponents = FP16_MAX / (_SPARE * at_least), {}
    names = {id(module): name for name, module in model.named_modules()}
    for fold in folds(model):
        seen = [made[names[id(fold.producer)]][fold.rows], *(read[name] for name in fold.consumers)]
        exponents[fold.consumers[0]] = _exponents(torch.stack(seen).amax(0), limit)
    for name, (layer, queries, other, keys) in _scores(model):
        q, k = (made[names[id(producer)]][rows] for producer, rows in ((layer, queries), (other, keys)))
        exponents[name] = _exponents(q, limit) - _exponents(k, limit)
    exponents[_STREAM] = _exponents(_stream(model, made), limit)
    return {name: values for name, values in exponents.items() if values.any()}


def rescale(model: EdgeModel, exponents: Exponents) -> EdgeModel:
    """Move the factors, in place, and return the model. Raises ValueError for places that it does not have."""
    left, layers = dict(exponents), dict(model.named_modules())
    for fold in folds(model):
        if (exponent := left.pop(fold.consumers[0], None)) is not None:
            divide_rows(fold.producer, fold.rows, _factors(exponent))
            for name in fold.consumers:
                layers[name].weight.data.mul_(_factors(exponent))
    for name, (layer, queries, other, keys) in _scores(model):
        if (exponent := left.pop(name, None)) is not None:
            divide_rows(layer, queries, _factors(exponent))
            divide_rows(other, keys, _factors(-exponent))
    if (exponent := left.pop(_STREAM, None)) is not None:
        _divide_stream(model, float(_factors(exponent)))
    if left:
        raise ValueError(f"{min(left)} is no place of this model")
    return model


def save_exponents(path: Path | IO[bytes], exponents: Exponents) -> None:
    """Write exponents as `.npz`: with them a bundle's program can be made again from the weights."""
    np.savez_compressed(path, **exponents)  # type: ignore[arg-type]


def load_exponents(path: Path) -> Exponents:
    """Read what `save_exponents` wrote, nothing where there is no file. Raises BundleError for another file."""
    if not path.exists():
        return {}
    try:
        with open(path, "rb") as file:
            exponents = read_npz(file)
    except (OSError, ValueError) as error:
        raise BundleError(f"bundle {path.parent}: {path.name} cannot be read ({error}); export it again") from None
    if odd := [name for name, values in exponents.items() if values.dtype != np.int8 or values.ndim > 1]:
        raise BundleError(f"bundle {path.parent}: {path.name} holds other numbers at {odd[0]!r}; export it again")
    return exponents


def _largest(model: EdgeModel, batches: Iterable[np.ndarray]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the largest magnitude of each channel that modules put out, and that linears read, by module."""
    made: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}

    def note(kept: dict[str, Tensor], name: str, values: Any) -> None:
        if isinstance(values, Tensor) and values.dim() == 3:
            seen = values.abs().amax((0, 1))
            kept[name] = torch.maximum(kept[name], seen) if name in kept else seen

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_hook(lambda _, x, y, name=name: note(made, name, y)))
        if isinstance(module, nn.Linear):
            hooks.append(module.register_forward_pre_hook(lambda _, x, name=name: note(read, name, x[0])))
    try:
        with inference():
            for tiles in batches:
                model(torch.from_numpy(np.array(tiles, order="C")))
    finally:
        for hook in hooks:
            hook.remove()
    return made, read


def _exponents(largest: Tensor, limit: float) -> np.ndarray:
    """Return the smallest whole powers of two, 0 and above, that bring magnitudes down to `limit`."""
    over = torch.log2(largest.clamp_min(1e-30) / limit).ceil().clamp(0, 100)
    return over.to(torch.int8).numpy()


def _factors(exponents: np.ndarray) -> Tensor:
    return torch.exp2(torch.from_numpy(exponents.astype(np.float32)))


def _scores(model: EdgeModel) -> Iterator[tuple[str, tuple[Any, slice, Any, slice]]]:
    """Yield where queries and keys are made, by a name: layer and rows of each. None where a norm comes after them."""
    blocks: Iterator[Any] = iter(model.vit.blocks)
    for index, block in enumerate(blocks):
        attn = block.attn
        width = attn.num_heads * attn.head_dim
        if not (isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity)):
            continue
        if isinstance(attn, ClsOnlyAttention):
            yield f"vit.blocks.{index}.scores", (attn.q, slice(0, width), attn.kv, slice(0, width))
        else:
            yield f"vit.blocks.{index}.scores", (attn.qkv, slice(0, width), attn.qkv, slice(width, 2 * width))


def _stream(model: EdgeModel, made: dict[str, Tensor]) -> Tensor:
    """Return the largest magnitude in the residual stream, and of what is added to it."""
    if not all(isinstance(norm, nn.LayerNorm) for norm in _readers(model)):
        return torch.tensor(0.0)
    parts = ("", ".attn.proj", ".ls1", ".mlp.fc2", ".ls2")
    blocks = [f"vit.blocks.{i}{part}" for i in range(len(model.vit.blocks)) for part in parts]
    return torch.stack([made[name].max() for name in (*blocks, "vit.norm_pre") if name in made]).max()


def _readers(model: EdgeModel) -> list[Any]:
    """Return the norms that read the stream."""
    blocks: Iterator[Any] = iter(model.vit.blocks)
    return [norm for block in blocks for norm in (block.norm1, block.norm2)] + [model.vit.norm]


def _divide_stream(model: EdgeModel, factor: float) -> None:
    vit: Any = model.vit
    for norm in _readers(model):
        norm.eps /= factor**2
    makers = [layer for block in vit.blocks for layer in (block.attn.proj, block.mlp.fc2)]
    tables = []
    if isinstance(vit.norm_pre, nn.Identity):
        makers.append(vit.patch_embed.proj)
        tables = [vit.cls_token, vit.reg_token, vit.pos_embed]
    else:
        makers.append(vit.norm_pre)
    for values in [*tables, *(parameter for maker in makers for parameter in (maker.weight, maker.bias))]:
        if values is not None:
            values.data.div_(factor)
