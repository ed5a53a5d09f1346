"""A run's whole state in one file, written aside, flushed and renamed: killed at any moment, the last one is whole."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..staging import beside, dead_leftovers, disk_full
from .options import differences

NAME = "checkpoint.pt"
SCHEMA = 1


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `state`, tensors and plain values, as the run's only checkpoint. Raises UsageError for a full disk."""
    final = folder / NAME
    partial = beside(final, "partial")
    try:
        for leftover in dead_leftovers(final, "partial"):
            leftover.unlink()
        with open(partial, "wb") as file:
            torch.save({"schema": SCHEMA, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, final)
    except Exception as error:
        if disk_full(error, folder):
            kept = "the checkpoint before is kept; " if final.exists() else ""
            raise UsageError(f"disk full while writing {final}: {kept}free some space and --resume") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read a run's checkpoint; nothing but tensors and plain values is unpickled. Raises UsageError."""
    path = folder / NAME
    if not path.is_file():
        raise UsageError(f"{folder}: holds no {NAME} to resume; start it without --resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UsageError(f"{path}: not a whole checkpoint ({type(error).__name__}); start again with --force") from None
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise UsageError(f"{path}: not a checkpoint of schema {SCHEMA}; start again with --force")
    return state


def check_same_options(folder: Path, state: dict[str, Any], options: dict[str, Any]) -> None:
    """Refuse to go on with other options than the checkpoint's. Raises UsageError naming the first."""
    if odd := differences(options, state["options"]):
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        raise UsageError(f"{folder}: {odd[0]} when the run began{more}; give the same, or another --out")


def check_same_run(folder: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuse to go on with other models or tiles than the checkpoint's. Raises UsageError naming it."""
    for key, value in identity.items():
        if state["identity"].get(key) != value:
            raise UsageError(
                f"{folder}: {key} is {value}, the run began with {state['identity'].get(key)}; "
                "give the same, or another --out"
            )
