"""What a device runs: the kit in the bundle's folder needs NumPy and the runtime, not edgepath and not PyTorch.

On the device, `python3 kit/check.py` in that folder checks hashes, drift and latency first.
"""

import sys
from pathlib import Path

import numpy as np

bundle = Path("build/demo-onnx-int8")
sys.dont_write_bytecode = True  # the bundle stays as it was hashed
sys.path.insert(0, str(bundle / "kit"))
from runner import Runner  # noqa: E402

with Runner(bundle / "model.onnx") as run:
    print(run(np.full((1, 224, 224, 3), 240, np.uint8)).shape)
