"""`search`: which products to leave out of INT8, so that a budget is met and as much as possible stays fast.

Each layer's drift is measured once, alone. Layers are left in floating point in the order of drift for each
multiply-add that this costs; how many of them, is found by measuring candidates on held-out tiles, halving the
interval. That relies on no more than that keeping more layers does not drift more; what is reported was measured. From
the fewest on that a program needs, artifacts are built and judged as `export` will judge them (`checks.candidate`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import numpy as np

from .backends import Runtime, find
from .checks.candidate import FIGURES, Point, Ran, is_judged, missed, program_point, required, run_candidate
from .checks.summary import notes
from .errors import UsageError, did_you_mean
from .machine.hardware import cpu_features
from .machine.packages import versions
from .machine.progress import Advance, Cost, Progress, Stages, silent
from .machine.tables import check_facts, read_json
from .machine.writing import check_output, write_text
from .models.catalogue import find_model
from .program.calibrating import calibrated
from .program.preparing import Inputs, Prepared, fitted, prepare
from .program.quantizing import make_program
from .recipes.recipe import NAME, Recipe, find_recipe
from .tiles.source import Provenance
from .tiles.splitting import DEFAULT_TILES

if TYPE_CHECKING:
    from .program.calibrate import Plan, Ranges
    from .program.fold import EdgeModel

_LOG = logging.getLogger("edgepath")
_LARGEST = 16 << 20  # bytes of a search's state
FEW = 16  # held-out tiles that a single layer is judged on


class Alone(TypedDict):
    """A product's drift as the only one in INT8, 1 - mean cosine, and its multiply-adds for a tile."""

    layer: str
    drift: float
    multiply_adds: int


class Searched(TypedDict):
    """What `search` returns: the recipe's file, the products it keeps, and what was measured.

    `required` is what program and artifact had to reach. `ran_with` says what ran the artifact that was chosen, None
    where nothing here can: then its program alone was judged. `notes` say what follows from that.
    """

    recipe: str
    target: str
    budget: dict[str, float]
    required: dict[str, float]
    kept: list[str]
    layers: list[Alone]
    points: list[Point]
    ran_with: str | None
    notes: list[str]
    held_out: Provenance
    cost: Cost


@dataclass(frozen=True)
class _Shared:
    """What all candidates of a search share; `recipe` is the target's, held to the budget."""

    recipe: Recipe
    net: EdgeModel
    ranges: Ranges
    plan: Plan
    tiles: np.ndarray
    exact: np.ndarray
    rescaled: Collection[str]


