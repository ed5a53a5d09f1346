"""TensorRT on NVIDIA Jetson: explicit-QDQ ONNX with FP16 tensors, and the plan to build its engine on the device.

Engines do not move between GPU architectures, so the bundle holds the graph and `plan.json`; the engine is built where it
runs. `Runner` stands alone (NumPy, tensorrt and polygraphy only): the same file is copied into a bundle's kit.
"""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = "tensorrt"
EXTRA = "tensorrt"
STRONG_TYPING_COMPLETE = (10, 12)
BATCHES = {"min": 1, "opt": 1, "max": 16}


def build(program: Any, folder: Path, recipe: Any) -> Path:
    """Write `model.onnx` (FP16 tensors, INT8 Q/DQ as in the program) and `plan.json` into `folder`; return the former."""
    import onnx

    path = folder / "model.onnx"
    onnx.save(program.onnx_fp16(), path)
    size = program.model.size
    shapes = {name: [batch, size, size, 3] for name, batch in BATCHES.items()}
    plans = [_plan(plan, shapes) for plan in recipe.deploy.plan]
    (folder / "plan.json").write_text(json.dumps({"schema": 1, "shapes": shapes, "plans": plans}, indent=2) + "\n")
    return path


def _plan(plan: Any, shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    command = ["trtexec", "--onnx=model.onnx", "--saveEngine=model.engine", *plan.flags]
    command += [f"--{name}Shapes=tiles:{'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    return {
        "release": plan.release,
        "runtime": plan.runtime,
        "strongly_typed": plan.strongly_typed,
        "trtexec": " ".join(command),
        "source": plan.source,
    }


class Runner:
    """Embeds tiles on a Jetson: `uint8 (N, S, S, 3) -> float32 (N, D)`, N up to the plan's largest batch.

    Builds the engine at first use and keeps it beside the artifact's folder in `cache`, named by the hash of the graph,
    the TensorRT version and the GPU. Use it in a `with` block. Not run by edgepath's own tests: they have no Jetson.
    """

    def __init__(self, artifact: Path, *, cache: Path | None = None) -> None:
        import tensorrt
        from polygraphy.backend.trt import TrtRunner

        plan = json.loads((artifact.parent / "plan.json").read_text())
        engine = _engine(artifact, plan, cache or Path.home() / ".cache" / "edgepath" / "engines")
        self._runner = TrtRunner(engine)
        self._runner.activate()
        self._largest = int(plan["shapes"]["max"][0])
        self.runtime = f"TensorRT {tensorrt.__version__}"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return every output by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width)."""
        parts = []
        for start in range(0, len(tiles), self._largest):
            feed = {"tiles": np.ascontiguousarray(tiles[start : start + self._largest])}
            parts.append({name: np.array(value) for name, value in self._runner.infer(feed).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.deactivate()


def _engine(artifact: Path, plan: Mapping[str, Any], cache: Path) -> Any:
    """Return the engine of `artifact` for this GPU and TensorRT, built once."""
    import tensorrt
    from polygraphy.backend.common import bytes_from_path
    from polygraphy.backend.trt import (
        CreateConfig,
        Profile,
        engine_from_bytes,
        engine_from_network,
        network_from_onnx_path,
        save_engine,
    )

    version = tuple(int(part) for part in tensorrt.__version__.split(".")[:2])
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()[:16]
    path = cache / f"{digest}-tensorrt{tensorrt.__version__}-{_board()}.engine"
    if path.exists():
        return engine_from_bytes(bytes_from_path(str(path)))
    strong = version >= STRONG_TYPING_COMPLETE
    weak = {} if strong else {"fp16": True, "int8": True}
    profile = Profile().add("tiles", *(tuple(plan["shapes"][name]) for name in ("min", "opt", "max")))
    network = network_from_onnx_path(str(artifact), strongly_typed=strong)
    engine = engine_from_network(network, config=CreateConfig(profiles=[profile], **weak))
    cache.mkdir(parents=True, exist_ok=True)
    return save_engine(engine, str(path))


def _board() -> str:
    """Return the Jetson's model as its firmware names it: engines do not move between GPU architectures."""
    model = Path("/proc/device-tree/model")
    name = model.read_text() if model.exists() else platform.node()
    return "".join(letter if letter.isalnum() else "-" for letter in name.strip("\0 "))
