"""Tiles in, a file of embeddings out, without ever holding more than a few batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BundleError, UsageError
from ..machine.progress import Progress, silent
from ..tiles.opening import open_tiles
from .bundle import Bundle, open_bundle
from .features import check_features_path, write_features


def embed(
    bundle: str | Path | Bundle,
    tiles: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    batch: int = 8,
    resize: str = "refuse",
    skip_bad: bool = False,
    threads: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Embed a folder, pack or list of tiles with a bundle's artifact and write `out` (`.npz`, `.h5` or `.parquet`).

    The file holds `embeddings` float32 (N, D) and `paths` (N strings, relative to the folder), sorted by path. Returns
    what was written, JSON-able. Raises TileError naming a tile that cannot be read (`skip_bad` goes on and lists it),
    UsageError for a suffix that is not known or an output in the way.
    """
    check_features_path(Path(out), force=force)
    bundle = open_bundle(bundle)
    if Path(out).resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"embed: {out} lies in the bundle, which holds nothing else; write the file elsewhere")
    source = open_tiles(tiles, size=bundle.size, resize=resize, skip_bad=skip_bad)
    say = progress or silent
    with bundle.runner(**({"threads": threads} if threads else {})) as runner:

        def rows() -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
            done = 0
            for part in source.batches(batch):
                embeddings = runner(part.pixels)
                if embeddings.shape[1:] != (bundle.dim,):
                    found = "x".join(map(str, embeddings.shape[1:]))
                    raise BundleError(
                        f"bundle {bundle.path}: its artifact gives {found} numbers a tile, its contract says "
                        f"{bundle.dim}; export it again"
                    )
                yield part.keys, embeddings
                done += len(part.keys)
                say("embed", done, len(source))

        metadata = {
            "bundle": bundle.name,
            "digest": bundle.digest,
            "weights": bundle.manifest["weights"],
            "cautions": bundle.manifest["cautions"],
            "ran_with": runner.runtime,
        }
        count = write_features(Path(out), rows(), dim=bundle.dim, count=len(source), metadata=metadata, force=force)
    return {"file": str(out), "tiles": count, "dim": bundle.dim, "skipped": source.skipped} | metadata
