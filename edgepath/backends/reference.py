"""The full-precision model in PyTorch, on CPU or CUDA: what every artifact is measured against.

It shares nothing with the export passes: the unmodified timm model, the published normalisation, FP32 with TF32 off.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)
        self.runtime = f"PyTorch {torch.__version__.split('+')[0]} FP32, {device_name(device)}"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        torch = self._torch
        with torch.inference_mode():
            pixels = torch.from_numpy(tiles).to(self._device).permute(0, 3, 1, 2).float() / 255.0
            features = self._vit.forward_features((pixels - self._mean) / self._std)
            embedding = features[:, 0]
            if self._embedding == "cls+mean":
                patches = features[:, self._vit.num_prefix_tokens :]
                embedding = torch.cat([embedding, patches.mean(dim=1)], dim=-1)
            result: np.ndarray = embedding.cpu().numpy()
        return result

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._vit.to("cpu")


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
