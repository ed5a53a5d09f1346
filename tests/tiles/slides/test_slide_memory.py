"""Memory does not grow with a slide: measured in a process of its own, on slides of many gigapixels with few tiles."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile

MEASURED = """
import sys
import numpy as np
from edgepath.machine.progress import peak_bytes
from edgepath.tiles.slides.cutting import CutSettings, cut
with cut(sys.argv[1], CutSettings(tissue_share=0.5)) as slide:
    assert slide.tile(0).shape == (224, 224, 3)
    print(len(slide), *slide.coords[0], *slide.coords[-1], peak_bytes() // 1024)
"""


def write_sparse(path: Path, side: int, *levels: int) -> Path:
    """Write a slide of `side` pixels of which only a square of 1024 in its middle is there."""
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in (1, *levels):
            count, part = -(-side // level // 512), -(-1024 // level // 512)
            first, pink = side // 2 // level // 512, zlib.compress(bytes((190, 90, 160)) * 512 * 512)
            file.write(
                (
                    pink if first <= row < first + part and first <= column < first + part else b""
                    for row in range(count)
                    for column in range(count)
                ),
                shape=(side // level, side // level, 3),
                dtype=np.uint8,
                tile=(512, 512),
                photometric="rgb",
                compression="zlib",
                subfiletype=int(level > 1),
                resolution=(2e4 / level, 2e4 / level),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("side", "levels"), [(40_000, ()), (100_000, (16,))])
def test_memory_stays_below_a_gigabyte(tmp_path: Path, side: int, levels: tuple[int, ...]) -> None:
    path = write_sparse(tmp_path / "large.tif", side, *levels)
    ran = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True, check=True)
    count, left, top, right, bottom, peak_kib = map(int, ran.stdout.split())
    assert count >= 9
    assert min(left, top) > side // 2 - 1024 * 16
    assert max(right, bottom) < side // 2 + 1024 * 16
    print(f"{side} x {side}, levels 1, {levels}: {count} tiles, {peak_kib / 1024:.0f} MiB")
    assert peak_kib < 700 * 1024
