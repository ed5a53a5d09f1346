"""What a program itself makes of the golden tiles, kept in the cache: targets of one program compute it once."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..bundle.running import BATCH, embed_all
from ..machine.arrays import read_npz
from ..machine.cache import cached_file, code_hash, store
from ..machine.hardware import device_name
from ..machine.packages import versions
from ..machine.progress import Advance

if TYPE_CHECKING:
    from .fold import EdgeModel
    from .forms import Program

_FROM = ("calibrate", "fold", "formats", "forms", "linear", "operations", "own_embeddings")
COMPUTED_BY = (*(f"program/{name}" for name in _FROM), "bundle/running", "machine/inference")
"""The modules that compute a program in PyTorch. A test holds it to the imports."""
KEPT = ("program", "nudged")
_SETTINGS = (bool, int, float, str, tuple, type(None))


def own_embeddings(program: Program, tiles: np.ndarray, advance: Advance) -> dict[str, np.ndarray]:
    """Embed `tiles`, uint8 (N, S, S, 3), with the program, and the first `BATCH` with their pixels nudged, as float32.

    A program whose values are watched for FP16 is always computed.
    """
    file = None if program.peaks else cached_file("program", _depends_on(program.model, tiles))
    known = None if file is None else _recalled(file, len(tiles))
    if known is not None:
        advance(len(tiles))
        return known
    made = {"program": embed_all(program, tiles, advance), "nudged": program.nudged(tiles[:BATCH])}
    if file is not None:
        store(file, lambda handle: np.savez(handle, allow_pickle=False, **made))
    return made


def _depends_on(model: EdgeModel, tiles: np.ndarray) -> dict[str, object]:
    using = versions()
    return {
        "model": _content(model),
        "tiles": hashlib.sha256(np.ascontiguousarray(tiles).data).hexdigest(),
        "device": device_name("cpu"),
        "code": _code(),
        "versions": {name: using[name] for name in ("torch", "timm", "numpy")},
    }


def _content(model: EdgeModel) -> str:
    """Return a hash of every module's class, settings, parameters and buffers."""
    hashed = hashlib.sha256()
    for name, module in model.named_modules():
        settings = {key: value for key, value in sorted(vars(module).items()) if isinstance(value, _SETTINGS)}
        hashed.update(f"{name} {type(module).__module__}.{type(module).__qualname__} {settings}\n".encode())
        for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            values = tensor.detach().contiguous()
            hashed.update(f"{key} {values.dtype} {tuple(values.shape)}\n".encode())
            hashed.update(values.flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()


@lru_cache(maxsize=1)
def _code() -> str:
    return code_hash(COMPUTED_BY)


def _recalled(file: Path, count: int) -> dict[str, np.ndarray] | None:
    """Return what was stored, or None where there is nothing, or nothing whole: it can be computed again."""
    try:
        with open(file, "rb") as handle:
            held = read_npz(handle, KEPT)
    except (OSError, ValueError, TypeError):
        return None
    valid = all(rows.ndim == 2 and rows.dtype == np.float32 and np.isfinite(rows).all() for rows in held.values())
    return held if valid and len(held["program"]) == count and len(held["nudged"]) == min(count, BATCH) else None
