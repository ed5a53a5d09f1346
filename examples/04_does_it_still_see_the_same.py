"""Measure whether the artifact finds tissue again on another scanner, as well as its model does.

    python examples/04_does_it_still_see_the_same.py [FOLDER]

FOLDER holds one folder per scanner; files of one name show the same location. Without it, two are drawn: the same
tissue, and a copy of it that is warmer and darker. A few locations decide little: take 300 or more for a verdict.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import edgepath


def draw(folder: str) -> str:
    """Write 24 locations as two scanners might see them, and return the folder."""
    tissue = edgepath.open_tiles("synthetic:24:5").read()
    warmer = (tissue * np.array([0.97, 0.92, 0.86])).astype(np.uint8)
    for scanner, tiles in {"one": tissue, "other": warmer}.items():
        Path(folder, scanner).mkdir(parents=True, exist_ok=True)
        for number, tile in enumerate(tiles):
            Image.fromarray(tile).save(Path(folder, scanner, f"{number:02}.png"))
    return folder


paired = sys.argv[1] if len(sys.argv) > 1 else draw("drawn_scanners")
result = edgepath.robustness("build/demo-onnx-int8", paired=paired)

for model, groups in result["figures"].items():
    for group, figures in groups.items():
        print(f"{model:15} {group:9} cosine {figures['cosine']['median']:.4f} top-1 {figures['top1']['median']:.4f}")
print("verdict:", result["verdict"])
