"""Measure what doing less work costs and wins: token merging, and 2:4 sparsity with distillation. One JSON.

    python benchmarks/less_work.py TILES --out build/less-work [--small dinov2-small.safetensors] [--only STEP ...]

TILES has the folders `oral_oscc` (128 of its tiles are calibrated on; a task), `osteosarcoma` (a task) and
`scanners4_registered_cyto`; drift is measured on all tiles that were not calibrated on. Steps that the JSON holds are
not measured again. `curve` runs in torch, `accept` and `sparsity` judge OpenVINO's INT8 artifacts by the gates of
`openvino-int8`, `latency` times artifacts in turn, `engine` builds for TensorRT-RTX where that is installed.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sparsity import engine, keeping_zeros, prune, share_of_zeros
from token_merging import merging, work_left

from edgepath.backends import builds_of
from edgepath.backends.runners import openvino
from edgepath.bundle.running import embed_all
from edgepath.checks.drift import cosines
from edgepath.checks.gates import Gate, drift_gates
from edgepath.machine.hardware import machine
from edgepath.machine.inference import inference
from edgepath.machine.packages import versions
from edgepath.machine.progress import Stages, silent
from edgepath.machine.writing import write_text
from edgepath.models.catalogue import find_model
from edgepath.models.weights import load_model
from edgepath.program.calibrating import calibrated
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.forms import Program
from edgepath.program.qad import Options, repair
from edgepath.program.quantizing import make_program
from edgepath.program.smooth import smooth
from edgepath.program.split_projections import twin
from edgepath.quality import probing, robustness
from edgepath.quality.both_models import ARTIFACT, FULL
from edgepath.quality.labelled import open_labelled
from edgepath.quality.pairs import ByPlace, pairs
from edgepath.quality.plism import compare_places, prepare
from edgepath.quality.slides import paired_slides
from edgepath.recipes.recipe import Precision, find_recipe
from edgepath.speed.pinning import pinned
from edgepath.speed.timing import in_turn
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.source import TileSource

RECIPE = find_recipe("openvino-int8")
CALIBRATED, CURVE, QAD, THREADS = 128, 128, 100, 2
TASKS, SCANNERS = ("osteosarcoma", "oral_oscc"), "scanners4_registered_cyto"
SMALL = "timm:vit_small_patch14_dinov2"


def counts(first: int, each: int) -> tuple[int, ...]:
    """Return how many patches each of 12 blocks merges: `each` from block `first` (of 0 to 11) on, the last none."""
    return tuple(each if first <= block < 11 else 0 for block in range(12))


SCHEDULES = {
    **{f"{each} in every block": counts(0, each) for each in (4, 8, 12)},
    **{f"{each} from block {first}": counts(first, each) for first in (4, 5, 6) for each in (16, 20, 24, 28)},
    **{
        f"{each} in block {at}": counts(at, each)[: at + 1] + (0,) * (11 - at)
        for at, each in ((4, 64), (6, 96), (8, 126))
    },
}
ACCEPTED = ("20 from block 4", "24 from block 4", "28 from block 5")


class Measured:
    """The tiles, and one model on them in full precision."""

    def __init__(self, tiles: Path, model: str, weights: str | Path | None) -> None:
        self.root, self.source = tiles, open_tiles(tiles)
        self.pixels = self.source.read()
        vit, spec, self.weights = load_model(find_model(model), weights)
        self.net = fold(vit, spec)
        folder = open_tiles(tiles / TASKS[1])
        chosen = [i * len(folder) // CALIBRATED for i in range(CALIBRATED)]
        self.calibration = folder.select(chosen)
        known = {f"{TASKS[1]}/{key}" for key in self.calibration.keys}
        self.unseen = np.array([key not in known for key in self.source.keys])
        self.exact = embed(self.net, self.pixels)

    def spread(self, count: int) -> np.ndarray:
        """Return rows of so many tiles, evenly spread."""
        return np.arange(count) * len(self.pixels) // count

    def rows(self, prefix: str, keys: Sequence[str]) -> list[int]:
        """Return the rows of tiles by their names below a folder."""
        place = {key: row for row, key in enumerate(self.source.keys)}
        return [place[f"{prefix}/{key}"] for key in keys]

    def judge(self, embeddings: np.ndarray) -> dict[str, Any]:
        """Hold all tiles' embeddings, float32 (N, D), against the recipe's gates."""
        cosine = cosines(self.exact[self.unseen], embeddings[self.unseen])
        both = {FULL: self.exact, ARTIFACT: embeddings}
        found = {"drift": drift_gates(RECIPE, "total", cosine), "robustness": self._robust(both)}
        found |= {f"probe, {task}": self._probed(task, both) for task in TASKS}
        return {name: [_short(gate) for gate in gates] for name, gates in found.items()}

    def _robust(self, both: Mapping[str, np.ndarray]) -> list[Gate]:
        slides = paired_slides(self.root / SCANNERS)
        looks = [(slide.staining, slide.scanner) for slide in slides.slides]
        places: dict[str, ByPlace] = {name: ByPlace() for name in both}
        for name, embeddings in both.items():
            of = [
                prepare(embeddings[self.rows(f"{SCANNERS}/{slide.name}", slide.tiles.keys)], slide.name)
                for slide in slides.slides
            ]
            for i, j, group in pairs(looks):
                places[name].add(group, (looks[i], looks[j]), compare_places(of[i], of[j]))
        return robustness.gates(RECIPE, places[FULL], places[ARTIFACT])

    def _probed(self, task: str, both: Mapping[str, np.ndarray]) -> list[Gate]:
        given = open_labelled(self.root / task)
        labels, groups = given.of(given.source.keys)
        rows = self.rows(task, given.source.keys)
        _, predictions = probing._score({name: of[rows] for name, of in both.items()}, labels, groups, 5, 0)
        return probing.gates(RECIPE, labels, predictions, groups)


def embed(net: EdgeModel, pixels: np.ndarray) -> np.ndarray:
    """Embed in torch, in full precision."""
    with inference():
        return embed_all(lambda tiles: net(torch.from_numpy(tiles)).numpy(), pixels, lambda _: None)


def repaired(net: EdgeModel, teacher: EdgeModel, calibration: TileSource) -> EdgeModel:
    """Return the INT8 program of a pruned model, trained towards the one that was not; weights move as at 4 bits."""
    ranges, plan = calibrated(RECIPE, net, calibration, "cpu", Stages(silent))
    ranges = smooth(net, ranges, plan, alpha=RECIPE.quantize.smooth_alpha)
    options = Options(steps=QAD, learning_rate=16 * Options(QAD).learning_rate)
    with keeping_zeros():
        return repair(net, ranges, calibration.read(), copy.deepcopy(teacher), options, plan=plan)[0]


def quantized(net: EdgeModel, calibration: TileSource, looks: int = RECIPE.quantize.looks) -> EdgeModel:
    """Return the INT8 program of a folded model, which stays as it is."""
    recipe, net = replace(RECIPE, quantize=replace(RECIPE.quantize, looks=looks)), copy.deepcopy(net)
    ranges, plan = calibrated(recipe, net, calibration, "cpu", Stages(silent))
    return make_program(recipe, net, ranges, plan)


def built(program: EdgeModel, folder: Path, linear: str = "int8") -> Path:
    """Build OpenVINO's artifact of a program, or of a model in FP32."""
    recipe = replace(RECIPE, precision=Precision(linear, "fp32"))  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    return builds_of("openvino").build(Program(program, recipe), folder, recipe)


