"""Do bundles of one model agree with each other? The same tiles through all of them, compared pair by pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import cast

import numpy as np

from ..backends import ran_by
from ..bundle.bundle import Bundle, open_bundle, seen_in_calibration
from ..bundle.running import BATCH, open_runner
from ..errors import UsageError
from ..machine.progress import Progress, counter
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from .drift import measure
from .neighbours import own_share, unit
from .results import Comparison, Pair
from .summary import FEW, notes


def compare(
    bundles: Sequence[str | Path | Bundle],
    *,
    tiles: str | Path | Sequence[str | Path] | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Embed the same tiles with two or more bundles of one model, and compare every two of them.

    `noise_floor` is the largest drift, 1 - cosine, that any of the bundles' programs has from itself on its own golden
    tiles. Two exact executions of an INT8 program differ by as much.

    Args:
        bundles: Two or more bundles of one model, weights and embedding.
        tiles: Tiles to embed. None: the first bundle's golden tiles.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `skipped`.
        threads: CPU threads of the artifact's runtime; 0 lets it choose.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        For each pair, JSON-able: the cosine of a tile's two embeddings (mean, 1st percentile, smallest), and the
        fraction of tiles whose nearest embedding by the other bundle is their own, in both directions.

    Raises:
        UsageError: There are fewer than two bundles, or they are not of one model, weights and embedding.
    """
    opened = [open_bundle(bundle) for bundle in bundles]
    names = _check_comparable(opened)
    size = opened[0].size
    source = None if tiles is None else open_tiles(tiles, size=size, resize=resize, skip_bad=skip_bad)
    total = len(opened[0].golden()[0] if source is None else source)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    advance = counter(progress, "compare", total)
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(open_runner(bundle, bundle.recipe, threads))
            for name, bundle in zip(names, opened, strict=True)
        }
        for batch in _batches(opened[0], source):
            for name, runner in runners.items():
                rows[name].append(runner(batch))
            advance(len(batch))
    ran_with = {name: ran_by(runner) for name, runner in runners.items()}
    remarks = [
        note for name, bundle in zip(names, opened, strict=True) for note in notes(bundle.recipe, ran_with[name])
    ]
    remarks += _of_tiles(names, opened, source, sum(map(len, rows[names[0]])))
    embeddings = {name: np.concatenate(parts) for name, parts in rows.items()}
    return {
        "kind": "comparison",
        "bundles": {name: bundle.digest for name, bundle in zip(names, opened, strict=True)},
        "ran_with": {name: runtime.text for name, runtime in ran_with.items()},
        "cautions": list(dict.fromkeys(caution for bundle in opened for caution in bundle.cautions)),
        "notes": list(dict.fromkeys(remarks)),
        "source": {"kind": "golden", "name": names[0], "count": total} if source is None else source.provenance(),
        "skipped": [] if source is None else source.skipped,
        "noise_floor": max(1 - bundle.noise_floor.cosine_mean for bundle in opened),
        "pairs": [_pair(first, second, embeddings) for first, second in combinations(names, 2)],
    }


def twins(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of rows whose nearest row of the other, by cosine, is their own; both ways; float32 (N, D)."""
    a, b = unit(first), unit(second)
    return (own_share(a, b) + own_share(b, a)) / 2


def _batches(first: Bundle, source: TileSource | None) -> Iterator[np.ndarray]:
    if source is not None:
        yield from (batch.pixels for batch in source.batches(BATCH))
        return
    golden, _ = first.golden()
    for start in range(0, len(golden), BATCH):
        yield golden[start : start + BATCH]


def _of_tiles(names: Sequence[str], bundles: Sequence[Bundle], source: TileSource | None, count: int) -> list[str]:
    """What a reader must know of the tiles."""
    remarks = [f"{count} tiles only: figures of more of them may differ."] if count < FEW else []
    if source is None:
        return remarks
    for name, bundle in zip(names, bundles, strict=True):
        if seen := seen_in_calibration(bundle, source):
            remarks.append(f"{seen} of the {count} tiles were calibrated on for {name}.")
    return remarks


def _pair(first: str, second: str, embeddings: Mapping[str, np.ndarray]) -> Pair:
    figures = asdict(measure(embeddings[first], embeddings[second]))
    del figures["worst"]
    return cast(Pair, {"of": [first, second], **figures, "twins": twins(embeddings[first], embeddings[second])})


def _check_comparable(bundles: Sequence[Bundle]) -> list[str]:
    """Return names that tell the bundles apart; UsageError unless they embed alike."""
    if len(bundles) < 2:
        raise UsageError(f"compare: {len(bundles)} bundle was given; give two or more")
    first = bundles[0]
    for bundle in bundles[1:]:
        for dotted in ("weights.sha256", "contract.embedding", "contract.size", "contract.dim"):
            ours, theirs = map(attrgetter(dotted), (first, bundle))
            if ours != theirs:
                raise UsageError(
                    f"compare: {dotted} of {first.name} is {str(ours)[:16]}, of {bundle.name} {str(theirs)[:16]}; "
                    "give bundles of one model, its weights and one embedding"
                )
    names = [bundle.name for bundle in bundles]
    if len(set(names)) < len(names):
        names = [str(bundle.path) for bundle in bundles]
    if len({bundle.digest for bundle in bundles}) < len(bundles):
        raise UsageError("compare: a bundle was given twice, or a copy of it; give every bundle once")
    return names
