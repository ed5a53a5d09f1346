"""Two small procedural slides, and one of them with a tile that cannot be decoded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgepath.tiles.slides.synthetic import write_synthetic_slide


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two slides, of which one lies deeper."""
    folder = tmp_path_factory.mktemp("slides")
    (folder / "deeper").mkdir()
    write_synthetic_slide(folder / "a.tif", seed=1, width=1536, height=1024, pieces=1)
    write_synthetic_slide(folder / "deeper" / "b.tif", seed=2, width=1024, height=1024, pieces=1)
    return folder


@pytest.fixture
def broken(slides: Path, tmp_path: Path) -> Path:
    """A slide of which one tile of the file, at its finest level, holds no data that can be decoded."""
    import tifffile

    path = tmp_path / "broken.tif"
    shutil.copy(slides / "a.tif", path)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        largest = max(range(len(page.databytecounts)), key=lambda i: page.databytecounts[i])
        offset, count = page.dataoffsets[largest], page.databytecounts[largest]
    with open(path, "r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xff" * count)
    return path
