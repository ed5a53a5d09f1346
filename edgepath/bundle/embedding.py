"""Tiles in, a file of embeddings out, without ever holding more than a few batches."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ..errors import BundleError, PackError, UsageError
from ..machine.progress import Progress, silent
from ..tiles.opening import open_tiles
from ..tiles.origins import origins
from ..tiles.source import TileSource
from .bundle import Bundle, open_bundle
from .features import HDF5, check_features_path, write_features
from .running import open_runner

if TYPE_CHECKING:
    from ..models.weights import WeightsFacts


_WHOLE = re.compile(r"-?\d{1,15}", re.ASCII)


class _Metadata(TypedDict):
    bundle: str
    digest: str
    weights: WeightsFacts
    cautions: list[str]
    ran_with: str
    left_out: dict[str, int]


def _coords(source: TileSource) -> dict[str, tuple[int, int]]:
    """Return the places of tiles, x and y in pixels of their slide, as far as names or a table beside them tell."""
    try:
        known = {key: (row["x"], row["y"]) for key, row in origins(source).items()}
    except PackError:  # of a table that is about something else, which no embedding needs
        return {}
    return {key: (int(x), int(y)) for key, (x, y) in known.items() if _WHOLE.fullmatch(x) and _WHOLE.fullmatch(y)}


class Embedded(_Metadata):
    """What `embed` wrote; the file itself says all but the first four."""

    file: str
    tiles: int
    dim: int
    skipped: list[tuple[str, str]]


def embed(
    bundle: str | Path | Bundle,
    tiles: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    batch: int = 8,
    resize: str = "refuse",
    skip_bad: bool = False,
    anonymous: bool = False,
    threads: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Embedded:
    """Embed tiles with a bundle's artifact, and write the embeddings to a file.

    Where its own runtime cannot run, the one that its recipe checks it with does; the file says so as `ran_with`.

    The file holds `embeddings`, float32 (N, D), and `paths`, N strings relative to the folder, sorted by path.

    Args:
        bundle: A bundle folder, or a bundle that `open_bundle` returned.
        tiles: A folder, pack or list of tiles, or slides.
        out: The file: `.npz`, `.h5` or `.parquet`.
        batch: Tiles in one call of the artifact.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `skipped`.
        anonymous: Write the hashes of the tiles' pixels instead of paths; tiles are decoded first.
        threads: CPU threads of the artifact's runtime; 0 lets it choose.
        force: Replace an existing output.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        What was written, JSON-able.

    Raises:
        TileError: A tile cannot be read; it names the tile.
        UsageError: The suffix is not known, or an output is in the way.
    """
    check_features_path(Path(out), force=force)
    bundle = open_bundle(bundle)
    if Path(out).resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"embed: {out} lies in the bundle, which holds nothing else; write the file elsewhere")
    source = open_tiles(tiles, size=bundle.size, resize=resize, skip_bad=skip_bad)
    if anonymous:
        source = source.kept().anonymous()
    say = progress or silent
    with open_runner(bundle, bundle.recipe, threads) as runner:

        def rows() -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
            done = 0
            for part in source.batches(batch):
                embeddings = runner(part.pixels)
                if embeddings.shape[1:] != (bundle.dim,):
                    shape = "x".join(map(str, embeddings.shape[1:]))
                    raise BundleError(
                        f"bundle {bundle.path}: its artifact gives {shape} numbers a tile, its contract says "
                        f"{bundle.dim}; export it again"
                    )
                yield part.keys, embeddings
                done += len(part.keys)
                say("embed", done, len(source))
            if done < len(source):  # some were skipped; the rest is all there is
                say("embed", len(source), len(source))

        metadata: _Metadata = {
            "bundle": bundle.name,
            "digest": bundle.digest,
            "weights": bundle.manifest["weights"],
            "cautions": list(bundle.cautions),
            "ran_with": runner.runtime,
            "left_out": dict(source.left_out),
        }
        count = write_features(
            Path(out),
            rows(),
            dim=bundle.dim,
            count=len(source),
            metadata=metadata,
            force=force,
            coords=None if anonymous or Path(out).suffix.lower() not in HDF5 else _coords(source),
        )
    return {"file": str(out), "tiles": count, "dim": bundle.dim, "skipped": source.skipped, **metadata}
