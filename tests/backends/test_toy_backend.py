"""A new target is one recipe and at most one module: one is made here, and no other file knows of it."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import edgepath
from edgepath.backends import backend
from edgepath.models.catalogue import ModelSpec

MODULE = '''
"""An ONNX file under another name, run node by node."""

import onnx
from onnx.reference import ReferenceEvaluator

from edgepath.backends import Backend, Builds, register
from edgepath.backends.onnx.layers import layers
from edgepath.backends.onnx.parts import read


def build(program, folder, recipe):
    path = folder / "model.toy"
    path.write_bytes(program.onnx().SerializeToString())
    return path


class Runner:
    def __init__(self, artifact):
        model = onnx.load_model_from_string(artifact.read_bytes())
        self._evaluator = ReferenceEvaluator(model)
        self.size = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        self.runtime = "a toy"

    def __call__(self, tiles):
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles):
        return dict(zip(self._evaluator.output_names, self._evaluator.run(None, {"tiles": tiles}), strict=True))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


register(
    Backend(
        name="toy",
        title="Toy",
        package="onnx",
        extra="export",
        runner=__name__,
        builds=Builds(
            build=build,
            needs="onnx",
            precisions=(("int8", "fp32"),),
            checked_with="toy",
            suffix=".toy",
            read=read,
            layers=layers,
            reads_with=("onnx", "export"),
        ),
    )
)
'''
RECIPE = """
schema = 1
target = "toy-int8"
summary = "a target that no file of edgepath names"
backend = "toy"
checked_with = "toy"
precision = { linear = "int8", other = "fp32" }
quantize = { looks = 0 }
deploy = { devices = ["this machine"] }
accept = { cosine_mean = 0.99, cosine_p01 = 0.98 }
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The one module, imported, and the recipe's path."""
    (tmp_path / "toy_backend.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "toy-int8.toml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(backend, "_KNOWN", dict(backend._KNOWN))
    importlib.import_module("toy_backend")
    return str(tmp_path / "toy-int8.toml")


def test_one_module_and_one_recipe_are_a_target(toy: str, known_tiny: ModelSpec, tmp_path: Path) -> None:
    given = {"weights": "random", "device": "cpu"}
    done = edgepath.export(
        toy, model=known_tiny.name, calibration="synthetic:22", calibration_tiles=16, out=tmp_path, **given
    )
    assert done.passed
    assert done.report["runtime"]["kind"] == "toy"
    bundle = edgepath.open_bundle(done.bundle.path)
    found = edgepath.verify(bundle, tiles="synthetic:2:5", **given)
    assert found["passed"]
    assert found["tiles"]["differences"] == []
    written = edgepath.embed(bundle, "synthetic:3:9", out=tmp_path / "features.npz")
    assert (written["tiles"], written["ran_with"]) == (3, "a toy")
    with np.load(tmp_path / "features.npz") as file, bundle.runner() as runner:
        pixels = edgepath.open_tiles("synthetic:3:9").read()
        np.testing.assert_array_equal(file["embeddings"], runner(pixels))
