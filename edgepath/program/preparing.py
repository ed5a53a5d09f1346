"""Weights and tiles, ready to be quantized: model loaded and folded, tiles chosen and held out, full precision run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..machine.hardware import pick_device
from ..machine.progress import Stages
from ..models.catalogue import ModelSpec
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from ..tiles.splitting import apart, split

if TYPE_CHECKING:
    from ..models.reference import Reference
    from ..models.weights import Weights
    from .fold import EdgeModel


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


@dataclass(frozen=True)
class Prepared:
    """A folded model in full precision, its tiles, and its embeddings of those held out."""

    net: EdgeModel
    spec: ModelSpec
    weights: Weights
    embedding: str
    device: str
    chosen: TileSource
    held_out: TileSource
    reference: Reference

    @property
    def identity(self) -> dict[str, Any]:
        """What the folded model is, JSON-able: ranges found on it are kept by this."""
        of = {"weights": self.weights.sha256, "model": self.spec.to_json()}
        return of | {"embedding": self.embedding, "tokens": self.net.tokens}


def prepare(spec: ModelSpec, inputs: Inputs, stages: Stages) -> Prepared:
    """Open the tiles (synthetic ones without any), load and fold the model, and embed the held-out tiles with it.

    Every tile is decoded once. Raises what `open_tiles`, `split` and `load_model` raise.
    """
    from ..models.reference import reference_embeddings
    from ..models.weights import load_model
    from .fold import check_known, fold

    device = pick_device(inputs.device)
    given = "synthetic" if inputs.calibration is None else inputs.calibration
    tiles = open_tiles(given, size=spec.size, resize=inputs.resize, skip_bad=inputs.skip_bad).kept()
    chosen, held_out = apart(*split(tiles, inputs.calibration_tiles))
    with stages.stage("load weights"):
        vit, spec, loaded = load_model(spec, inputs.weights)
        check_known(vit, spec)  # before the model is run on any tile
    embedding = inputs.embedding or spec.embedding
    with stages.stage("reference", len(held_out)) as advance:
        reference = reference_embeddings(
            vit, spec, loaded, held_out, embedding=embedding, device=device, progress=advance
        )
    net = fold(vit, spec, embedding=embedding, tokens=inputs.tokens)
    return Prepared(net, spec, loaded, embedding, device, chosen, held_out, reference)
