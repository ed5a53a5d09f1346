"""Gates: a figure held against what the recipe asks for, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..recipes.recipe import Recipe
from .parts import Difference
from .results import Drifts, GateRow

Kind = Literal["drift", "parts", "speed", "loss"]
_FLOAT = 1e-9  # 0.97 - 0.96 is allowed where 0.01 is, though floating point says 0.010000000000000009


@dataclass(frozen=True)
class Gate:
    """A figure of something, `measured`, held against a `bound`.

    Attributes:
        kind: a cosine to the reference ("drift"), how many parts are not the program's ("parts"), a ratio of latencies
            ("speed"), or what was lost to full precision ("loss").
        figure: which figure.
        of: of what: a drift, a group of slides, a task, a bundle.
        at_most: whether the figure may be no more than the bound; else it may be no less.
        passed: the verdict.
    """

    kind: Kind
    figure: str
    of: str
    measured: float
    bound: float
    at_most: bool
    passed: bool

    def to_json(self) -> GateRow:
        """Return the gate as JSON-able values."""
        return {
            "kind": self.kind,
            "gate": self.figure,
            "of": self.of,
            "measured": self.measured,
            "required": self.bound,
            "at_most": self.at_most,
            "passed": self.passed,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Gate:
        """Return what `to_json` wrote, now or in 0.1.0, whose gates had no kind. Raises KeyError for less."""
        figure, of, passed = str(values["gate"]), str(values["of"]), bool(values["passed"])
        if "lost" in values:
            return cls("loss", figure, of, float(values["lost"]), float(values["allowed"]), True, passed)
        measured, bound = values["measured"], values["required"]
        if "kind" in values:
            return cls(values["kind"], figure, of, measured, bound, bool(values["at_most"]), passed)
        kind: Kind = "parts" if of == "lowering" else "drift" if figure.startswith("cosine") else "speed"
        return cls(kind, figure, of, measured, bound, kind != "drift", passed)


def all_passed(gates: Sequence[Gate]) -> bool:
    """Return the verdict over all gates."""
    return all(gate.passed for gate in gates)


def to_json(gates: Sequence[Gate]) -> list[GateRow]:
    """Return gates as JSON-able values."""
    return [gate.to_json() for gate in gates]


def drift_gates(recipe: Recipe, drift: Drifts) -> list[Gate]:
    """Hold the measured drift against the recipe's `[accept]`.

    The artifact is judged where it ran; where it could not run here, the quantized program is, and `of` says so.
    """
    of, found = ("total", drift["total"]) if drift["total"] else ("quantization", drift["quantization"])
    assert found is not None
    held = {
        "cosine_mean": (found["cosine_mean"], recipe.accept.cosine_mean),
        "cosine_p01": (found["cosine_p01"], recipe.accept.cosine_p01),
    }
    return [
        Gate("drift", figure, of, measured, bound, False, measured >= bound)
        for figure, (measured, bound) in held.items()
    ]


def parts_gate(differences: Sequence[Difference]) -> Gate:
    """Return the gate that an artifact is its program, part by part: `measured` is how many parts are not."""
    return Gate("parts", "other parts", "lowering", len(differences), 0, True, not differences)


def speed_gate(recipe: Recipe, measured: float, of: str = "latency") -> Gate:
    """Hold a ratio, p50 of INT8 over full precision's at batch 1, against `accept.latency.of_full_precision`."""
    bound = recipe.accept.latency.of_full_precision
    return Gate("speed", "p50 / full precision's", of, measured, bound, True, measured <= bound)


def loss_gate(figure: str, of: str, lost: float, allowed: float) -> Gate:
    """Hold what was lost of a figure, of which more is better, to full precision against what may be lost."""
    return Gate("loss", figure, of, lost, allowed, True, lost <= allowed + _FLOAT)
