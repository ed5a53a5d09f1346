"""Golden sets: tiles with the full-precision model's embeddings of them, captured once, on a GPU where there is one.

One file, `.npz`: `tiles` uint8 (N, S, S, 3), `embeddings` float32 (N, D), `keys`, and `facts` as JSON: the model and
the hash of its weights, the embedding, and the device and runtime the embeddings come from. Embeddings of licensed
weights fall under their licence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle.bundle import Bundle
from ..errors import UsageError
from ..machine.arrays import read_npz
from ..machine.packages import require
from ..machine.progress import Progress, counter
from ..machine.tables import parse_json
from ..machine.writing import check_output, replacing
from ..tiles.opening import open_tiles

SCHEMA = 1
MOST = 1024


@dataclass(frozen=True)
class Golden:
    """A golden set that was read: see above."""

    tiles: np.ndarray
    embeddings: np.ndarray
    keys: tuple[str, ...]
    facts: Mapping[str, Any]


def capture(
    model: str,
    tiles: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    weights: str | Path | None = None,
    embedding: str | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Embed tiles with the full-precision model (FP32, TF32 off), write both, and return the facts.

    `tiles` is best a calibration pack of 64 (`edgepath pack build -n 64`), which spreads them over sources,
    stainings and scanners. Raises UsageError for an output in the way or more than 1,024 tiles, and what `load_model`
    raises.
    """
    require("torch", "export")
    from ..machine.hardware import pick_device
    from ..models.catalogue import find_model
    from ..models.reference import reference_embeddings
    from ..models.weights import load_model

    path = Path(out)
    if path.suffix != ".npz" or not path.resolve().parent.is_dir():
        raise UsageError(f"--out {path}: give a file that ends in .npz, in a folder that exists")
    check_output(path, force=force)
    device, spec = pick_device(device), find_model(model)
    vit, spec, loaded = load_model(spec, weights)
    source = open_tiles(tiles, size=spec.size, resize=resize, skip_bad=skip_bad).kept()
    if len(source) > MOST:
        raise UsageError(
            f"golden set: {len(source)} tiles; give --tiles with at most {MOST}, a pack of 64 is made for it"
        )
    kind, advance = embedding or spec.embedding, counter(progress, "reference", len(source))
    reference = reference_embeddings(vit, spec, loaded, source, embedding=kind, device=device, progress=advance)
    pixels = source.select([source.keys.index(key) for key in reference.keys]).read()
    facts = {
        "schema": SCHEMA,
        "model": spec.to_json(),
        "weights": loaded.to_json(),
        "embedding": kind,
        "runtime": reference.runtime,
        "source": source.provenance(),
    }
    with replacing(path, "golden set") as partial, open(partial, "wb") as file:
        keys, text = np.array(reference.keys), np.array(json.dumps(facts))
        np.savez_compressed(file, tiles=pixels, embeddings=reference.embeddings, keys=keys, facts=text)
    return facts | {"file": str(path), "skipped": source.skipped}


def open_golden(path: str | Path, bundle: Bundle) -> Golden:
    """Read a golden set for a bundle. Raises UsageError for one that is damaged, or of another model or embedding."""
    try:
        with open(path, "rb") as file:
            held = read_npz(file, ("tiles", "embeddings", "keys", "facts"))
        facts = parse_json(str(held["facts"]).encode())
        golden = Golden(held["tiles"], held["embeddings"], tuple(map(str, held["keys"].tolist())), facts)
        facts, count = golden.facts, len(golden.keys)
        looks = str([facts["model"]["mean"], facts["model"]["std"]])
        named = (facts["weights"]["sha256"], facts["embedding"], looks, facts["runtime"], facts["schema"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"golden set {path}: cannot be read ({error}); capture it again") from None
    size, dim = bundle.size, bundle.dim
    model = bundle.manifest["model"]
    looks = str([model.get("mean"), model.get("std")])
    wanted = (bundle.weights.sha256, bundle.contract.embedding, looks)
    for what, ours, theirs in zip(("weights", "embedding", "mean and std"), wanted, named, strict=False):
        if ours != theirs:
            raise UsageError(
                f"golden set {path}: {what} {str(theirs)[:12]}, {bundle.name} has {str(ours)[:12]}; capture another"
            )
    shapes = [f"{values.dtype} {values.shape}" for values in (golden.tiles, golden.embeddings)]
    needed = [f"uint8 {(count, size, size, 3)}", f"float32 {(count, dim)}"]
    if named[-1] != SCHEMA or shapes != needed or not count:
        raise UsageError(f"golden set {path}: holds {' and '.join(shapes)}, schema {named[-1]}; capture it again")
    return golden
