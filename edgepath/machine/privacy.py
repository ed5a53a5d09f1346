"""Packages that report their use to their vendors do not do so where edgepath is imported.

What they read, they read when they are imported: `edgepath/__init__.py` calls this before anything else can be. The
runners that kits copy do the same for their own runtime.
"""

from __future__ import annotations

import os
import sys

# ONNX Runtime from 1.29 keeps a device identifier and a database in ~/.cache/Microsoft, and uploads it.
# huggingface_hub tells the hub which packages are installed here.
_OFF = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def report_nothing() -> None:
    """Switch off what the packages that edgepath uses would report about this machine and its programs."""
    os.environ.update(_OFF)
    # OpenVINO and NNCF ask a web analytics host, by this package, and keep an identifier in ~/intel. Both do without.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
