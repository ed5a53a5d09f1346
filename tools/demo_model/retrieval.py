"""Is the same place found again under another scanner?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any

import numpy as np

from edgepath.checks.neighbours import twin_ranks, unit
from edgepath.errors import UsageError


@dataclass(frozen=True)
class Retrieval:
    """How well one place finds itself under another scanner, averaged over all ordered pairs of scanners.

    `cosine` is the mean cosine of the two embeddings of a place; `top1` and `top10` the share of places whose twin is
    the nearest, or among the ten nearest, of all `places` places under the other scanner.
    """

    cosine: float
    top1: float
    top10: float
    places: int
    scanners: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able values."""
        return asdict(self)


def retrieve(embeddings: Mapping[str, np.ndarray]) -> Retrieval:
    """Compare embeddings, float32 (N, D) by scanner, of the same N places in the same order.

    Raises UsageError for fewer than two scanners or when they do not hold the same number of places.
    """
    shapes = {values.shape for values in embeddings.values()}
    if len(embeddings) < 2 or len(shapes) > 1 or any(len(shape) != 2 or not shape[0] for shape in shapes):
        raise UsageError(f"retrieval: {len(embeddings)} scanners, shapes {sorted(shapes)}; give two or more alike")
    for name, values in embeddings.items():
        norms = np.linalg.norm(values, axis=1)
        if not np.isfinite(norms).all() or not norms.all():
            raise UsageError(f"retrieval: an embedding of {name} is not finite, or zero; embed the tiles again")
    pairs = list(permutations((unit(values) for values in embeddings.values()), 2))
    cosines = [np.einsum("nd,nd->n", one, other).mean() for one, other in pairs]
    rank = np.concatenate([twin_ranks(one, other) for one, other in pairs])
    top1, top10 = (float((rank < k).mean()) for k in (1, 10))
    return Retrieval(float(np.mean(cosines)), top1, top10, next(iter(shapes))[0], len(embeddings))
