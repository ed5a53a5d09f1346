"""The numbers an artifact is made of, read back from its files and held against the program it was lowered from.

End to end, rounding to 8 bits hides a small mistake: two exact executions of one program lie further apart than a norm
with a wrong epsilon moves it. So products and norms are compared one by one: the integers, scales and bias of every
linear and of the patch convolution, the scale its input is rounded with, and the weights and epsilon of every norm.

All other numbers (class token, registers, positions, LayerScale) are compared as tables: every constant of more than
one number that an operation of another kind uses is one of the program's, in the order they are used in, and none of
the program's is left out. Last, attention: as many scalings by 1/sqrt(d) as the program has attentions, and of one that
is a single operation its heads and the order of what it takes. That shows that the numbers are there, not which
operation uses them for what: elsewhere how values flow is held by drift, and what is computed by `checks.layerwise` and
the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..backends.contents import Norm, Parts, Product
from ..backends.reading import missing_from_engine, read_parts

if TYPE_CHECKING:
    from ..program.fold import EdgeModel

# FP16 keeps 11 bits, and below 6.1e-5 steps of 6e-8 (onnxruntime's converter raises what is smaller to one step).
_RELATIVE, _ABSOLUTE = 2.0**-11, 1e-7
CLASS_TOKEN = ".class_token"
"""`NAME.class_token` is what the product of the linear `NAME` with the class token's activations is called."""
_EPSILON = 0.05  # FP16 holds 1e-6 as 1.01e-6


@dataclass(frozen=True)
class Difference:
    """In what an artifact is not its program.

    `kind` is "form" where its layers are not the program's one by one, so that they cannot be held against each other,
    "numbers" otherwise. `layer` is the layer's name, empty where it is of no one layer; `text` says what differs.
    """

    kind: Literal["form", "numbers"]
    layer: str
    text: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.text}" if self.layer else self.text


def named_parts(model: EdgeModel) -> tuple[dict[str, Product], dict[str, Norm]]:
    """Return a program's parts by the names of its layers."""
    import torch
    from torch import nn

    from ..program.formats import to_numpy
    from ..program.linear import QuantizedLinear

    products: dict[str, Product] = {}
    norms: dict[str, Norm] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear):
            numbers = to_numpy(layer.weight), _bias(layer), layer.weight_scale.numpy()
            cut = layer.spared == "first"
            if layer.spared != "none":
                products[name + CLASS_TOKEN] = Product(*numbers, tokens="first" if cut else "")
            if layer.spared != "all":
                scales = (layer.input_scale, layer.input_scale)
                products[name] = Product(*numbers, scales, tokens="rest" if cut else "")
        elif isinstance(layer, (nn.Linear, nn.Conv2d)):
            products[name] = Product(layer.weight.detach().numpy(), _bias(layer))
        elif isinstance(layer, nn.LayerNorm):
            weight = torch.ones(layer.normalized_shape) if layer.weight is None else layer.weight.detach()
            bias = torch.zeros(layer.normalized_shape) if layer.bias is None else layer.bias.detach()
            norms[name] = Norm(layer.eps, weight.numpy(), bias.numpy())
    return products, norms


def named_tables(model: EdgeModel) -> dict[str, np.ndarray]:
    """Return a program's numbers that belong to no product and no norm, by name, in the order they are used in."""
    from torch import nn

    from ..program.linear import QuantizedLinear

    owned = (QuantizedLinear, nn.Linear, nn.Conv2d, nn.LayerNorm)
    tables = {}
    for prefix, module in model.named_modules():
        if not isinstance(module, owned):
            for name, value in module.named_parameters(prefix, recurse=False):
                tables[name] = value.detach().numpy()
    return tables


def _attention_scales(model: EdgeModel) -> list[float]:
    """Return 1/sqrt(d) of every attention, d the length of a head's query."""
    attentions: list[Any] = [module for module in model.modules() if hasattr(module, "head_dim")]
    return [float(module.head_dim**-0.5) for module in attentions]


