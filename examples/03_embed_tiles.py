"""Embed tiles: to a file, and as an array.

python examples/03_embed_tiles.py [TILES]
"""

import sys

import edgepath

tiles = sys.argv[1] if len(sys.argv) > 1 else "synthetic:8"

written = edgepath.embed("build/demo-onnx-int8", tiles, out="features.npz", force=True)
print(f"{written['file']}: {written['tiles']} embeddings of {written['dim']} numbers")

pixels = edgepath.open_tiles(tiles).read()  # uint8 (N, 224, 224, 3), RGB, not normalised
with edgepath.open_bundle("build/demo-onnx-int8").runner(threads=2) as runner:
    embeddings = runner(pixels)  # float32 (N, D)
print(embeddings.shape, embeddings.dtype)
