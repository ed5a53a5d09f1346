"""Weights and tiles, ready to be quantized: model loaded and folded, tiles chosen and held out, full precision run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle.running import BATCH
from ..errors import BundleError
from ..machine.cache import cached_file, code_hash, store
from ..machine.hardware import pick_device
from ..machine.packages import versions
from ..machine.progress import Stages
from ..models.catalogue import ModelSpec
from ..recipes.recipe import Recipe
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from ..tiles.splitting import apart, split, spread

if TYPE_CHECKING:
    from ..models.reference import Reference
    from ..models.weights import Weights
    from .fold import EdgeModel
    from .rescaling import Exponents

_WATCHED = 32
_FITS_BY = ("calibrate", "fold", "headroom", "preparing", "rescaling", "smooth")
EXPONENTS_FROM = tuple(f"program/{name}" for name in _FITS_BY)
"""The modules that find what FP16 does not hold. A test holds it to the imports."""


@dataclass(frozen=True)
class Inputs:
    """What is to be quantized, on which tiles and where: the arguments that `export` and `search` share."""

    weights: str | Path | None
    calibration: str | Path | None
    calibration_tiles: int
    embedding: str | None
    tokens: bool
    resize: str
    skip_bad: bool
    device: str
    anonymous: bool = False


@dataclass(frozen=True)
class Prepared:
    """A folded model in full precision, its tiles, and its embeddings of those held out.

    `exponents` is what was moved in it to fit FP16 (`program.rescaling`).
    """

    net: EdgeModel
    spec: ModelSpec
    weights: Weights
    embedding: str
    device: str
    chosen: TileSource
    held_out: TileSource
    reference: Reference
    exponents: Exponents = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, object]:
        """What the folded model is, JSON-able: ranges found on it are kept by this."""
        of: dict[str, object] = {"weights": self.weights.sha256, "model": self.spec.to_json()}
        of |= {"embedding": self.embedding, "tokens": self.net.tokens}
        if self.exponents:
            of["rescaled"] = {name: values.tolist() for name, values in sorted(self.exponents.items())}
        return of


def prepare(spec: ModelSpec, inputs: Inputs, stages: Stages) -> Prepared:
    """Load and fold the model, open the tiles (synthetic ones without any), and embed the held-out ones with it.

    Every tile is decoded once. Raises what `open_tiles`, `split` and `load_model` raise.
    """
    from ..models.reference import reference_embeddings
    from ..models.weights import load_model
    from .fold import check_known, fold

    device = pick_device(inputs.device)
    with stages.stage("load weights"):
        vit, spec, loaded = load_model(spec, inputs.weights)
        check_known(vit, spec)  # before the model is run on any tile
    given = "synthetic" if inputs.calibration is None else inputs.calibration
    tiles = open_tiles(given, size=spec.size, resize=inputs.resize, skip_bad=inputs.skip_bad).kept()
    chosen, held_out = apart(*split(tiles, inputs.calibration_tiles))
    if inputs.anonymous:
        chosen, held_out = chosen.anonymous(), held_out.anonymous()
    embedding = inputs.embedding or spec.embedding
    with stages.stage("reference", len(held_out)) as advance:
        reference = reference_embeddings(
            vit, spec, loaded, held_out, embedding=embedding, device=device, progress=advance
        )
    net = fold(vit, spec, embedding=embedding, tokens=inputs.tokens)
    return Prepared(net, spec, loaded, embedding, device, chosen, held_out, reference)


def fitted(recipe: Recipe, ready: Prepared, stages: Stages) -> Prepared:
    """Where a recipe's values are FP16, bring those that come near its largest number down, in place (`rescaling`).

    Told by up to 32 of the tiles to calibrate on, and kept for the next target. The model computes what it did.
    """
    if not recipe.fp16:
        return ready
    from .rescaling import find_exponents, rescale, save_exponents

    few = ready.chosen.select(spread(len(ready.chosen), min(_WATCHED, len(ready.chosen))))
    at_least, using = recipe.accept.headroom.at_least, versions()
    depends_on = ready.identity | {"tiles": few.provenance()["sha256"], "at_least": at_least}
    depends_on |= {
        "code": code_hash([*EXPONENTS_FROM, "bundle/running", "machine/inference"]),
        "versions": [using[name] for name in ("torch", "timm", "numpy")],
    }
    file = cached_file("exponents", depends_on)
    with stages.stage("headroom", len(few)) as advance:
        exponents = _recalled(file)
        if exponents is None:
            batches = (advance(len(batch.pixels)) or batch.pixels for batch in few.batches(BATCH))
            exponents = find_exponents(ready.net, batches, at_least)
            store(file, partial(save_exponents, exponents=exponents))
    rescale(ready.net, exponents)
    return replace(ready, exponents=exponents)


def _recalled(file: Path) -> Exponents | None:
    """Return what was stored, or None where there is nothing, or nothing whole: it can be found again."""
    from .rescaling import load_exponents

    try:
        return load_exponents(file) if file.is_file() else None
    except BundleError:
        return None
