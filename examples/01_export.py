"""Export the demo model to INT8 for ONNX Runtime, and look at what that changed.

    python examples/01_export.py [TILES]

TILES is a folder of H&E tiles, 224 x 224 pixels at 0.5 um per pixel; without it, synthetic tissue is drawn.
"""

import sys

import edgepath

tiles = sys.argv[1] if len(sys.argv) > 1 else "synthetic:64"
done = edgepath.export("onnx-int8", calibration=tiles, calibration_tiles=32, out="build", force=True)

for name, drift in done.report["drift"].items():
    print(f"{name:13} mean cosine {drift['cosine_mean']:.6f} on {drift['tiles']} tiles")
for gate in done.report["gates"]:
    print(f"gate {gate['gate']}: {gate['measured']:.4f}, required {gate['required']}: {gate['verdict']}")
print(done.bundle.path, "passed" if done.passed else "FAILED")
