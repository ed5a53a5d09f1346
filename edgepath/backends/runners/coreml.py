"""Core ML on Apple devices: an ML program, `model.mlpackage`, that takes an RGB image.

Building works on any machine; running needs macOS. `Runner` stands alone (NumPy, Pillow and coremltools only): the same
file is copied into a bundle's kit and runs there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGE = "coremltools"
EXTRA = "coreml"


def build(program: Any, folder: Path, recipe: Any) -> Path:
    """Convert the program behind an image input and write `model.mlpackage` into `folder`; return its path.

    Core ML cannot scale an image's colours one by one, which is why the normalisation had to be folded before.
    """
    import coremltools

    size = program.model.size
    image = coremltools.ImageType(name="tile", shape=(1, 3, size, size), color_layout=coremltools.colorlayout.RGB)
    outputs = [coremltools.TensorType(name=name, dtype=np.float32) for name in program.outputs]
    precision = getattr(coremltools.precision, f"FLOAT{recipe.precision.other[2:]}")
    package = coremltools.convert(
        program.image_program().run_decompositions({}),
        inputs=[image],
        outputs=outputs,
        convert_to="mlprogram",
        compute_precision=precision,
        minimum_deployment_target=getattr(coremltools.target, recipe.deploy.minimum_os),
        skip_model_load=True,
    )
    package.author, package.short_description = "edgepath", f"{recipe.target}: RGB tile -> embedding"
    path = folder / "model.mlpackage"
    package.save(str(path))
    return path


class Runner:
    """Embeds tiles with a Core ML package: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block, on macOS.

    `compute` is coremltools' compute unit: `ALL`, `CPU_ONLY`, `CPU_AND_GPU` or `CPU_AND_NE`.
    """

    def __init__(self, artifact: Path, *, compute: str = "ALL") -> None:
        host: str = sys.platform
        if host != "darwin":
            raise OSError(f"Core ML runs only on macOS, this is {host}; the bundle is complete, open it there")
        import coremltools

        self._model = coremltools.models.MLModel(str(artifact), compute_units=coremltools.ComputeUnit[compute])
        self.size = int(self._model.get_spec().description.input[0].type.imageType.width)
        self.runtime = f"Core ML through coremltools {coremltools.__version__}, {compute}"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return every output by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width).

        The package takes one image a call, so the batch is a loop here.
        """
        from PIL import Image

        _check(tiles, self.size)
        rows = [self._model.predict({"tile": Image.fromarray(tile)}) for tile in tiles]
        return {name: np.concatenate([row[name] for row in rows]).astype(np.float32) for name in rows[0]}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        del self._model


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        found = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {found}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")