def embedded(artifact: Path, pixels: np.ndarray) -> np.ndarray:
    """Embed with an artifact."""
    with openvino.Runner(artifact, threads=THREADS) as run:
        return embed_all(run, pixels, lambda _: None)


def curve(of: Measured) -> dict[str, Any]:
    """Return each schedule's drift in full precision: merging alone."""
    rows, found = of.spread(CURVE), {}
    for name, merged in SCHEDULES.items():
        cosine = cosines(of.exact[rows], embed(merging(twin(of.net), merged), of.pixels[rows]))
        found[name] = {"work": work_left(of.net, merged), "n": CURVE}
        found[name] |= {"cosine_mean": float(cosine.mean()), "cosine_p01": float(np.quantile(cosine, 0.01))}
    return found


def accept(of: Measured, out: Path) -> dict[str, Any]:
    """Return what the gates say of INT8 artifacts, without merging and with it."""
    plain, found = quantized(of.net, of.calibration), {}
    for name, merged in {"no merging": (0,) * 12, **{name: SCHEDULES[name] for name in ACCEPTED}}.items():
        file = built(merging(twin(plain), merged), out / name.replace(" ", "-"))
        found[name] = of.judge(embedded(file, of.pixels))
    return found


def sparse(of: Measured, out: Path) -> dict[str, Any]:
    """Return what the gates say of 2:4 sparsity in full precision, and in INT8 after distillation."""
    found: dict[str, Any] = {}
    pixels = of.calibration.read()[::2]
    net = prune(copy.deepcopy(of.net), pixels)
    found["all linears, full precision"] = of.judge(embed(net, of.pixels))
    net = prune(copy.deepcopy(of.net), pixels, "mlp")
    found["MLPs, full precision"] = of.judge(embed(net, of.pixels))
    program = repaired(net, of.net, of.calibration)
    file = built(program, out / "sparse")
    how = f"MLPs, INT8, {QAD} steps of distillation"
    found[how] = of.judge(embedded(file, of.pixels)) | {"groups with two zeros": share_of_zeros(program)}
    return found


