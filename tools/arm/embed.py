"""Embed a bundle's golden tiles by its own kit, one at a time; runs where the kit runs, on any machine.

python3 embed.py BUNDLE OUT.npy COUNT
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np


def main() -> None:
    """Write float32 (COUNT, D), and print machine and runtime."""
    bundle, out, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(bundle / "kit"))
    from runner import Runner  # type: ignore[import-not-found, unused-ignore]

    tiles = np.load(bundle / "golden" / "tiles.npz")["tiles"][:count]
    artifact = next(path for path in sorted(bundle.glob("model.*")) if path.suffix in (".onnx", ".pte"))
    with Runner(artifact, threads=1) as run:
        np.save(out, np.concatenate([run(tiles[i : i + 1]) for i in range(len(tiles))]))
        print(f"{platform.machine()}: {run.runtime}")


if __name__ == "__main__":
    main()
