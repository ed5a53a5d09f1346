"""Where the recipes, device kits and calibration packs that come with edgepath lie on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parent


def data_folder(name: Literal["export", "calibration"]) -> Path:
    """Return the folder of recipes and kits ("export") or of calibration packs ("calibration").

    An installed wheel keeps both under `edgepath/_data/`; a checkout, also one installed with `pip install -e`, keeps
    them at its root. Nothing is ever written there.
    """
    installed = _PACKAGE / "_data"
    return (installed if installed.is_dir() else _PACKAGE.parent) / name
