"""`pretrain`: train a teacher without labels, where no foundation model can be had.

From views that were stained and scanned anew, a vision transformer (`imitator`) learns to tell what a convolutional
network (`imagenet`) sees in the tissue as it was.

It learns in stages (teacher.toml): its first blocks from small views, then more blocks, then whole tiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..machine.hardware import device_name, pick_device
from ..models.catalogue import ModelSpec
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from .checkpoint import (
    check_same_options,
    check_same_run,
    load_checkpoint,
    require_finite,
    save_checkpoint,
)
from .imagenet import Stem
from .imitator import Imitator
from .interrupt import finish_steps
from .loader import Loader, workers_told
from .networks import optimizer_groups
from .processes import most_memory
from .runfolder import (
    Log,
    draw_log,
    prepare_run,
    read_log,
    write_run,
    write_student,
)
from .schedules import cosine
from .teacheroptions import (
    Options,
    Stage,
    Views,
    check_options,
    load_options,
)
from .views import (
    blur,
    crop,
    recolour,
    turn,
)

Progress = Callable[[str, int, int], None]
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
    prepare_run(folder, resume=resume, force=force)
    state = load_checkpoint(folder) if resume else None
    if state is not None:
        check_same_options(folder, state, asdict(chosen))  # before anything is made by other ones
    source = open_tiles(tiles, size=spec.size)
    run = _Pretraining(spec, stem, chosen, source.provenance()["sha256"], torch.device(pick_device(device)))
    loaders = [(stage, _loader(source, chosen, stage, until)) for stage, until in _ends(chosen)]
    if state is not None:
        check_same_run(folder, state, run.identity)
        run.restore(state)
    else:
        run.fit(source)
    facts = {"model": {"name": spec.name}, "tiles": source.provenance(), "options": asdict(chosen)}
    write_run(folder, facts | {"processes": {"count": 1, "device": device_name(run.device.type)}})
    if not resume:
        save_checkpoint(folder, run.state())
    with workers_told(), closing(_views(run, loaders)) as steps, finish_steps(alone=True) as stopped:
        _loop(run, steps, folder, say, stopped)
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

    def train(self, seen: Tensor, clean: Tensor) -> dict[str, float]:
        """Take one step on views, uint8 (V, N, C, C, 3), and return its figures."""
        training, weight = self.options.training, self.options.loss
        rate = cosine(self.step, training.steps, training.learning_rate, training.learning_rate_end, training.warmup)
        views, clean = seen.to(self.device).flatten(0, 1), clean.to(self.device).flatten(0, 1)
        cls, patches = self.net(views)
        wanted = self.net.targets(clean)
        tile_loss = 1 - F.cosine_similarity(cls, wanted[0]).mean()
        patch_loss = F.mse_loss(patches, wanted[1])
        total = weight.tile * tile_loss + weight.patch * patch_loss
        require_finite(self.step + 1, loss=float(total.detach()))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), training.clip)
        require_finite(self.step + 1, gradient=float(norm))
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = rate, training.weight_decay if group["decays"] else 0.0
        self.optimizer.step()
        self.step += 1
        figures = {"loss": total, "tile": tile_loss, "patch": patch_loss}
        return {name: float(value.detach()) for name, value in figures.items()} | {
            "learning_rate": rate,
            "gradient_norm": float(norm),
        }

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs."""
        return {
            "step": self.step,
            "identity": self.identity,
            "options": asdict(self.options),
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])


def _views(run: _Pretraining, loaders: list[tuple[Stage, Loader]]) -> Generator[tuple[np.ndarray, ...], None, None]:
    """Yield the views of every step that is to come, and let the model have its stage's blocks for them."""
    while loaders:
        stage, loader = loaders.pop(0)  # a loader holds tiles, which nobody needs once its stage is over
        for views in loader.steps(run.step):
            run.net.blocks = stage.blocks
            yield views


def _loop(
    run: _Pretraining,
    steps: Iterator[tuple[np.ndarray, ...]],
    folder: Path,
    say: Progress,
    stopped: Callable[[], bool],
) -> None:
    """Train to the last step, or until `stopped`; log, save and show how far it is."""
    options = run.options
    log = Log(folder, run.step, COLUMNS)
    rows: list[dict[str, float]] = []
    before, waited = time.perf_counter(), 0.0
    while True:
        asked = time.perf_counter()
        data = next(steps, None)
        if data is None:
            return
        waited += time.perf_counter() - asked
        rows.append(run.train(*map(torch.from_numpy, data)))
        last = run.step == options.training.steps
        if run.step % options.run.log_every == 0 or last:
            seconds = time.perf_counter() - before
            log.seconds += seconds
            means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
            speed = {"tiles_per_s": len(rows) * options.training.batch / seconds, "waiting_share": waited / seconds}
            peak = most_memory(run.device) / 1e9
            log.add(means | speed | {"step": run.step, "seconds": log.seconds, "peak_gb": peak})
            rows, before, waited = [], time.perf_counter(), 0.0
        stop = stopped() and not last
        if run.step % options.run.checkpoint_every == 0 or last or stop:
            save_checkpoint(folder, run.state())
        say("pretrain", run.step, options.training.steps)
        if stop:
            raise KeyboardInterrupt
