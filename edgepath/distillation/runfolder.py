"""What a run leaves in its folder: weights and config as the hub lays them out, resolved options, and a log."""

from __future__ import annotations

import csv
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from torch import nn

from .._version import __version__
from ..errors import UsageError
from ..machine.packages import require
from ..machine.tables import to_toml
from ..machine.writing import replacing, write_text
from ..models.catalogue import ModelSpec
from ..reports.plots import Line, Panel, draw_panels
from .checkpoint import NAME as CHECKPOINT
from .networks import width

RUN, LOG, PLOT, CONFIG, WEIGHTS = "run.toml", "log.csv", "loss.png", "config.json", "model.safetensors"
COLUMNS = (
    "step", "loss", "dino", "ibot", "cls_agreement", "patch_agreement",
    "learning_rate", "weight_decay", "ema", "teacher_temperature", "gradient_norm",
    "tiles_per_s", "waiting_share", "seconds", "peak_gb",
)  # fmt: skip
PANELS = (
    ("Loss on class tokens", "cross-entropy, nats", {"dino": "class tokens"}),
    ("Loss on patch tokens", "cross-entropy, nats", {"ibot": "patch tokens"}),
    (
        "Agreement with the teacher: same nearest prototype",
        "share of tokens",
        {"cls_agreement": "class tokens", "patch_agreement": "patch tokens"},
    ),
)


def prepare_run(folder: Path, *, resume: bool, force: bool) -> None:
    """Make the run's folder, or see that it is a run to resume or replace. Raises UsageError where it is in the way."""
    require("matplotlib", "plots")  # the run ends with a picture
    if resume and force:
        raise UsageError(f"{folder}: both to resume and to replace; choose one")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} exists and is no folder; remove it, or give another name")
    filled = any(folder.iterdir()) if folder.is_dir() else False
    if filled and not (folder / RUN).is_file():
        raise UsageError(f"{folder} exists and is not a distillation run ({RUN} is missing); give another --out")
    if resume:
        if not filled:
            raise UsageError(f"{folder}: no run to resume; start it without --resume")
    elif filled and not force:
        raise UsageError(
            f"{folder} holds a run already; go on with --resume, replace it with --force, or give another --out"
        )
    elif filled:
        for name in (CHECKPOINT, LOG, PLOT, CONFIG, WEIGHTS, RUN):
            (folder / name).unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror} ({error.filename})") from error


def write_run(folder: Path, facts: Mapping[str, object]) -> None:
    """Write resolved options, models, tiles and versions; the file also marks the folder as a run."""
    names = ("numpy", "safetensors", "timm", "torch")
    versions = {"edgepath": __version__, "python": platform.python_version()} | {name: version(name) for name in names}
    write_text(folder / RUN, to_toml({"schema": 1, **facts, "versions": versions}), "run")


def write_student(folder: Path, vit: nn.Module, spec: ModelSpec) -> None:
    """Write weights and `config.json` so that `--weights FOLDER` loads them, and timm's hub loader would."""
    from safetensors.torch import save

    config = {
        "architecture": spec.timm_name,
        "num_classes": 0,
        "num_features": width(vit),
        "global_pool": "",
        "model_args": dict(spec.timm_args),
        "pretrained_cfg": {
            "input_size": [3, spec.size, spec.size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
    }
    state = {name: value.detach().float().cpu().contiguous() for name, value in vit.state_dict().items()}
    with replacing(folder / WEIGHTS, "weights") as partial:
        partial.write_bytes(save(state, metadata={"format": "pt"}))  # `save_file`'s are for their owner alone to read
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n", "configuration")


class Log:
    """The CSV of a run; resumed, it first forgets what came after the checkpoint."""

    def __init__(self, folder: Path, step: int, columns: Sequence[str] = COLUMNS) -> None:
        self._path, self._columns = folder / LOG, columns
        rows = [row for row in read_log(folder) if row["step"] <= step]
        lines = [
            ",".join(columns),
            *(",".join(_number(row.get(column, math.nan)) for column in columns) for row in rows),
        ]
        write_text(self._path, "\n".join(lines) + "\n", "log")
        self._seconds = float(rows[-1]["seconds"]) if rows else 0.0

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row, whose seconds are added to those before; it is on its way to the disk when this returns."""
        self._seconds += row["seconds"]
        row = {**row, "seconds": self._seconds}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(",".join(_number(row[column]) for column in self._columns) + "\n")


def read_log(folder: Path) -> list[dict[str, float]]:
    """Return a run's log, one dict a row; a last line that was cut off is left out."""
    path = folder / LOG
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    try:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: not a whole log ({error}); move it away, and the run begins another") from None


def draw_log(folder: Path, panels: Sequence[tuple[str, str, Mapping[str, str]]] = PANELS) -> None:
    """Draw a run's log over its steps as its `loss.png`: panels of a title, a unit, and columns with their labels."""
    rows = read_log(folder)
    if not rows:
        raise UsageError(f"{folder}: {LOG} has no rows, so there is no {PLOT} to draw; the weights are written")
    steps = [row["step"] for row in rows]
    drawn = []
    for title, unit, columns in panels:
        lines = [Line(label, [row[name] for row in rows]) for name, label in columns.items()]
        drawn.append(Panel(title, "training step", unit, steps, lines))
    draw_panels(drawn, folder / PLOT)


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"
