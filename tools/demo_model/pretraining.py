"""`pretrain`: train a teacher without labels, where no foundation model can be had.

From views that were stained and scanned anew, a vision transformer (`imitator`) learns to tell what a convolutional
network (`imagenet`) sees in the tissue as it was.

It learns in stages (teacher.toml): its first blocks from small views, then more blocks, then whole tiles.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F

from edgepath.distillation.checkpoint import State, require_finite
from edgepath.distillation.loader import Loader
from edgepath.distillation.loader import Views as Made
from edgepath.distillation.loop import Figures, begin, descend, gradients, open_run, train
from edgepath.distillation.networks import optimizer_groups
from edgepath.distillation.runfolder import draw_log, read_log, write_student
from edgepath.distillation.schedules import cosine
from edgepath.distillation.views import blur, crop, recolour, turn
from edgepath.machine.hardware import device_name, pick_device
from edgepath.machine.progress import Progress
from edgepath.models.catalogue import ModelSpec
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.source import TileSource

from .imagenet import Stem
from .imitator import Imitator
from .options import Options, Stage, Views, check_options, load_options

COLUMNS = (
    "step", "loss", "tile", "patch", "learning_rate", "gradient_norm", "tiles_per_s", "waiting_share", "seconds",
    "peak_gb",
)  # fmt: skip
PANELS = (
    ("Loss", "sum of its parts", {"loss": "loss"}),
    (
        "Its parts",
        "error (1: no better than the mean patch)",
        {"tile": "class token, 1 - cosine", "patch": "patches, squared error"},
    ),
)


def pretrain(
    spec: ModelSpec,
    tiles: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    stem: Stem,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a vision transformer on unlabelled tiles and write it to the folder `out`, which then loads as `weights`.

    `stem` is what it learns from (`imagenet.load_stem`).
    `options` changes numbers of teacher.toml. The folder is a run's, as `distill` leaves one. Returns the last row of
    the log and where everything is. Raises as `distill` does.
    """
    chosen, folder = load_options(options), Path(out)
    check_options(chosen, spec)
    say = progress or (lambda stage, done, total: None)
    state = open_run(folder, asdict(chosen), resume=resume, force=force)
    source = open_tiles(tiles, size=spec.size)
    about = source.provenance()
    run = _Pretraining(spec, stem, chosen, about["sha256"], torch.device(pick_device(device)))
    loaders = [(stage, _loader(source, chosen, stage, until)) for stage, until in _ends(chosen)]
    facts = {"model": {"name": spec.name}, "tiles": about, "options": asdict(chosen)}
    facts |= {"processes": {"count": 1, "device": device_name(run.device.type)}}
    begin(run, state, folder, facts, fit=lambda: run.fit(source))
    how = (chosen.training, chosen.run)
    train(run, _views(run, loaders), folder, *how, stage="pretrain", columns=COLUMNS, say=say)
    write_student(folder, run.net.tokens.vit, spec)
    draw_log(folder, PANELS)
    return {"path": str(folder), "steps": run.step, "tiles": len(source), "last": read_log(folder)[-1]}


def cut(tile: np.ndarray, size: int, views: Views, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut a view of a tile, uint8 (1, size, size, 3) each: as a scanner might have seen it, and as it is."""
    low, high = (min(1.0, (zoom * size / tile.shape[0]) ** 2) for zoom in views.zoom)
    clean = turn(crop(tile, size, (low, high), rng), rng)
    seen = blur(recolour(clean, views, rng), views, rng)
    return seen[None], clean[None]


def _ends(options: Options) -> list[tuple[Stage, int]]:
    """Return the stages, each with the step it ends at."""
    shares = np.cumsum([stage.share for stage in options.stages])
    ends = np.round(shares / shares[-1] * options.training.steps).astype(int)
    return list(zip(options.stages, ends.tolist(), strict=True))


def _loader(source: TileSource, options: Options, stage: Stage, until: int) -> Loader:
    training = options.training
    return Loader(
        source,
        lambda tile, rng: cut(tile, stage.crop, options.views, rng),
        batch=training.batch,
        steps=until,
        seed=training.seed,
        run=options.run,
    )


class _State(State):
    net: dict[str, torch.Tensor]
    optimizer: dict[str, object]


class _Pretraining:
    """The model and its optimizer, and the number of steps that are done."""

    def __init__(self, spec: ModelSpec, stem: Stem, options: Options, tiles: str, device: torch.device) -> None:
        self.options, self.step, self.device = options, 0, device
        self.identity = {"model": spec.name, "tiles": tiles}
        torch.manual_seed(options.training.seed)
        self.net = Imitator(spec, stem, options.stages[0].blocks).to(device).train()
        self.optimizer = torch.optim.AdamW(optimizer_groups(self.net))

    def fit(self, source: TileSource) -> None:
        """Take means, spreads and directions from the first stage's views of tiles spread evenly over the source."""
        training, views, size = self.options.training, self.options.views, self.options.stages[0].crop
        count = min(training.fit_tiles, len(source))
        chosen = source.select(np.linspace(0, len(source) - 1, count).astype(int).tolist())
        seen, features = [], []
        for number, batch in enumerate(chosen.batches(16)):
            rng = np.random.default_rng((training.seed, number, 2))
            both = zip(*(cut(pixels, size, views, rng) for pixels in batch.pixels), strict=True)
            coloured, clean = (torch.from_numpy(np.concatenate(part)).to(self.device) for part in both)
            seen.append(coloured)
            features.append(self.net.stem(clean, self.net.patch))
        self.net.fit(torch.cat(seen), torch.cat(features))

    def train(self, views: Made) -> tuple[Figures, Figures]:
        """Take one step on views, uint8 (V, N, C, C, 3) as seen and as they are; return its figures and its rate."""
        training, weight = self.options.training, self.options.loss
        seen, clean = (torch.from_numpy(part).to(self.device).flatten(0, 1) for part in views)
        cls, patches = self.net(seen)
        wanted = self.net.targets(clean)
        tile_loss = 1 - F.cosine_similarity(cls, wanted[0]).mean()
        patch_loss = F.mse_loss(patches, wanted[1])
        total = weight.tile * tile_loss + weight.patch * patch_loss
        losses = {"loss": total, "tile": tile_loss, "patch": patch_loss}
        figures = {name: float(value.detach()) for name, value in losses.items()}
        require_finite(self.step + 1, loss=figures["loss"])
        figures["gradient_norm"] = gradients(total, self.net, training.clip, self.step + 1)
        rate = cosine(self.step, training.steps, training.learning_rate, training.learning_rate_end, training.warmup)
        descend(self.optimizer, rate, training.weight_decay)
        self.step += 1
        return figures, {"learning_rate": rate}

    def state(self) -> _State:
        """Return everything that a resumed run needs."""
        return {
            "step": self.step,
            "identity": self.identity,
            "options": asdict(self.options),
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: State) -> None:
        """Go back to what `state` returned."""
        kept = cast(_State, state)
        self.step = kept["step"]
        self.net.load_state_dict(kept["net"])
        self.optimizer.load_state_dict(kept["optimizer"])


def _views(run: _Pretraining, loaders: list[tuple[Stage, Loader]]) -> Generator[Made, None, None]:
    """Yield the views of every step that is to come, and let the model have its stage's blocks for them."""
    while loaders:
        stage, loader = loaders.pop(0)  # a loader holds tiles, which nobody needs once its stage is over
        for views in loader.steps(run.step):
            run.net.blocks = stage.blocks
            yield views
