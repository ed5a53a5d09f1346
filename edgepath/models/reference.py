"""Full-precision reference embeddings, computed once: kept by what they depend on, never by a file's name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..machine.arrays import read_npz
from ..machine.cache import cached_file, store
from ..machine.hardware import device_name
from ..machine.progress import Advance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

if TYPE_CHECKING:
    from torch import nn

    from ..tiles.source import TileSource
    from .catalogue import ModelSpec
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
    progress: Advance | None = None,
) -> Reference:
    """Return the embeddings of the unmodified model in FP32 (TF32 off) on `device`, from the cache where it has them.

    The key is a hash over weights, preprocessing, embedding, device and every tile's pixels.
    """
    depends_on = {
        "weights": weights.sha256,
        "model": spec.to_json(),
        "embedding": embedding,
        "device": device_name(device),
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
    with Runner(vit, spec.mean, spec.std, embedding, device) as runner:
        for batch in tiles.batches(BATCH):
            rows.append(runner(batch.pixels))
            keys += batch.keys
            if progress is not None:
                progress(len(batch.keys))
        runtime = runner.runtime
    reference = Reference(np.concatenate(rows), tuple(keys), runtime, cached=False)
    named = np.array(reference.keys)
    store(path, lambda file: np.savez(file, embeddings=reference.embeddings, keys=named, runtime=reference.runtime))
    return reference


def _recall(path: Path, tiles: TileSource) -> Reference | None:
    """Return what was stored, or None where there is nothing, or nothing whole: it can be computed again."""
    try:
        with open(path, "rb") as file:
            held = read_npz(file, ("embeddings", "keys", "runtime"))
        embeddings, keys, runtime = held["embeddings"], tuple(held["keys"].tolist()), str(held["runtime"])
    except (OSError, ValueError, TypeError):
        return None
    valid = embeddings.ndim == 2 and embeddings.dtype == np.float32 and len(embeddings) == len(keys) > 0
    if not valid or not np.isfinite(embeddings).all() or not set(keys) <= set(tiles.keys):
        return None
    return Reference(embeddings, keys, runtime, cached=True)


class Runner:
    """Embeds tiles with a timm vision transformer: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    `mean` and `std` are of RGB in 0..1; `embedding` is `cls` or `cls+mean` (patch tokens only, registers excluded).
    `by_torch` computes as torch does by itself, to compare speed with.
    """

    def __init__(
        self,
        vit: Any,
        mean: Sequence[float],
        std: Sequence[float],
        embedding: str = "cls",
        device: str = "cpu",
        *,
        by_torch: bool = False,
    ) -> None:
        import torch

        from ..machine.inference import inference

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._torch, self._device, self._embedding = torch, device, embedding
        self._inference = torch.inference_mode if by_torch else inference
        self._vit = vit.to(device)
        self._features = self._vit.forward_features
        self.size = int(vit.patch_embed.img_size[0])
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)
        self.runtime = f"PyTorch {torch.__version__.split('+')[0]} FP32, {device_name(device)}"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return `embedding` float32 (N, D) and `tokens`, the patch tokens, float32 (N, P, width)."""
        _check(tiles, self.size)
        torch = self._torch
        with self._inference():
            raw = torch.from_numpy(np.array(tiles, order="C"))  # a copy: torch takes no negative strides
            pixels = raw.to(self._device).permute(0, 3, 1, 2).float() / 255.0
            features = self._features((pixels - self._mean) / self._std)
            embedding, patches = features[:, 0], features[:, self._vit.num_prefix_tokens :]
            if self._embedding == "cls+mean":
                embedding = torch.cat([embedding, patches.mean(dim=1)], dim=-1)
        return {"embedding": embedding.cpu().numpy(), "tokens": patches.cpu().numpy()}

    def compile(self) -> None:
        """Run through `torch.compile` from the next call on, which takes a minute or so; to compare speed with."""
        self._features = self._torch.compile(self._vit.forward_features)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._vit.to("cpu")


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        given = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {given}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")
