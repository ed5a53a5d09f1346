"""`debug`: where drift comes from, layer by layer and block by block, and whether the artifact is its program."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.bundle import Bundle, open_bundle
from ..bundle.running import BATCH
from ..errors import UsageError
from ..machine.packages import require
from ..machine.progress import Progress, counter
from ..program.rebuilding import rebuild, same_weights
from ..recipes.recipe import Recipe
from ..reports.plots import (
    GREY,
    Line,
    Panel,
    draw_panels,
)
from ..tiles.opening import open_tiles

if TYPE_CHECKING:
    from torch import Tensor

FP16_MAX = 65504.0
OUTLIER = 6.0
"""A channel is an outlier when its largest magnitude is so many times the median channel's."""
MOST = 64
# Said of artifacts whose layers are not the program's one by one, so that there is nothing to hold them against.
_OTHER_FORM = re.compile(
    r"(with weights|norms), the program has|weights of shape|: (not )?quantized$|its input is (not )?rounded$"
)
PROVED = 2
"""On so many tiles every layer of an artifact is run alone."""


def debug(
    bundle: str | Path | Bundle,
    *,
    tiles: str | Path | Sequence[str | Path] | None = None,
    weights: str | Path | None = None,
    resize: str = "refuse",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a bundle's program beside its full-precision model and return what each part contributes, JSON-able.

    On the golden tiles, or on up to 64 `tiles`. Of every layer in `layers`: the largest magnitude and the outlier
    channels of its input and, where it is quantized, `sqnr_db`, the signal-to-quantization-noise ratio of its output
    when it is given the full-precision input (10 log10 of the sum of squares of the output over that of the error). Of
    every block in `blocks`: the same ratio with all errors so far, the class token's cosine, the largest magnitude and
    `fp16_headroom`, 65,504 over it. `parts` says in what the artifact's files are not the program (`edgepath.parts`),
    and of every quantized layer `proof` what it makes of what the program gives it, on the first tiles
    (`edgepath.proof`); `unproved` names the layers that compute something else.

    Raises what `verify` raises.
    """
    require("torch", "export")
    from ..backends.reading import require_reader
    from ..program.forms import Program
    from ..program.split_projections import whole
    from .layerwise import joint, prove
    from .parts import differences, named_parts

    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    require_reader(bundle.artifact)
    recipe = Recipe.from_json(bundle.manifest["recipe"])
    say = progress or (lambda stage, done, total: None)
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
    if program is not None and not any(map(_OTHER_FORM.search, differing)):
        shown = pixels[:PROVED]
        proofs = prove(lowered, bundle.artifact, shown, counter(say, "proof", len(shown)))
    for row in layers:
        parts = [proof for name, proof in proofs.items() if whole(name) == row["layer"]]
        row["proof"] = asdict(joint(parts)) if parts else None
    return {
        "name": bundle.name,
        "bundle": bundle.digest,
        "tiles": {"name": name, "count": len(pixels)},
        "cautions": bundle.manifest["cautions"],
        "layers": layers,
        "blocks": blocks,
        "parts": {
            "products": len(products),
            "norms": len(norms),
            "differences": differing,
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


def _watch(
    twin: Any, program: Any, pixels: np.ndarray, advance: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
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


def _layer_figures(name: str, of: _Layer, quantized: bool) -> dict[str, Any]:
    channels = of.channels.double().numpy()
    median = float(np.median(channels))
    return {
        "layer": name,
        "input_max": float(channels.max()),
        "input_median_channel": median,
        "outlier_channels": int((channels > OUTLIER * median).sum()),
        "channels": len(channels),
        "sqnr_db": _decibels(of.signal, of.noise) if quantized else None,
    }


def _block_figures(index: int, of: _Block, count: int, quantized: bool) -> dict[str, Any]:
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


LAYER_HEADER = ["layer", "output SQNR", "largest input", "median channel", "outlier channels"]
LAYER_HEADER += ["integers differ", "output error", "kernels' error"]
BLOCK_HEADER = ["after block", "SQNR", "1 - cosine of class token", "largest", "FP16 headroom"]


def layer_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a layer, the noisiest first; in the order they run in where nothing is quantized."""
    rows = sorted(result["layers"], key=lambda row: math.inf if row["sqnr_db"] is None else row["sqnr_db"])
    return [
        [
            row["layer"].removeprefix("vit."),
            _db(row["sqnr_db"]),
            f"{row['input_max']:.3g}",
            f"{row['input_median_channel']:.3g}",
            f"{row['outlier_channels']} of {row['channels']}",
            *_proof_cells(row["proof"]),
        ]
        for row in rows
    ]


def _proof_cells(proof: Mapping[str, Any] | None) -> list[str]:
    """Say what the artifact's own layer made of the program's input; steps are the smallest change of an output."""
    if proof is None:
        return ["-"] * 3
    wrong = f", {proof['unexplained']} wrong" if proof["unexplained"] else ""
    errors = [f"{proof[key]:.2g} steps" for key in ("error_steps", "kernel_error_steps")]
    return [f"{proof['differ']} of {proof['integers']}{wrong}", *errors]


def block_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a row a block, as `BLOCK_HEADER` names the columns."""
    return [
        [
            str(row["block"]),
            _db(row["sqnr_db"]),
            "-" if row["cls_cosine"] is None else f"{1 - row['cls_cosine']:.2e}",
            f"{row['max']:.3g}",
            f"{row['fp16_headroom']:.3g} x",
        ]
        for row in result["blocks"]
    ]


def draw_debug(result: Mapping[str, Any], path: Path) -> None:
    """Draw layers and blocks as a PNG: where noise is made, how it adds up, how near to FP16's end values come."""
    layers, blocks = result["layers"], result["blocks"]
    places, depth = range(len(layers)), [row["block"] for row in blocks]
    headroom = [min(row["fp16_headroom"], _MOST_HEADROOM) for row in blocks]
    inputs = [
        Line(label, [max(row[key], 2**-24) for row in layers])
        for label, key in (("its largest channel", "input_max"), ("its median channel", "input_median_channel"))
    ]
    room = [Line("headroom", headroom), Line("1: FP16 overflows", [1.0] * len(blocks), colour=GREY, dashed=True)]
    panels = [
        Panel("What goes into each layer", _LAYERS, "largest value", places, inputs, log=True),
        Panel("Room to FP16's largest number, 65504", _BLOCKS, "65504 / largest value", depth, room, log=True),
    ]
    if all(row["sqnr_db"] is not None for row in layers + blocks):
        signal = "SQNR, dB (more is better)"
        alone, after = ([Line("SQNR", [row["sqnr_db"] for row in rows])] for rows in (layers, blocks))
        panels = [
            Panel("Signal to quantization noise of each layer alone", _LAYERS, signal, places, alone),
            Panel("Signal to quantization noise after each block", _BLOCKS, signal, depth, after),
            *panels,
        ]
    draw_panels(panels, path, columns=2, heading="Where an artifact's drift comes from")


_LAYERS, _BLOCKS = "layer, in the order they run in", "transformer block"
_MOST_HEADROOM = 2.0**40


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"
