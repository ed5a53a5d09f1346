"""Full-precision reference embeddings, computed once: kept by what they depend on, never by a file's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .backends import reference
from .cache import cached_file, store
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
    """Return the embeddings of the unmodified model in FP32 (TF32 off) on `device`, from the cache where it has them.

    The key is a hash over weights, preprocessing, embedding, device and every tile's pixels.
    """
    depends_on = {
        "weights": weights.sha256,
        "model": spec.to_json(),
        "embedding": embedding,
        "device": reference.device_name(device),
        "tiles": tiles.provenance()["sha256"],
    }
    path = cached_file("reference", depends_on)
    known = _recall(path, tiles)
    if known is not None:
        if progress is not None:
            progress(len(tiles))
        return known
    rows: list[np.ndarray] = []
    keys: list[str] = []
    with reference.Runner(vit, spec.mean, spec.std, embedding, device) as runner:
        for batch in tiles.batches(BATCH):
            rows.append(runner(batch.pixels))
            keys += batch.keys
            if progress is not None:
                progress(len(batch.keys))
        runtime = runner.runtime
    found = Reference(np.concatenate(rows), tuple(keys), runtime, cached=False)
    named = np.array(found.keys)
    store(path, lambda file: np.savez(file, embeddings=found.embeddings, keys=named, runtime=found.runtime))
    return found


def pick_device(device: str = "auto") -> str:
    """Return `cuda` when asked for or when it is there (`auto`), else `cpu`; UsageError for a GPU that is not there."""
    import torch

    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", device):
        raise UsageError(f'device "{device}"; give auto, cpu, cuda or cuda:INDEX')
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device}: PyTorch {torch.__version__} finds no CUDA GPU; give --device cpu")
    index = int(device.partition(":")[2] or 0)
    if device.startswith("cuda") and index >= torch.cuda.device_count():
        raise UsageError(f"device {device}: there are {torch.cuda.device_count()} CUDA GPUs, counted from 0")
    return device


def _recall(path: Path, tiles: TileSource) -> Reference | None:
    """Return what was stored, or None where there is nothing, or nothing whole: it can be computed again."""
    try:
        # Opened here, because NumPy leaves a file open when it turns out to be cut off.
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            embeddings, keys, runtime = file["embeddings"], tuple(file["keys"].tolist()), str(file["runtime"])
    except Exception:  # zip, zlib and NumPy each have errors of their own for damaged bytes
        return None
    whole = embeddings.ndim == 2 and embeddings.dtype == np.float32 and len(embeddings) == len(keys) > 0
    if not whole or not np.isfinite(embeddings).all() or not set(keys) <= set(tiles.keys):
        return None
    return Reference(embeddings, keys, runtime, cached=True)
