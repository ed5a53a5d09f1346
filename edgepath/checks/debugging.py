"""`debug`: where drift comes from, layer by layer and block by block, and whether the artifact is its program."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.bundle import Bundle, open_bundle
from ..bundle.running import BATCH
from ..errors import UsageError
from ..machine.packages import require
from ..machine.progress import Advance, Progress, counter
from ..program.rebuilding import rebuild, same_weights
from ..recipes.recipe import Recipe
from ..tiles.opening import open_tiles
from .results import BlockFigures, Debugging, LayerFigures

if TYPE_CHECKING:
    from torch import Tensor

    from ..program.headroom import Peaks
    from .layerwise import Proof

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
    every block in `blocks`: the same ratio with all errors so far, the class token's cosine, the largest magnitude it
    puts out, and `fp16_headroom`, 65,504 over the largest inside it, which `nearest` names. `parts` says in what the
    artifact's files are not the program (`checks.parts`), and of every quantized layer `proof` what it makes of what
    the program gives it, on the first tiles (`checks.layerwise`); `unproved` names the layers that compute something
    else. `network` is what TensorRT's own front end makes of the artifact, computed on the first tiles
    (`checks.networks`); None for other runtimes, and without TensorRT-RTX's bindings.

    Raises what `verify` raises.
    """
    require("torch", "export")
    bundle, recipe = _opened(bundle)
    name, pixels = _pixels(bundle, tiles, resize)
    from ..program.forms import Program  # slow: after what may be missing
    from .layerwise import prove
    from .networks import check_network
    from .parts import differences, named_parts

    vit, spec, _ = same_weights(bundle, weights)
    twin = rebuild(bundle, recipe, copy.deepcopy(vit), spec, smoothed_only=True)
    program = rebuild(bundle, recipe, vit, spec) if recipe.quantized else None
    layers, blocks = _watch(twin, program, pixels, counter(progress, "layers", len(pixels)))
    full_program = Program(program or twin, recipe)
    lowered = full_program.lowered
    products, norms = named_parts(lowered)
    differing, proofs = differences(lowered, bundle.artifact, bundle.backend), {}
    if program is not None and not any(difference.kind == "form" for difference in differing):
        advance = counter(progress, "proof", len(pixels[:PROVED]))
        proofs = prove(lowered, bundle.artifact, pixels[:PROVED], advance, bundle.backend)
    return {
        "kind": "debugging",
        "name": bundle.name,
        "bundle": bundle.digest,
        "tiles": {"name": name, "count": len(pixels)},
        "cautions": list(bundle.cautions),
        "layers": _with_proofs(layers, proofs),
        "blocks": blocks,
        "parts": {"products": len(products), "norms": len(norms), "differences": list(map(str, differing))},
        "unproved": [name for name, proof in proofs.items() if not proof.holds],
        "network": check_network(bundle, full_program, pixels[:PROVED]),
    }


def _opened(bundle: str | Path | Bundle) -> tuple[Bundle, Recipe]:
    """Open a bundle whose artifact can be read here."""
    from ..backends.reading import require_reader

    bundle = open_bundle(bundle)
    require_reader(bundle.artifact, bundle.backend)
    return bundle, bundle.recipe


def _with_proofs(layers: list[LayerFigures], proofs: Mapping[str, Proof]) -> list[LayerFigures]:
    """Each layer with what its artifact makes of it; the parts of a split projection count as one."""
    from ..program.split_projections import uncut_name
    from .layerwise import joint

    for row in layers:
        parts = [proof for name, proof in proofs.items() if uncut_name(name) == row["layer"]]
        row["proof"] = asdict(joint(parts)) if parts else None
    return layers