def _bias(layer: Any) -> np.ndarray:
    bias: np.ndarray = np.zeros(len(layer.weight), np.float32) if layer.bias is None else layer.bias.detach().numpy()
    return bias


def differences(model: EdgeModel, artifact: Path, backend: str = "") -> list[Difference]:
    """Return in what an artifact that `backend` built is not its program; none where it is."""
    products, norms = named_parts(model)
    lowered = read_parts(artifact, backend)
    counts = _counted("products with weights", len(products), len(lowered.products), kind="form")
    counts += _counted("norms", len(norms), len(lowered.norms), kind="form")
    if counts:
        return counts
    order = paired(list(products), list(products.values()), lowered.products)
    every = [
        difference
        for name, product in products.items()
        for difference in _product(name, product, lowered.products[order[name]])
    ]
    every += [
        difference
        for (name, norm), other in zip(norms.items(), lowered.norms, strict=True)
        for difference in _norm(name, norm, other)
    ]
    every += _tables(named_tables(model), lowered.tables)
    every += _scaled(_attention_scales(model), lowered)
    every += _split(model, lowered)
    every += _counted("rounded factors of products", 0, lowered.rounded)
    engine = missing_from_engine(artifact, products)
    missing = f"{artifact.stem}.engine does not hold its integers"
    return every + [Difference("numbers", name, missing) for name in engine]


def paired(names: list[str], ours: list[Product], theirs: tuple[Product, ...]) -> dict[str, int]:
    """Return which of an artifact's products is which layer: by order, but for a few pairs that come in any.

    Those are query and keys of the class token alone, and a linear's products with the class token and with the others.
    """
    order = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(names[:-1]):
        if name.endswith("attn.q") and theirs[i].weight.shape != ours[i].weight.shape:
            order[name], order[names[i + 1]] = i + 1, i
        other = name.removesuffix(CLASS_TOKEN)
        if other != name and other in order and theirs[order[name]].tokens == "rest":
            order[name], order[other] = order[other], order[name]
    return order


def _counted(what: str, ours: int, theirs: int, *, kind: Literal["form", "numbers"] = "numbers") -> list[Difference]:
    return [] if ours == theirs else [Difference(kind, "", f"{theirs} {what}, the program has {ours}")]


def _product(name: str, ours: Product, theirs: Product) -> list[Difference]:
    if ours.weight.shape != theirs.weight.shape:
        shapes = f"weights of shape {theirs.weight.shape}, the program's are {ours.weight.shape}"
        return [Difference("form", name, shapes)]
    if (ours.scale is None) != (theirs.scale is None):
        return [Difference("form", name, "quantized" if ours.scale is None else "not quantized")]
    texts = [] if _close(ours.bias, theirs.bias) else [f"another bias ({_worst(ours.bias, theirs.bias)})"]
    if ours.scale is None and not _close(ours.weight, theirs.weight):
        texts.append(f"other weights ({_worst(ours.weight, theirs.weight)})")
    if ours.scale is not None:
        texts += _integers(ours, theirs)
    numbers = [Difference("numbers", name, text) for text in texts]
    return numbers + (_input_rounding(name, ours, theirs) if ours.scale is not None else [])


def _integers(ours: Product, theirs: Product) -> list[str]:
    """Say in what 8-bit numbers, to the bit, the tokens they are for, and the scales of the weights differ."""
    assert ours.scale is not None
    assert theirs.scale is not None
    texts = []
    if ours.weight.dtype != theirs.weight.dtype:
        return [f"weights in {theirs.weight.dtype}, the program's are {ours.weight.dtype}"]
    bits = [np.ascontiguousarray(product.weight).view(np.uint8) for product in (ours, theirs)]
    if odd := int((bits[0] != bits[1]).sum()):
        texts.append(f"{odd} of {ours.weight.size} {'integers' if ours.weight.dtype == np.int8 else 'weights'} differ")
    if ours.tokens not in ("", theirs.tokens):
        texts.append(f"it takes {theirs.tokens or 'all'} of the tokens, the program's takes {ours.tokens}")
    if not np.array_equal(ours.scale, theirs.scale):
        texts.append(f"scales of its weights differ ({_worst(ours.scale, theirs.scale)})")
    return texts


