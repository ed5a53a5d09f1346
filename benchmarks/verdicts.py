"""How often a verdict is right: losses that are known are drawn, and judged as gates are.

    python benchmarks/verdicts.py [--write]

prints the tables of docs/verdicts.md, and with --write keeps them as results/verdicts.json. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgepath.checks.bounds import ALPHA, UNSEEN, Bounds, mean_bounds, worst_of
from edgepath.checks.gates import loss_gate
from edgepath.checks.verdicts import Verdict

MARGIN, SCANNERS, PAIRS, SAMPLES = 0.01, 7, 21, 1000
PLACES = (60, 300, 2713)
LOSSES = {"no loss": 0.0, "loss = margin": MARGIN, "loss = 2 x margin": 2 * MARGIN}
DRIFTS = {"a tenth of what is allowed": 0.1, "all of it": 1.0, "twice of it": 2.0}
VERDICTS = (Verdict.NON_INFERIOR, Verdict.INCONCLUSIVE, Verdict.INFERIOR)
KEPT = Path(__file__).parent / "results" / "verdicts.json"


def hits(rng: np.random.Generator, n: int, samples: int, lost: float, moved: float = 0.03) -> np.ndarray:
    """Return what places lose of top-1 (n, samples): of `moved` of them the nearest tile is another than before."""
    change = rng.random((n, samples)) < moved
    return np.where(change, np.where(rng.random((n, samples)) < (1 + lost / moved) / 2, 1.0, -1.0), 0.0)


def shares(bounds: Sequence[Bounds], margin: float = MARGIN) -> dict[str, float]:
    """Return how often each verdict was given."""
    found = Counter(loss_gate("top1", "all", one, margin).verdict for one in bounds)
    return {verdict.value: found[verdict] / len(bounds) for verdict in Verdict}


def one_gate(n: int, lost: float, seed: int) -> dict[str, float]:
    """One gate on the hits of n places."""
    values = hits(np.random.default_rng((seed, n)), n, SAMPLES, lost)
    return shares(mean_bounds(values, "places", -np.ones(SAMPLES), np.ones(SAMPLES)))


def mean_over_pairs(n: int, lost: float, seed: int) -> dict[str, float]:
    """One gate on the hits of n places, averaged over 21 pairs of slides; half of what moves, moves in all of them."""
    rng, samples = np.random.default_rng((seed, n, PAIRS)), SAMPLES // 4
    own = sum(hits(rng, n, samples, lost) for _ in range(PAIRS)) / PAIRS
    values = (hits(rng, n, samples, lost) + own) / 2
    return shares(mean_bounds(values, "places", -np.ones(samples), np.ones(samples)))


def worst_scanner(n: int, lost: float, seed: int) -> dict[str, float]:
    """The scanner of seven that lost most, picked from the same places; one of them loses, the others nothing."""
    rng, samples = np.random.default_rng((seed, n, SCANNERS)), SAMPLES // 4
    values = np.stack([hits(rng, n, samples, lost if scanner == 0 else 0.0) for scanner in range(SCANNERS)], 2)
    ones = np.ones(samples * SCANNERS)
    found = mean_bounds(values.reshape(n, -1), "places", -ones, ones, alpha_low=ALPHA / SCANNERS)
    return shares([worst_of(found[i : i + SCANNERS]) for i in range(0, len(found), SCANNERS)])


def drift(n: int, share: float, seed: int) -> dict[str, float]:
    """A mean drift of so much of what is allowed, over n tiles, as skewed as an exponential."""
    values = np.random.default_rng((seed, n)).exponential(share, (n, SAMPLES))
    zeros, most = np.zeros(SAMPLES), np.full(SAMPLES, float(UNSEEN))
    return shares(mean_bounds(values, "tiles", zeros, most), 1.0)


def simulate() -> list[dict[str, object]]:
    """Return a row a simulation."""
    rows: list[dict[str, object]] = []
    judges = {
        "top-1 of one pair of slides": one_gate,
        "top-1, mean over 21 pairs": mean_over_pairs,
        "top-1, the worst of 7 scanners": worst_scanner,
    }
    for what, judge in judges.items():
        for number, (name, lost) in enumerate(LOSSES.items()):
            rows += [{"what": what, "n": n, "lost": name, **judge(n, lost, number)} for n in PLACES]
    for number, (name, share) in enumerate(
        {"a tenth of what is allowed": 0.1, "all of it": 1.0, "twice of it": 2.0}.items()
    ):
        rows += [{"what": "mean drift", "n": n, "lost": name, **drift(n, share, number)} for n in (3, 32, 320)]
    return rows


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return the rows as Markdown: a line a sample size, the losses side by side."""
    found: dict[tuple[object, object], list[dict[str, object]]] = {}
    for row in rows:
        found.setdefault((row["what"], row["n"]), []).append(row)
    lines: list[str] = []
    losses: list[object] = []
    for (what, n), side_by_side in found.items():
        if losses != (losses := [row["lost"] for row in side_by_side]):
            header = ["judged, % non-inferior / inconclusive / inferior", "n", *map(str, losses)]
            lines += ["", *_line(header), *_line(["---"] * len(header))]
        lines += _line([str(what), str(n), *map(_shares, side_by_side)])
    return "\n".join(lines[1:])


def _line(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _shares(row: dict[str, object]) -> str:
    found = [
        float(str(row[verdict.value])) for verdict in (Verdict.NON_INFERIOR, Verdict.INCONCLUSIVE, Verdict.INFERIOR)
    ]
    return " / ".join(f"{100 * share:.1f}".removesuffix(".0") for share in found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep the figures beside the others")
    chosen = parser.parse_args()
    simulated = simulate()
    if chosen.write:
        KEPT.write_text(json.dumps(simulated, indent=2) + "\n", encoding="utf-8")
    print(table(simulated))
