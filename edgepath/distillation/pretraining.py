"""`pretrain`: train a teacher without labels, where no foundation model can be had.

From views that were stained and scanned anew, a vision transformer learns to tell what a convolutional network
(`imagenet`) sees in the tissue as it was: in every patch, and on average. The class token is not asked through a head:
its direction is that of the mean features, turned by a fixed rotation, so that what is near in them is near in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import EdgepathError, UsageError
from ..models import ModelSpec
from ..reference import pick_device
from ..tiles import TileSource, open_tiles
from .checkpoint import check_same_run, load_checkpoint, save_checkpoint
from .imagenet import WIDTH, Stem
from .loader import Loader
from .networks import Tokens, build_student, optimizer_groups, patch_size, width
from .processes import most_memory
from .runfolder import Log, draw_log, prepare_run, read_log, write_run, write_student
from .schedules import cosine
from .teacheroptions import Options, Views, check_options, load_options
from .views import blur, crop, recolour, turn

Progress = Callable[[str, int, int], None]
COLUMNS = (
    "step", "loss", "tile", "patch", "learning_rate", "gradient_norm", "tiles_per_s", "waiting_share", "seconds",
    "peak_gb",
)  # fmt: skip
PANELS = (
    ("loss", ("loss",)),
    ("class token: 1 - cosine; patches: squared error, 1 = their mean is told", ("tile", "patch")),
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
    source = open_tiles(tiles, size=spec.size)
    training, views = chosen.training, chosen.views
    run = _Pretraining(spec, stem, chosen, source.provenance()["sha256"], torch.device(pick_device(device)))
    loader = Loader(
        source,
        lambda tile, rng: cut(tile, views, rng),
        batch=training.batch,
        steps=training.steps,
        seed=training.seed,
        run=chosen.run,
    )
    if resume:
        state = load_checkpoint(folder)
        check_same_run(folder, state, run.identity, asdict(chosen))
        run.restore(state)
    else:
        run.fit(source)
    write_run(folder, {"model": {"name": spec.name}, "tiles": source.provenance(), "options": asdict(chosen)})
    if not resume:
        save_checkpoint(folder, run.state())
    _loop(run, loader, folder, say)
    write_student(folder, run.net.tokens.vit, spec)
    draw_log(folder, PANELS)
    return {"path": str(folder), "steps": run.step, "tiles": len(source), "last": read_log(folder)[-1]}


def cut(tile: np.ndarray, views: Views, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Cut views of a tile, uint8 (V, C, C, 3): as a scanner might have seen them, and as they are."""
    clean = [turn(crop(tile, views.crop, views.scale, rng), rng) for _ in range(views.count)]
    seen = [blur(recolour(view, views, rng), views, rng) for view in clean]
    return np.stack(seen), np.stack(clean)


class Imitator(nn.Module):
    """A vision transformer that tells a stem's features: the mean with its class token, the patches' through a head."""

    tile_mean: Tensor
    tile_spread: Tensor
    patch_mean: Tensor
    patch_spread: Tensor
    rotation: Tensor

    def __init__(self, spec: ModelSpec, stem: Stem) -> None:
        super().__init__()
        vit: Any = build_student(spec)
        _awaken(vit)
        dim = width(vit)
        if dim < WIDTH:
            raise UsageError(f"model {spec.name}: {dim} features cannot hold {WIDTH}; choose a wider one")
        self.tokens, self.stem, self.patch = Tokens(vit, spec), stem, patch_size(vit)
        self.patch_head = nn.Linear(dim, WIDTH)
        turned = torch.linalg.qr(torch.randn(dim, WIDTH, generator=torch.Generator().manual_seed(1)))[0]
        self.register_buffer("rotation", turned.T.contiguous())
        for name in ("tile", "patch"):
            self.register_buffer(f"{name}_mean", torch.zeros(WIDTH))
            self.register_buffer(f"{name}_spread", torch.ones(WIDTH))

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return class tokens (N, D) and the patches' standardised features (N, P, 120) of uint8 (N, C, C, 3)."""
        cls, patches = self.tokens(views)
        return cls, self.patch_head(patches)

    @torch.no_grad()
    def targets(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` should of clean views: class tokens' directions, and the patches' features."""
        features = self.stem(clean, self.patch)
        tile = (features.mean(1) - self.tile_mean) / self.tile_spread
        return tile @ self.rotation, ((features - self.patch_mean) / self.patch_spread).clamp(-5, 5)


def _awaken(vit: nn.Module) -> None:
    """Start wide awake: LayerScale at 0.5, linears that keep their input's spread.

    timm's start, LayerScale at 1e-5 and linears of 0.02, is that of runs of 100,000 steps: nothing moves in the first
    hundreds.
    """
    for name, value in vit.named_parameters():
        if name.endswith(".gamma"):
            nn.init.constant_(value, 0.5)
        elif name.startswith("blocks.") and value.ndim == 2:
            nn.init.trunc_normal_(value, std=value.shape[1] ** -0.5)


class _Pretraining:
    """The model and its optimizer, and the number of steps that are done."""

    def __init__(self, spec: ModelSpec, stem: Stem, options: Options, tiles: str, device: torch.device) -> None:
        self.options, self.step, self.device = options, 0, device
        self.identity = {"model": spec.name, "tiles": tiles}
        torch.manual_seed(options.training.seed)
        self.net = Imitator(spec, stem).to(device).train()
        self.optimizer = torch.optim.AdamW(optimizer_groups(self.net))

    def fit(self, source: TileSource) -> None:
        """Take mean and spread of the features from views of tiles spread evenly over the source."""
        training, views = self.options.training, self.options.views
        count = min(training.fit_tiles, len(source))
        chosen = source.select(np.linspace(0, len(source) - 1, count).astype(int).tolist())
        tile, patch = [], []
        for number, batch in enumerate(chosen.batches(16)):
            rng = np.random.default_rng((training.seed, number, 2))
            clean = np.stack([cut(pixels, views, rng)[1][0] for pixels in batch.pixels])
            features = self.net.stem(torch.from_numpy(clean).to(self.device), self.net.patch)
            tile.append(features.mean(1))
            patch.append(features.flatten(0, 1))
        for name, values in (("tile", torch.cat(tile)), ("patch", torch.cat(patch))):
            getattr(self.net, f"{name}_mean").copy_(values.mean(0))
            getattr(self.net, f"{name}_spread").copy_(values.std(0).clamp_min(1e-3))

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
        if not torch.isfinite(total):
            raise EdgepathError(
                f"step {self.step + 1}: the loss is {float(total.detach())}; the last checkpoint is kept; lower "
                "training.learning_rate or training.clip"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), training.clip)
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


def _loop(run: _Pretraining, loader: Loader, folder: Path, say: Progress) -> None:
    """Train to the last step; log, save and show how far it is."""
    options = run.options
    log = Log(folder, run.step, COLUMNS)
    rows: list[dict[str, float]] = []
    before, waited = time.perf_counter(), 0.0
    steps = loader.steps(run.step)
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
        if run.step % options.run.checkpoint_every == 0 or last:
            save_checkpoint(folder, run.state())
        say("pretrain", run.step, options.training.steps)
