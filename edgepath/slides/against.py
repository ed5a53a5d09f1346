"""The full-precision model on a slide's tiles, beside its artifact."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bundle.bundle import Bundle, open_same
from ..bundle.running import BATCH
from ..machine.packages import require
from ..program.rebuilding import same_weights
from ..tiles.slides.cutting import CutSlide


class FullPrecision:
    """Embeds tiles with the model that a bundle was made from; it is loaded at the first use, wherever that is."""

    def __init__(self, bundle: Bundle, weights: str | None = None) -> None:
        require("torch", "export")
        self._path, self._digest, self._weights = bundle.path.resolve(), bundle.digest, weights
        self._net: Any = None

    def __call__(self, cut: CutSlide, which: np.ndarray) -> np.ndarray:
        """Return embeddings, float32 (N, D), of the tiles `which`, int64 (N,)."""
        import torch

        from ..machine.inference import inference

        if self._net is None:
            self._net = self._load()
        rows = []
        for start in range(0, len(which), BATCH):
            tiles = np.stack([cut.tile(int(index)) for index in which[start : start + BATCH]])
            with inference():
                embedded = self._net(torch.from_numpy(tiles))
            rows.append((embedded[0] if isinstance(embedded, tuple) else embedded).numpy())
        embeddings: np.ndarray = np.concatenate(rows)
        return embeddings

    def _load(self) -> Any:
        from ..program.fold import fold

        bundle = open_same(self._path, self._digest)  # the one that was trusted
        vit, spec, _ = same_weights(bundle, self._weights)
        return fold(vit, spec, embedding=bundle.contract.embedding, tokens=bundle.contract.tokens)

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_net": None}
