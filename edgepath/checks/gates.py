"""Gates: a figure held against what the recipe asks for, as a non-inferiority test: the verdict, and what n allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..recipes.recipe import Recipe
from .bounds import UNSEEN, Bounds, QuantileBounds, mean_bounds
from .parts import Difference
from .results import GateRow, HeadroomFigures
from .verdicts import Verdict, overall

Kind = Literal["drift", "parts", "speed", "loss", "headroom"]
_FLOAT = 1e-9  # 0.97 - 0.96 is allowed where 0.01 is, though floating point says 0.010000000000000009


@dataclass(frozen=True)
class Gate:
    """A figure of something, `measured`, held against a `bound`.

    Attributes:
        kind: a cosine to the reference ("drift"), how many parts are not the program's ("parts"), a ratio of latencies
            ("speed"), what was lost to full precision ("loss"), or how many times the largest value fits into FP16's
            largest number ("headroom").
        figure: which figure.
        of: of what: a drift, a group of slides, a task, a bundle.
        at_most: whether the figure may be no more than the bound; else it may be no less.
        verdict: what the sample says; not inferior is passed.
        n, unit: how many of what were sampled; None where all there is was looked at, or in results of 0.1.0.
        interval: the figure's lower and upper bound, each right with 95 % confidence; infinite where n gives none.
        n_to_decide: about how many would do, where it is inconclusive; None where none would.
    """

    kind: Kind
    figure: str
    of: str
    measured: float
    bound: float
    at_most: bool
    verdict: Verdict
    n: int | None = None
    unit: str = ""
    interval: tuple[float, float] | None = None
    n_to_decide: int | None = None

    @property
    def passed(self) -> bool:
        """Whether the gate is not failed: an inconclusive one is not."""
        return self.verdict is not Verdict.INFERIOR

    def to_json(self) -> GateRow:
        """Return the gate as JSON-able values; an end of the interval that is infinite is None."""
        ends = self.interval
        return {
            "kind": self.kind,
            "gate": self.figure,
            "of": self.of,
            "measured": self.measured,
            "required": self.bound,
            "at_most": self.at_most,
            "verdict": self.verdict.value,
            "n": self.n,
            "unit": self.unit,
            "interval": None if ends is None else [end if math.isfinite(end) else None for end in ends],
            "n_to_decide": self.n_to_decide,
            "passed": self.passed,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Gate:
        """Return what `to_json` wrote, now or in 0.1.0, whose gates had no kind, and were passed or not.

        Raises KeyError, TypeError or ValueError for less.
        """
        figure, of, passed = str(values["gate"]), str(values["of"]), bool(values["passed"])
        verdict = Verdict(values.get("verdict", "non-inferior")) if passed else Verdict.INFERIOR
        if "lost" in values:
            return cls("loss", figure, of, float(values["lost"]), float(values["allowed"]), True, verdict)
        measured, bound = values["measured"], values["required"]
        if "kind" not in values:
            kind: Kind = "parts" if of == "lowering" else "drift" if figure.startswith("cosine") else "speed"
            return cls(kind, figure, of, measured, bound, kind != "drift", verdict)
        low, high = values.get("interval") or (None, None)
        ends = None if values.get("n") is None else (_end(low, -math.inf), _end(high, math.inf))
        sample = (values.get("n"), str(values.get("unit", "")), ends, values.get("n_to_decide"))
        return cls(values["kind"], figure, of, measured, bound, bool(values["at_most"]), verdict, *sample)


def all_passed(gates: Iterable[Gate]) -> bool:
    """Return whether no gate was failed."""
    return all(gate.passed for gate in gates)


def verdict_of(rows: Iterable[GateRow]) -> Verdict:
    """Return the verdict over all gates, as `to_json` wrote them."""
    return overall(Gate.from_json(row).verdict for row in rows)


def to_json(gates: Iterable[Gate]) -> list[GateRow]:
    """Return gates as JSON-able values."""
    return [gate.to_json() for gate in gates]


def judge(kind: Kind, figure: str, of: str, bounds: Bounds | QuantileBounds, bound: float, *, at_most: bool) -> Gate:
    """Return the gate of a figure with bounds: does all that is between them hold, or none of it?"""
    low, high = bounds.low, bounds.high
    below, above = high <= bound + _FLOAT, low >= bound - _FLOAT
    failed = low > bound + _FLOAT if at_most else high < bound - _FLOAT
    if failed or math.isnan(bounds.estimate):
        verdict = Verdict.INFERIOR
    else:
        verdict = Verdict.NON_INFERIOR if (below if at_most else above) else Verdict.INCONCLUSIVE
    needed = bounds.n_to_decide(bound) if verdict is Verdict.INCONCLUSIVE else None
    return Gate(kind, figure, of, bounds.estimate, bound, at_most, verdict, bounds.n, bounds.unit, (low, high), needed)


def drift_gates(recipe: Recipe, of: str, cosines: np.ndarray) -> list[Gate]:
    """Hold tiles' cosines to the reference, float64 (N), against the recipe's `[accept]`; `of` says which drift it is.

    The mean is bounded as if a tile nobody saw may drift `UNSEEN` times what is allowed on average, the 1st percentile
    by the tiles alone: with fewer than 299 it has no lower bound.
    """
    accept = recipe.accept
    worst = np.array([max(-1.0, 1 - UNSEEN * (1 - accept.cosine_mean))])
    (mean,) = mean_bounds(cosines[:, None], "tiles", worst, np.ones(1))
    percentile = QuantileBounds("tiles", 0.01, np.sort(cosines))
    return [
        judge("drift", "cosine_mean", of, mean, accept.cosine_mean, at_most=False),
        judge("drift", "cosine_p01", of, percentile, accept.cosine_p01, at_most=False),
    ]


def parts_gate(differences: Sequence[Difference]) -> Gate:
    """Return the gate that an artifact is its program, part by part: `measured` is how many parts are not."""
    verdict = Verdict.INFERIOR if differences else Verdict.NON_INFERIOR
    return Gate("parts", "other parts", "lowering", len(differences), 0, True, verdict)


def speed_gate(recipe: Recipe, ratios: np.ndarray, of: str = "latency") -> Gate:
    """Hold INT8's latency over full precision's at batch 1, in each round, against `accept.latency.of_full_precision`.

    The median over rounds is judged.
    """
    bound = recipe.accept.latency.of_full_precision
    bounds = QuantileBounds("rounds", 0.5, np.sort(ratios))
    return judge("speed", "p50 / full precision's", of, bounds, bound, at_most=True)


def headroom_gate(recipe: Recipe, headroom: HeadroomFigures) -> Gate:
    """Hold the value that comes nearest to FP16's largest number against `accept.headroom.at_least`."""
    nearest, bound = headroom["nearest"][0], recipe.accept.headroom.at_least
    of = f"{nearest['place']} ({nearest['operation']})"
    verdict = Verdict.NON_INFERIOR if nearest["headroom"] >= bound else Verdict.INFERIOR
    return Gate("headroom", "FP16 headroom", of, nearest["headroom"], bound, False, verdict)


def loss_gate(figure: str, of: str, lost: Bounds, allowed: float) -> Gate:
    """Hold what was lost of a figure, of which more is better, to full precision against what may be lost."""
    return judge("loss", figure, of, lost, allowed, at_most=True)


def _end(value: float | None, missing: float) -> float:
    return missing if value is None else float(value)
