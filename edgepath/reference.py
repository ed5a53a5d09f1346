"""Full-precision reference embeddings, computed once: kept by what they depend on, never by a file's name."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .backends import reference
from .errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from .models import ModelSpec
    from .tiles import TileSource
    from .weights import Weights

BATCH = 8


@dataclass(frozen=True)
class Reference:
    """Embeddings float32 (N, D) of a tile source, its tiles' keys, and the device and runtime they were made on."""

    embeddings: np.ndarray
    keys: tuple[str, ...]
    runtime: str
    cached: bool


def reference_embeddings(
    vit: nn.Module,
    spec: ModelSpec,
    weights: Weights,
    tiles: TileSource,
    *,
    embedding: str = "cls",
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Reference:
    """Return the embeddings of the unmodified model in FP32 (TF32 off) on `device`, from the cache where they are known.

    The key is a hash over weights, preprocessing, embedding, device and every tile's pixels.
    """
    path = cache_folder() / "reference" / f"{_key(spec, weights, tiles, embedding, device)}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            if progress is not None:
                progress(len(tiles))
            return Reference(file["embeddings"], tuple(file["keys"].tolist()), str(file["runtime"]), cached=True)
    rows, keys = [], []
    with reference.Runner(vit, spec.mean, spec.std, embedding, device) as runner:
        for batch in tiles.batches(BATCH):
            rows.append(runner(batch.pixels))
            keys += batch.keys
            if progress is not None:
                progress(len(batch.keys))
        runtime = runner.runtime
    found = Reference(np.concatenate(rows), tuple(keys), runtime, cached=False)
    _store(path, found)
    return found


def pick_device(device: str = "auto") -> str:
    """Return `cuda` when asked for or when it is there (`auto`), else `cpu`. Raises UsageError for CUDA without a GPU."""
    import torch

    known = device in ("auto", "cpu") or device.partition(":")[0] == "cuda"
    if not known:
        raise UsageError(f'device "{device}"; give auto, cpu, cuda or cuda:INDEX')
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device}: PyTorch {torch.__version__} finds no CUDA GPU; give --device cpu")
    return device


def cache_folder() -> Path:
    """Return where edgepath keeps what it can compute again: `$EDGEPATH_CACHE`, else `~/.cache/edgepath`."""
    return Path(os.environ.get("EDGEPATH_CACHE") or Path.home() / ".cache" / "edgepath")


def _key(spec: ModelSpec, weights: Weights, tiles: TileSource, embedding: str, device: str) -> str:
    depends_on = {
        "weights": weights.sha256,
        "model": spec.to_json(),
        "embedding": embedding,
        "device": reference.device_name(device),
        "tiles": tiles.provenance()["sha256"],
    }
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def _store(path: Path, found: Reference) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".npz")
    with os.fdopen(handle, "wb") as file:
        np.savez(file, embeddings=found.embeddings, keys=np.array(found.keys), runtime=found.runtime)
    os.replace(name, path)
