"""Check a bundle's hashes, run its artifact, and measure drift on tiles that it has not seen.

python examples/02_verify_on_your_tiles.py [TILES]
"""

import sys

import edgepath

tiles = sys.argv[1] if len(sys.argv) > 1 else "synthetic:16:7"
result = edgepath.verify("build/demo-onnx-int8", tiles=tiles)

print("ran with", result["ran_with"])
print("golden tiles:", result["golden"]["drift"]["total"]["cosine_mean"])
print("your tiles:  ", result["tiles"]["drift"]["total"]["cosine_mean"])
print("passed" if result["passed"] else "FAILED")