def _pixels(bundle: Bundle, tiles: str | Path | Sequence[str | Path] | None, resize: str) -> tuple[str, np.ndarray]:
    """Return what the tiles are called, and all of them, uint8 (N, S, S, 3)."""
    if tiles is None:
        return "golden tiles", bundle.golden()[0]
    source = open_tiles(tiles, size=bundle.size, resize=resize)
    if len(source) > MOST:
        raise UsageError(f"debug: {len(source)} tiles; give --tiles with at most {MOST}")
    return source.name, source.read()


@dataclass
class _Noise:
    """Sums of squares over tiles, of full precision's output and of the error of the program's."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, exact: Tensor, computed: Tensor) -> None:
        self.signal += float(exact.double().square().sum())
        self.noise += float((computed - exact).double().square().sum())


@dataclass
class _Layer(_Noise):
    """Sums over tiles of one linear."""

    channels: Any = None  # largest magnitude of every input channel

    def watch(self, twin: Any) -> Any:
        """Return the hook for full precision's layer; `twin` is the program's, None where nothing is quantized."""

        def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            largest = inputs[0].abs().flatten(0, -2).amax(0)
            self.channels = largest if self.channels is None else largest.maximum(self.channels)
            if twin is not None:
                self.add(output, twin(inputs[0]))

        return hook


@dataclass
class _Block(_Noise):
    """Sums over tiles of one block's output."""

    largest: float = 0.0
    cosines: float = 0.0
    exact: Any = None  # of full precision, of the batch at hand

    def watch(self, _: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Note full precision's output."""
        self.exact, self.largest = output, max(self.largest, float(output.abs().max()))

    def compare(self, _: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Hold the program's output against full precision's."""
        self.add(self.exact, output)
        self.cosines += float(_cosine(output[:, 0], self.exact[:, 0]).sum())


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    import torch

    return torch.cosine_similarity(first, second, dim=-1)


def _watch(
    twin: Any, program: Any, pixels: np.ndarray, advance: Advance
) -> tuple[list[LayerFigures], list[BlockFigures]]:
    """Run both models on the same tiles, and return the figures of layers and blocks."""
    import torch

    from ..machine.inference import inference
    from ..program.calibrate import linears
    from ..program.headroom import Peaks

    layers = {name: _Layer() for name in linears(twin)}
    blocks = [_Block() for _ in twin.vit.blocks]
    peaks, hooks = Peaks(twin), []
    with peaks, inference():  # on its own: what the hooks below compute is not the model's
        for start in range(0, len(pixels), BATCH):
            twin(torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH])))
    for name, layer in layers.items():
        other = None if program is None else program.get_submodule(name)
        hooks.append(twin.get_submodule(name).register_forward_hook(layer.watch(other)))
    for i, block in enumerate(blocks):
        hooks.append(twin.vit.blocks[i].register_forward_hook(block.watch))
        if program is not None:
            hooks.append(program.vit.blocks[i].register_forward_hook(block.compare))
    try:
        with inference():
            for start in range(0, len(pixels), BATCH):
                batch = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH]))
                twin(batch)
                if program is not None:
                    program(batch)
                advance(len(batch))
    finally:
        for hook in hooks:
            hook.remove()
    quantized = program is not None
    return (
        [_layer_figures(name, of, quantized) for name, of in layers.items()],
        [_block_figures(i, of, peaks, len(pixels), quantized) for i, of in enumerate(blocks)],
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


def _block_figures(index: int, of: _Block, peaks: Peaks, count: int, quantized: bool) -> BlockFigures:
    (nearest,) = peaks.nearest(1, inside=f"vit.blocks.{index}")
    return {
        "block": index,
        "max": of.largest,
        "fp16_headroom": nearest.headroom,
        "nearest": f"{nearest.place} ({nearest.operation})",
        "sqnr_db": _decibels(of.signal, of.noise) if quantized else None,
        "cls_cosine": of.cosines / count if quantized else None,
    }


def _decibels(signal: float, noise: float) -> float | None:
    """Return 10 log10(signal / noise); None without noise."""
    return 10 * math.log10(signal / noise) if noise and signal else None
