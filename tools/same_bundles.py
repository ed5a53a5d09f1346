"""Whether two exports are the same program: scales and golden embeddings, bit for bit.

    python tools/same_bundles.py BEFORE AFTER

Of every bundle in both folders it compares the scales in `bundle.json` (`program`), and the embeddings of the program
and of the reference on the golden tiles. It ends with 1 where something differs, or no bundle is in both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = ("program.npz", "reference.npz")


def differences(before: Path, after: Path) -> list[str]:
    """Return in what two bundles differ, a line each."""
    found = []
    ours, theirs = (json.loads((path / "bundle.json").read_text(encoding="utf-8")) for path in (before, after))
    if names := [name for name in {**ours["program"], **theirs["program"]} if not _same_scales(name, ours, theirs)]:
        found.append(f"scales of {len(names)} layers, first {names[0]}")
    return found + [name for name in GOLDEN if not _same_arrays(before / "golden" / name, after / "golden" / name)]


def _same_scales(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return bool(ours["program"].get(name) == theirs["program"].get(name))


def _same_arrays(before: Path, after: Path) -> bool:
    with np.load(before) as ours, np.load(after) as theirs:
        return ours.files == theirs.files and all(
            (ours[name].dtype, ours[name].shape, ours[name].tobytes())
            == (theirs[name].dtype, theirs[name].shape, theirs[name].tobytes())
            for name in ours.files
        )


def main(before: Path, after: Path) -> int:
    """Print a line for every bundle in both folders, and return 1 where something differs."""
    names = sorted(path.parent.name for path in before.glob("*/bundle.json") if (after / path.parent.name).is_dir())
    odd = {name: differences(before / name, after / name) for name in names}
    for name, lines in odd.items():
        print(f"{name}: {'; '.join(lines) or 'equal'}")
    if not names:
        print(f"no bundle is both in {before} and in {after}")
    return int(not names or any(odd.values()))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
