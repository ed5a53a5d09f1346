"""Which tiles to keep of many: fair shares over nested groups, and inside them the tiles that differ most.

Random tiles repeat what is common; the range of an activation is set by what is rare. Farthest-first traversal
(Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985) covers all there is, within twice the best
radius. Here it goes from group to group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Group = tuple[str, ...]


def select(descriptors: np.ndarray, groups: Sequence[Group], count: int, *, seed: int = 0) -> list[int]:
    """Return the indices of `count` tiles, in the order they were taken.

    `descriptors` are (N, D), `groups` the N groups from the widest to the narrowest (source, staining, scanner, slide).
    The next tile is the one farthest from all taken so far, of the groups whose turn it is: at every level those that
    gave least and have more. So all give alike, or all they have. `seed` draws the first tile; the rest follows.
    """
    assert 0 < count <= len(groups) == len(descriptors)
    member, parent = _tree(groups)
    size = np.bincount(member.ravel(), minlength=len(parent))
    taken = np.zeros_like(size)
    points = _standardised(descriptors)
    distance = 1e9 + np.random.default_rng(seed).random(len(points))  # all are far from nothing, in a drawn order
    free = np.ones(len(points), bool)
    chosen: list[int] = []
    for _ in range(count):
        candidates = free & _whose_turn(taken, size, parent)[member].all(1)
        pick = int(np.argmax(np.where(candidates, distance, -1)))
        chosen.append(pick)
        free[pick] = False
        taken[member[pick]] += 1
        distance = np.minimum(distance, ((points - points[pick]) ** 2).sum(1))
    return chosen


def _tree(groups: Sequence[Group]) -> tuple[np.ndarray, np.ndarray]:
    """Number the groups of all levels; return those of each tile, (N, levels), and the number of each one's parent."""
    depth = max(map(len, groups))
    paths = [(*group, *[""] * (depth - len(group))) for group in groups]
    prefixes = sorted({path[:level] for path in set(paths) for level in range(1, depth + 1)})
    number = {prefix: i for i, prefix in enumerate(prefixes)}
    above = {prefix: i for i, prefix in enumerate(sorted({prefix[:-1] for prefix in prefixes}))}
    member = [[number[path[:level]] for level in range(1, depth + 1)] for path in paths]
    return np.array(member, int), np.array([above[prefix[:-1]] for prefix in prefixes], int)


def _whose_turn(taken: np.ndarray, size: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Tell for each group whether it has more to give, and gave no more than any of its siblings that have, too."""
    more = taken < size
    least = np.full(len(parent), np.iinfo(taken.dtype).max)
    np.minimum.at(least, parent[more], taken[more])
    return np.asarray(more & (taken == least[parent]))


def _standardised(descriptors: np.ndarray) -> np.ndarray:
    """Give every number a mean of 0 and a spread of 1, cut off at 3: an artefact must not set the scale."""
    points = descriptors.astype(np.float64)
    spread = points.std(0)
    return np.asarray(np.clip((points - points.mean(0)) / np.where(spread > 0, spread, 1), -3, 3))
