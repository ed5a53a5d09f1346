"""How far bundles lie apart, as a picture: a square a pair, the darker the farther."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .plots import picture, plain_numbers

_NEAR, _FAR = 1e-6, 1e-2  # of 1 - cosine: lightest at a millionth and less, darkest at a hundredth and more


def draw_pairs(result: Mapping[str, Any], path: Path) -> None:
    """Draw what `compare` returned as a PNG: 1 - mean cosine of every pair. Raises UsageError where it cannot."""
    names, source = list(result["bundles"]), result["source"]
    apart = np.full((len(names), len(names)), np.nan)
    for pair in result["pairs"]:
        one, other = (names.index(name) for name in pair["of"])
        apart[one, other] = apart[other, one] = max(0.0, 1 - pair["cosine_mean"])
    with picture(path, 4.5 + 0.9 * len(names), 2.5 + 0.7 * len(names)) as figure:
        from matplotlib.colors import LogNorm

        ax = figure.subplots()
        scale = LogNorm(_NEAR, _FAR, clip=True)
        image = ax.imshow(np.maximum(apart, _NEAR), cmap="Blues", norm=scale, aspect="auto")
        for (down, across), drift in np.ndenumerate(apart):
            if np.isfinite(drift):
                ink = "white" if scale(drift) > 0.6 else "black"
                ax.text(across, down, f"{drift:.1e}", ha="center", va="center", color=ink)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
        ax.set_yticks(range(len(names)), names)
        ax.grid(visible=False)
        ax.set_facecolor("#ebebeb")
        ax.set_title(f"How far bundles lie apart, mean over {source['count']} tiles of {source['name']}")
        bar = figure.colorbar(image, extend="both", label="1 - cosine of a tile's two embeddings (0: the same)")
        plain_numbers(bar.ax.yaxis)
        figure.supxlabel(f"noise floor of the programs themselves: {result['noise_floor']:.1e}", fontsize="medium")
