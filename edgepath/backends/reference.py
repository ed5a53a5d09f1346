"""The full-precision model in PyTorch, on CPU or CUDA: what every artifact is measured against.

It shares nothing with the export passes: the unmodified timm model, the published normalisation, FP32 with TF32 off.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Runner:
    """Embeds tiles with a timm vision transformer: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    `mean` and `std` are of RGB in 0..1; `embedding` is `cls` or `cls+mean` (patch tokens only, registers excluded).
    """

    def __init__(
        self, vit: Any, mean: Sequence[float], std: Sequence[float], embedding: str = "cls", device: str = "cpu"
    ) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._torch, self._device, self._embedding = torch, device, embedding
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
        with torch.inference_mode():
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
        found = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {found}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")


def device_name(device: str) -> str:
    """Name the hardware behind a torch device, for reports."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{cpu_model()}, {torch.get_num_threads()} threads"


def cpu_model() -> str:
    """Return the processor's name as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