def search(
    target: str,
    budget: Mapping[str, float],
    out: str | Path,
    *,
    model: str = "demo",
    weights: str | Path | None = None,
    calibration: str | Path | None = None,
    calibration_tiles: int = DEFAULT_TILES,
    embedding: Literal["cls", "cls+mean"] | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    force: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Searched:
    """Find the linear layers to keep out of INT8 so that a budget of drift is met, and write the recipe.

    The budget, and what else the recipe accepts, hold for the artifact, which is built and run here as `export` does.
    Where nothing here can run it, they hold for its program, and the result says so. The recipe is for this model and
    `embedding`, with which the last block differs. How much faster INT8 makes a layer is up to the device: time the
    result with `bench`. A search that was cut off continues from `<out>.search.json`.

    Args:
        target: An INT8 target, or a recipe file.
        budget: The least that the artifact has to reach on held-out tiles: `cosine_mean` or `cosine_p01`, and a number.
        out: The recipe to write, a `.toml` file.
        model: A name of `edgepath models`, `timm:NAME`, or a `.toml` file that describes a model.
        weights: As in `export`.
        calibration: As in `export`.
        calibration_tiles: Tiles to calibrate on, at most.
        embedding: As in `export`.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `skipped`.
        force: Replace an existing output.
        device: Where the full-precision model runs: `auto`, `cpu`, `cuda` or `cuda:INDEX`.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        Every layer's `drift` alone (1 - mean cosine) and `multiply_adds`; the `points` that were measured, with the
        cosines of program and artifact; and `kept`, the layers that stay in floating point.

    Raises:
        UsageError: The target has no INT8, the budget is unknown, a recipe is in the way, or even full precision does
            not meet the budget.
    """
    recipe, spec, out = find_recipe(target), find_model(model), Path(out)
    _check(recipe, budget, out, force)
    find(recipe.backend).require_to_build()
    stages = Stages(progress or silent)
    inputs = Inputs(weights, calibration, calibration_tiles, embedding, False, resize, skip_bad, device)
    ready = fitted(recipe, prepare(spec, inputs, stages), stages)
    ranges, plan = calibrated(recipe, ready.net, ready.chosen, ready.device, stages, of=ready.identity)
    judged = replace(recipe, accept=replace(recipe.accept, **dict(budget)))  # type: ignore[arg-type]
    tiles, exact = ready.held_out.read(), ready.reference.embeddings
    shared = _Shared(judged, ready.net, ranges, plan, tiles, exact, ready.exponents)
    state = _State(out, _key(recipe, ready))
    work, order = _measure_layers(shared, state, stages)
    with stages.stage("candidates", len(order).bit_length() + 3) as advance:
        kept = _fewest_kept(order, work, shared, state, stages, advance)
    _check_worth(target, kept, len(order), budget, state)
    assert kept is not None
    write_text(out, _mixed(judged, order[:kept], out.stem).to_toml(), "recipe")
    state.path.unlink(missing_ok=True)
    ran = state.points[str(kept)]["artifact"]
    return {
        "recipe": str(out),
        "target": recipe.target,
        "budget": dict(budget),
        "required": required(judged.accept),
        "kept": order[:kept],
        "layers": [{"layer": name, "drift": state.drift[name], "multiply_adds": work[name]} for name in order],
        "points": sorted(state.points.values(), key=lambda point: point["kept"]),
        "ran_with": None if ran is None else ran["ran_with"],
        "notes": notes(judged, None if ran is None else Runtime(**ran["runtime"], text=ran["ran_with"])),
        "held_out": ready.held_out.provenance(),
        "cost": stages.cost(),
    }


def parse_budget(pairs: Sequence[str]) -> dict[str, float]:
    """Read `KEY=VALUE` pairs. Raises UsageError."""
    budget = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            budget[key.strip()] = float(value)
        except ValueError:
            raise UsageError(f'--budget "{pair}": give a figure and a number, as cosine_p01=0.995') from None
    return budget


class _Kept(TypedDict):
    """The file of a search's state."""

    key: str
    drift: dict[str, float]
    points: dict[str, Point]


class _State:
    """What a search has measured so far, kept beside its recipe after every step."""

    def __init__(self, out: Path, key: str) -> None:
        self.path, self.key = out.with_name(f"{out.name}.search.json"), key
        self.drift: dict[str, float] = {}
        self.points: dict[str, Point] = {}
        if not self.path.exists():
            return
        try:
            known = check_facts(_Kept, read_json(self.path, _LARGEST), lambda problem: UsageError(problem))
            if known["key"] != key:
                raise ValueError("of another recipe, other tiles or weights, other packages or another CPU")
            self.drift, self.points = known["drift"], known["points"]
        except (ValueError, UsageError) as error:  # everything in it can be measured again
            _LOG.warning("search state %s: not gone on with (%s); all is measured anew", self.path.name, error)

    def keep(self) -> None:
        state = {"key": self.key, "drift": self.drift, "points": self.points}
        write_text(self.path, json.dumps(state) + "\n", "search state")


def _check(recipe: Recipe, budget: Mapping[str, float], out: Path, force: bool) -> None:
    if not recipe.int8:
        raise UsageError(f"search {recipe.target}: it has no INT8 layers to choose from; give an INT8 target")
    if not budget:
        raise UsageError(f"search {recipe.target}: no budget; give one, as --budget cosine_p01=0.995")
    for key, value in budget.items():
        if key not in FIGURES:
            raise UsageError(f'search {recipe.target}: budget "{key}" is not known; {did_you_mean(key, FIGURES)}')
        if not 0 < value < 1:
            raise UsageError(f"search {recipe.target}: budget {key}={value}; expected a cosine between 0 and 1")
    if recipe.quantize.keep:
        raise UsageError(f"search {recipe.target}: it already keeps layers; give a recipe without quantize.keep")
    if out.suffix != ".toml" or not NAME.fullmatch(out.stem) or not out.parent.is_dir():
        raise UsageError(
            f"search {recipe.target}: {out} is to be a recipe; give a name of letters, digits, . _ - that ends in "
            ".toml, in a folder that exists"
        )
    check_output(out, force=force)


def _key(recipe: Recipe, ready: Prepared) -> str:
    """Return the hash of all that what a search measures follows from."""
    tiles = [source.provenance()["sha256"] for source in (ready.chosen, ready.held_out)]
    depends_on = [versions(), cpu_features(), recipe.to_json(), ready.embedding, ready.weights.sha256, *tiles]
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def _check_worth(target: str, kept: int | None, layers: int, budget: Mapping[str, float], state: _State) -> None:
    """Raise UsageError where no candidate meets the budget, or only the one without INT8."""
    if kept is not None and kept < layers:
        return
    point = state.points[str(layers if kept is None else 0)]
    figures = _cosines(point, budget)
    if kept is None:
        raise UsageError(
            f"search {target}: the budget {_text(budget)} is not met even without INT8 ({figures}); give a smaller one"
        )
    if ran := point["artifact"]:
        figures = f"{figures} of the program; of the artifact, {', '.join([_cosines(ran, budget), *ran['failed']])}"
    raise UsageError(
        f"search {target}: only full precision meets the budget {_text(budget)}; all in INT8 it is {figures}: give a "
        "smaller one, or a target without INT8"
    )


def _cosines(of: Point | Ran, budget: Mapping[str, float]) -> str:
    cosines = {key: of[key] for key in FIGURES if key in budget}
    return ", ".join(f"{key} {'not finite' if value is None else f'{value:.6f}'}" for key, value in cosines.items())


def _measure_layers(shared: _Shared, state: _State, stages: Stages) -> tuple[dict[str, int], list[str]]:
    """Measure each product's drift alone; return its multiply-adds, and the order in which products are kept."""
    from .program.sensitivity import multiply_adds, sensitivities
    from .program.smooth import smooth

    smoothed, how = copy.deepcopy(shared.net), shared.recipe.quantize
    work = multiply_adds(smoothed)
    ranges = smooth(smoothed, shared.ranges, shared.plan, alpha=how.smooth_alpha)
    few = shared.tiles[[i * len(shared.tiles) // FEW for i in range(min(FEW, len(shared.tiles)))]]
    with stages.stage("layers", len(ranges.absmax)) as advance:
        advance(len(state.drift))
        arms = sensitivities(
            smoothed,
            ranges,
            few,
            plan=shared.plan,
            weight_bits=how.weight_bits,
            class_token=how.class_token,
            skip=tuple(state.drift),
        )
        for name, drift in arms:
            state.drift[name] = drift
            state.keep()
            advance(1)
    return work, sorted(work, key=lambda name: state.drift[name] / work[name], reverse=True)


def _fewest_kept(
    order: Sequence[str],
    work: Mapping[str, int],
    shared: _Shared,
    state: _State,
    stages: Stages,
    advance: Advance,
) -> int | None:
    """Return how many layers of `order` have to be kept, None where all of them are not enough.

    A candidate whose program misses is not good enough, whatever its artifact does, and programs are quick to judge: so
    the fewest are found for programs first, and artifacts are built from there on.
    """
    least, all_kept = required(shared.recipe.accept), len(order)
    expected = iter(range(all_kept.bit_length() + 2))  # more are measured where artifacts miss

    def met(count: int, *, built: bool) -> bool:
        known = state.points.get(str(count))
        built = built and count < all_kept  # the one without INT8 is never chosen
        if known is None or (built and not is_judged(known, shared.recipe)):
            share = 1 - sum(work[name] for name in order[:count]) / sum(work.values())
            known = state.points[str(count)] = _candidate(shared, order[:count], share, built, stages)
            state.keep()
        if next(expected, None) is not None:
            advance(1)
        return not missed(known, least)

    def between(misses: int, enough: int, *, built: bool) -> int:
        while enough - misses > 1:
            middle = (misses + enough) // 2
            misses, enough = (misses, middle) if met(middle, built=built) else (middle, enough)
        return enough

    first = 0
    if not met(0, built=False):
        if not met(all_kept, built=False):
            return None
        first = between(0, all_kept, built=False)
    if met(first, built=True):
        return first
    misses, step = first, 1
    while misses + step < all_kept:
        if met(misses + step, built=True):
            return between(misses, misses + step, built=True)
        misses, step = misses + step, 2 * step
    return between(misses, all_kept, built=True) if met(all_kept, built=False) else None


def _candidate(shared: _Shared, kept: Sequence[str], share: float, build: bool, stages: Stages) -> Point:
    """Measure the program that keeps these layers and, where it is good enough, with `build`, its artifact."""
    from .program.forms import Program

    recipe = replace(shared.recipe, quantize=replace(shared.recipe.quantize, keep=tuple(kept)))
    program = Program(make_program(recipe, copy.deepcopy(shared.net), shared.ranges, shared.plan), recipe)
    point = program_point(program, shared.tiles, shared.exact, len(kept), share, stages)
    if build and not is_judged(point, recipe):
        point["artifact"] = run_candidate(program, recipe, shared.tiles, shared.exact, shared.rescaled, stages)
    return point


def _mixed(recipe: Recipe, kept: Sequence[str], name: str) -> Recipe:
    """Return the recipe that keeps these layers."""
    return replace(
        recipe,
        target=name,
        summary=f"{recipe.summary}, {len(kept)} products kept in {recipe.precision.other.upper()}",
        quantize=replace(recipe.quantize, keep=tuple(sorted(kept))),
    )


def _text(budget: Mapping[str, float]) -> str:
    return ", ".join(f"{key}={value}" for key, value in budget.items())