def _input_rounding(name: str, ours: Product, theirs: Product) -> list[Difference]:
    if ours.input_scales is None or theirs.input_scales is None:
        if ours.input_scales == theirs.input_scales:
            return []
        rounding = "its input is rounded" if ours.input_scales is None else "its input is not rounded"
        return [Difference("form", name, rounding)]
    return [
        Difference("numbers", name, f"its input is {what} with {scale:.6g}, the program's scale is {wanted:.6g}")
        for what, wanted, scale in zip(
            ("quantized", "dequantized"), ours.input_scales, theirs.input_scales, strict=True
        )
        if not np.isclose(wanted, scale, rtol=1e-6, atol=0)
    ]


def _norm(name: str, ours: Norm, theirs: Norm) -> list[Difference]:
    texts = []
    if not np.isclose(ours.epsilon, theirs.epsilon, rtol=_EPSILON, atol=0):
        texts.append(f"epsilon {theirs.epsilon:.3g}, the program's is {ours.epsilon:.3g}")
    for what in ("weight", "bias"):
        wanted, value = getattr(ours, what), getattr(theirs, what)
        if wanted.shape != value.shape or not _close(wanted, value):
            texts.append(f"another {what}")
    return [Difference("numbers", name, text) for text in texts]


def _tables(ours: dict[str, np.ndarray], theirs: tuple[np.ndarray, ...]) -> list[Difference]:
    """Compare tables of one size in their order: lowerings reshape them, and use those of other sizes in any order."""
    every = []
    for size in sorted({table.size for table in (*ours.values(), *theirs)}):
        names = [name for name, table in ours.items() if table.size == size]
        others = [table for table in theirs if table.size == size]
        if len(names) != len(others):
            every += _counted(f"other constants of {size} numbers", len(names), len(others))
            continue
        for name, table in zip(names, others, strict=True):
            if not _close(ours[name].ravel(), table.ravel()):
                numbers = f"other numbers ({_worst(ours[name].ravel(), table.ravel())})"
                every.append(Difference("numbers", name, numbers))
    return every


def _scaled(scales: list[float], lowered: Parts) -> list[Difference]:
    """Count the attentions that are scaled: by one operation, by one factor, or by its root on queries and on keys."""
    count = float(lowered.attentions)
    for scale in set(scales):
        for factor, share in ((scale, 1.0), (scale**0.5, 0.5)):
            count += share * sum(bool(np.isclose(scalar, factor, rtol=_RELATIVE, atol=0)) for scalar in lowered.scalars)
    scaled = f"{count:g} attentions scaled by 1/sqrt(d), the program has {len(scales)}"
    return [] if count == len(scales) else [Difference("numbers", "", scaled)]


def _split(model: EdgeModel, lowered: Parts) -> list[Difference]:
    """Compare the heads of attentions that are one operation; others have them in shapes, which are not compared."""
    ours: set[Any] = {module.num_heads for module in model.modules() if hasattr(module, "head_dim")}
    odd = [count for count in lowered.heads if count not in ours]
    return [Difference("numbers", "", f"{count} heads in an attention, the program has {max(ours)}") for count in odd]


def _close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return bool(np.allclose(theirs.astype(np.float64), ours.astype(np.float64), rtol=_RELATIVE, atol=_ABSOLUTE))


def _worst(ours: np.ndarray, theirs: np.ndarray) -> str:
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    apart, length = float(np.linalg.norm(theirs - ours)), float(np.linalg.norm(ours))
    return f"relative L2 {apart / max(length, 1e-30):.2g}"
