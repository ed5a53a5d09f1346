"""Measure what targets cost the trained `demo` student in robustness and on tasks: one JSON, and the README's plot.

    python benchmarks/robustness_demo.py ../shared/tiles --out build/robustness-demo

TILES has the folders `oral_oscc` (calibrated on, and a task), `osteosarcoma` (a task) and `scanners4_registered_cyto`.
Bundles and full-precision embeddings are kept in OUT; run again, the command uses them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustness_plot import draw

import edgepath
from edgepath.errors import EdgepathError
from edgepath.machine.hardware import machine
from edgepath.machine.packages import versions
from edgepath.machine.writing import replacing
from edgepath.models.catalogue import find_model
from edgepath.models.weights import load_model
from edgepath.quality.both_models import ARTIFACT, FULL
from edgepath.quality.probing import probe
from edgepath.quality.robustness import robustness

TARGETS = ("openvino-fp16", "openvino-int8", "onnx-int8")
CALIBRATED, PLACES = 128, 16
TASKS = ("osteosarcoma", "oral_oscc")
SCANNERS = "scanners4_registered_cyto"


def medians(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return an artifact's medians, what it lost most in, and the verdict."""
    worst = {
        figure: max((gate for gate in result["gates"] if gate["gate"] == figure), key=lambda gate: gate["measured"])
        for figure in sorted({gate["gate"] for gate in result["gates"]})
    }
    lost = {figure: {"lost": gate["measured"], "of": gate["of"]} for figure, gate in worst.items()}
    return {**result["figures"][ARTIFACT], "lost most": lost, "passed": result["passed"]}


def task(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return an artifact's scores, how many predictions changed, and the verdict."""
    scores = {method: of[ARTIFACT] for method, of in result["scores"].items()}
    seen = [note for note in result["notes"] if "calibrated on" in note]
    return {**scores, "predictions changed": len(result["flips"]), "passed": result["passed"], "notes": seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tiles", type=Path, help="the folder of real tiles")
    parser.add_argument("--out", type=Path, required=True, help="folder of bundles, JSON and plot")
    options = parser.parse_args()
    tiles, out = options.tiles, options.out
    found: dict[str, Any] = {
        "schema": 1,
        "model": "demo, trained",
        "weights": load_model(find_model("demo"))[2].sha256,
        "calibrated on": f"{CALIBRATED} tiles of {TASKS[1]}, and the recipe's looks",
        "machine": machine() | {"versions": versions()},
        "synthetic": {},
        "four scanners": {},
        "tasks": {name: {} for name in TASKS},
    }
    drawn = []
    for target in TARGETS:
        folder = out / f"demo-{target}"
        if not folder.exists():
            calibration = tiles / TASKS[1]
            edgepath.export(target, calibration=calibration, calibration_tiles=CALIBRATED, out=out, device="cpu")
        for name, how in (("synthetic", {"tiles": PLACES}), ("four scanners", {"paired": tiles / SCANNERS})):
            result = robustness(folder, features=out / "features", device="cpu", **how)
            found[name].update({FULL: result["figures"][FULL], target: medians(result)})
            if name == "synthetic":
                drawn.append(result)
        for name in TASKS:
            probed = probe(folder, tiles / name, device="cpu")
            full = {method: of[FULL] for method, of in probed["scores"].items()}
            found["tasks"][name].update({FULL: full, target: task(probed)})
        print(f"{target}: measured", flush=True)
    with replacing(out / "robustness-demo.json", "figures") as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(drawn, out / "robustness-demo.svg")


if __name__ == "__main__":
    try:
        main()
    except EdgepathError as error:
        raise SystemExit(f"robustness_demo: {error}") from None
