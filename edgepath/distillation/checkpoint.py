"""A run's whole state in one file, written aside, flushed and renamed: killed at any moment, the last one is whole."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TypedDict

import torch

from ..errors import EdgepathError, UsageError
from ..machine.workspace import workspace
from ..machine.writing import disk_full
from .options import differences

NAME = "checkpoint.pt"
SCHEMA = 1
MAY_CHANGE = ("training.learning_rate", "training.clip", "training.precision")
"""Options that a resumed run may have others of: what is there to change when a step was not finite."""


class State(TypedDict):
    """What the checkpoint of any run holds; a run's own has more."""

    step: int
    identity: dict[str, str]
    options: dict[str, object]


def save_checkpoint(folder: Path, state: State) -> None:
    """Write `state`, tensors and plain values, as the run's only checkpoint. Raises UsageError for a full disk."""
    final = folder / NAME
    try:
        with workspace(final) as aside:
            with open(aside.new, "wb") as file:
                torch.save({"schema": SCHEMA, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside.new, final)
    except Exception as error:
        if disk_full(error, folder):
            kept = "the checkpoint before is kept; " if final.exists() else ""
            raise UsageError(f"disk full while writing {final}: {kept}free some space and --resume") from error
        raise


def load_checkpoint(folder: Path) -> State:
    """Read a run's checkpoint; nothing but tensors and plain values is unpickled. Raises UsageError."""
    path = folder / NAME
    if not path.is_file():
        raise UsageError(f"{folder}: holds no {NAME} to resume; start it without --resume")
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises whatever damaged bytes lead it to
        raise UsageError(f"{path}: not a whole checkpoint ({type(error).__name__}); start again with --force") from None
    if not isinstance(state, dict) or state.get("schema") != SCHEMA or not state.keys() >= State.__required_keys__:
        raise UsageError(f"{path}: not a checkpoint of schema {SCHEMA}; start again with --force")
    return state


def check_same_options(folder: Path, state: State, options: dict[str, object]) -> None:
    """Refuse to go on with other options than the checkpoint's, but for `MAY_CHANGE`.

    Raises UsageError naming the first.
    """
    if options.keys() != state["options"].keys():
        raise UsageError(f"{folder}: its checkpoint is of another kind of run; give another --out")
    if odd := [
        difference
        for difference in differences(options, state["options"])
        if difference.partition(" ")[0] not in MAY_CHANGE
    ]:
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        raise UsageError(f"{folder}: {odd[0]} when the run began{more}; give the same, or another --out")


def check_same_run(folder: Path, state: State, identity: dict[str, str]) -> None:
    """Refuse to go on with other models or tiles than the checkpoint's. Raises UsageError naming it."""
    for key, value in identity.items():
        if state["identity"].get(key) != value:
            raise UsageError(
                f"{folder}: {key} is {value}, the run began with {state['identity'].get(key)}; "
                "give the same, or another --out"
            )


def require_finite(step: int, **values: float) -> None:
    """Stop before a step that would ruin the weights. Raises EdgepathError naming it and the first such value."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise EdgepathError(
                f"step {step}: the {name} is {value}; the last checkpoint is kept; go on from it with --resume and a "
                'lower training.learning_rate or training.clip (in bf16 also training.precision = "fp32"); where that '
                "does not help, start again with --force"
            )