def built_for_gpus(tiles: Path, out: Path) -> dict[str, Any]:
    """Return what TensorRT-RTX makes of the demo model's sparse weights."""
    import onnx

    vit, spec, _ = load_model(find_model("demo"))
    few = open_tiles(tiles / TASKS[1]).select(range(16))
    program = quantized(prune(fold(vit, spec), few.read()), few, looks=0)
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(Program(program, find_recipe("rtx-int8")).onnx_fp16(), out / "pruned.onnx")
    return engine(out / "pruned.onnx")


def latency(model: str, weights: str | Path | None, tiles: Path, out: Path) -> dict[str, Any]:
    """Return the time that artifacts take of the one without merging, and a sparse one of a dense one, in turn."""
    vit, spec, _ = load_model(find_model(model), weights)
    net = fold(vit, spec)
    few = open_tiles(tiles / TASKS[1]).select(range(16))
    files = {}
    for linear, of in (("fp32", net), ("int8", quantized(net, few, looks=0))):
        files[f"plain, {linear}"] = built(of, out / f"plain-{linear}", linear)
        for name in ACCEPTED:
            files[f"{name}, {linear}"] = built(merging(twin(of), SCHEDULES[name]), out / f"{name}-{linear}", linear)
    files["2:4, int8"] = built(quantized(prune(copy.deepcopy(net), few.read()), few, looks=0), out / "sparse")
    tile = few.read([0])
    with pinned(THREADS), ExitStack() as stack:
        runners = {name: stack.enter_context(openvino.Runner(file, threads=THREADS)) for name, file in files.items()}
        times = in_turn({name: partial(run, tile) for name, run in runners.items()}, rounds=40, seconds=10)
    found: dict[str, Any] = {"n": len(times["plain, int8"]), "batch": 1, "threads": THREADS}
    for name, samples in times.items():
        share = samples / times[f"plain, {name.rpartition(' ')[2]}"]
        found[name] = {
            "ms": _round(np.median(samples)),
            "of plain": [_round(np.quantile(share, q)) for q in (0.25, 0.5, 0.75)],
        }
    return found


def _round(value: Any) -> float:
    return round(float(value), 4)


def _short(gate: Gate) -> dict[str, Any]:
    return {
        "gate": gate.figure,
        "of": gate.of,
        "measured": round(gate.measured, 6),
        "bound": gate.bound,
        "verdict": gate.verdict.value,
        "n": gate.n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", type=Path, help="the folder of real tiles")
    parser.add_argument("--out", type=Path, required=True, help="folder of artifacts and JSON")
    parser.add_argument("--small", type=Path, help="weights of timm's vit_small_patch14_dinov2")
    parser.add_argument(
        "--only", nargs="*", default=[], help="steps to measure, as the JSON names them; all by default"
    )
    given = parser.parse_args()
    file = given.out / "less-work.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    models: dict[str, Path | None] = {"demo": None} | ({"dinov2-small": given.small} if given.small else {})
    kept: dict[str, Measured] = {}

    def of(name: str) -> Measured:
        if name not in kept:
            kept[name] = Measured(given.tiles, SMALL if name == "dinov2-small" else name, models[name])
        return kept[name]

    steps: dict[str, Callable[[], Any]] = {}
    for name in models:
        steps[f"curve, {name}"] = partial(lambda name: curve(of(name)), name)
        steps[f"accept, {name}"] = partial(lambda name: accept(of(name), given.out / name), name)
    steps["sparsity, demo"] = lambda: sparse(of("demo"), given.out / "demo")
    for name, weights in (("demo", None), ("h0-mini", "random")):
        steps[f"latency, {name}"] = partial(latency, name, weights, given.tiles, given.out / f"latency-{name}")
    if importlib.util.find_spec("tensorrt_rtx_bindings"):
        steps["engine, demo"] = partial(built_for_gpus, given.tiles, given.out)
    for name, measure in steps.items():
        if name not in found and (not given.only or name in given.only):
            found |= {"schema": 1, "machine": machine() | {"versions": versions()}, name: measure()}
            given.out.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(found, indent=1) + "\n", "figures")
            print(f"{name}: measured", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    main()
