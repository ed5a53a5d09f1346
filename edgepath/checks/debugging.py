"""`debug`: where drift comes from, layer by layer and block by block, and whether the artifact is its program."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.bundle import Bundle, open_bundle
from ..bundle.running import BATCH
from ..errors import UsageError
from ..machine.packages import require
from ..machine.progress import Progress, counter, silent
from ..program.rebuilding import rebuild, same_weights
from ..tiles.opening import open_tiles
from .results import BlockFigures, Debugging, LayerFigures

if TYPE_CHECKING:
    from torch import Tensor

FP16_MAX = 65504.0
OUTLIER = 6.0
"""A channel is an outlier when its largest magnitude is so many times the median channel's."""
MOST = 64
PROVED = 2
"""On so many tiles every layer of an artifact is run alone."""


def debug(
    bundle: str | Path | Bundle,
    *,
    tiles: str | Path | Sequence[str | Path] | None = None,
    weights: str | Path | None = None,
    resize: str = "refuse",
    progress: Progress | None = None,
) -> Debugging:
    """Run a bundle's program beside its full-precision model and return what each part contributes, JSON-able.

    On the golden tiles, or on up to 64 `tiles`. Of every layer in `layers`: the largest magnitude and the outlier
    channels of its input and, where it is quantized, `sqnr_db`, the signal-to-quantization-noise ratio of its output
    when it is given the full-precision input (10 log10 of the sum of squares of the output over that of the error). Of
    every block in `blocks`: the same ratio with all errors so far, the class token's cosine, the largest magnitude and
    `fp16_headroom`, 65,504 over it. `parts` says in what the artifact's files are not the program (`checks.parts`), and
    of every quantized layer `proof` what it makes of what the program gives it, on the first tiles
    (`checks.layerwise`); `unproved` names the layers that compute something else.

    Raises what `verify` raises.
    """
    require("torch", "export")
    from ..backends.reading import require_reader
    from ..program.forms import Program
    from ..program.split_projections import whole
    from .layerwise import joint, prove
    from .parts import differences, named_parts

    bundle = open_bundle(bundle)
    require_reader(bundle.artifact)
    recipe = bundle.recipe
    say = progress or silent
    if tiles is None:
        name, pixels = "golden tiles", bundle.golden()[0]
    else:
        source = open_tiles(tiles, size=bundle.manifest["contract"]["size"], resize=resize)
        if len(source) > MOST:
            raise UsageError(f"debug: {len(source)} tiles; give at most {MOST}")
        name, pixels = source.name, source.read()
    vit, spec, _ = same_weights(bundle, weights)
    twin, program = rebuild(bundle, recipe, copy.deepcopy(vit), spec, smoothed_only=True), None
    if recipe.int8:
        program = rebuild(bundle, recipe, vit, spec)
    layers, blocks = _watch(twin, program, pixels, counter(say, "layers", len(pixels)))
    lowered = Program(program or twin, recipe).lowered
    products, norms = named_parts(lowered)
    differing = differences(lowered, bundle.artifact)
    proofs = {}
    if program is not None and not any(one.kind == "form" for one in differing):
        shown = pixels[:PROVED]
        proofs = prove(lowered, bundle.artifact, shown, counter(say, "proof", len(shown)))
    for row in layers:
        parts = [proof for name, proof in proofs.items() if whole(name) == row["layer"]]
        row["proof"] = asdict(joint(parts)) if parts else None
    return {
        "kind": "debugging",
        "name": bundle.name,
        "bundle": bundle.digest,
        "tiles": {"name": name, "count": len(pixels)},
        "cautions": bundle.manifest["cautions"],
        "layers": layers,
        "blocks": blocks,
        "parts": {
            "products": len(products),
            "norms": len(norms),
            "differences": [str(one) for one in differing],
        },
        "unproved": [name for name, proof in proofs.items() if not proof.holds],
    }


@dataclass
class _Layer:
    """Sums over tiles of one linear."""

    channels: Any = None  # largest magnitude of every input channel
    signal: float = 0.0
    noise: float = 0.0


@dataclass
class _Block:
    """Sums over tiles of one block's output."""

    largest: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    cosines: float = 0.0


def _watch(twin: Any, program: Any, pixels: np.ndarray, advance: Any) -> tuple[list[LayerFigures], list[BlockFigures]]:
    """Run both models on the same tiles, and return the figures of layers and blocks."""
    import torch

    from ..program.calibrate import linears

    names = list(linears(twin))
    layers = {name: _Layer() for name in names}
    blocks = [_Block() for _ in twin.vit.blocks]
    seen: list[Tensor] = []  # block outputs of full precision, of the batch at hand
    hooks = []

    def layer(name: str) -> Any:
        twin_of = None if program is None else program.get_submodule(name)

        def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            of, largest = layers[name], inputs[0].abs().flatten(0, -2).amax(0)
            of.channels = largest if of.channels is None else torch.maximum(of.channels, largest)
            if twin_of is not None:
                of.signal += float(output.double().square().sum())
                of.noise += float((twin_of(inputs[0]) - output).double().square().sum())

        return hook

    def own(index: int) -> Any:
        def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append(output)
            blocks[index].largest = max(blocks[index].largest, float(output.abs().max()))

        return hook

    def other(index: int) -> Any:
        def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            of, exact = blocks[index], seen[index]
            of.signal += float(exact.double().square().sum())
            of.noise += float((output - exact).double().square().sum())
            of.cosines += float(torch.cosine_similarity(output[:, 0], exact[:, 0], dim=-1).sum())

        return hook

    hooks += [twin.get_submodule(name).register_forward_hook(layer(name)) for name in names]
    hooks += [block.register_forward_hook(own(i)) for i, block in enumerate(twin.vit.blocks)]
    if program is not None:
        hooks += [block.register_forward_hook(other(i)) for i, block in enumerate(program.vit.blocks)]
    try:
        with torch.inference_mode():
            for start in range(0, len(pixels), BATCH):
                batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH]))
                seen.clear()
                twin(batch)
                if program is not None:
                    program(batch)
                advance(len(batch))
    finally:
        for one in hooks:
            one.remove()
    count = len(pixels)
    return (
        [_layer_figures(name, of, program is not None) for name, of in layers.items()],
        [_block_figures(i, of, count, program is not None) for i, of in enumerate(blocks)],
    )


def _layer_figures(name: str, of: _Layer, quantized: bool) -> LayerFigures:
    channels = of.channels.double().numpy()
    median = float(np.median(channels))
    return {
        "layer": name,
        "input_max": float(channels.max()),
        "input_median_channel": median,
        "outlier_channels": int((channels > OUTLIER * median).sum()),
        "channels": len(channels),
        "sqnr_db": _decibels(of.signal, of.noise) if quantized else None,
        "proof": None,
    }


def _block_figures(index: int, of: _Block, count: int, quantized: bool) -> BlockFigures:
    return {
        "block": index,
        "max": of.largest,
        "fp16_headroom": FP16_MAX / of.largest if of.largest else math.inf,
        "sqnr_db": _decibels(of.signal, of.noise) if quantized else None,
        "cls_cosine": of.cosines / count if quantized else None,
    }


def _decibels(signal: float, noise: float) -> float | None:
    """Return 10 log10(signal / noise); None without noise."""
    return 10 * math.log10(signal / noise) if noise and signal else None
