"""Whole programs from disk: what each value is stored as, what overflows, what is not known."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgepath.backends.runners.mil import Runner
from edgepath.checks.drift import measure
from edgepath.errors import BundleError, EdgepathError
from edgepath.models.weights import load_model

TILES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
MODEL = Path("Data", "com.apple.CoreML", "model.mlmodel")


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Path]:
    """Save a module of (1, 3, 8, 8) pixels as an FP16 package."""

    def converted(module: nn.Module, size: int = 8) -> Path:
        import coremltools

        exported = torch.export.export(module.eval(), (torch.zeros(1, 3, size, size),)).run_decompositions({})
        shape = (1, 3, size, size)
        package = coremltools.convert(
            exported,
            inputs=[coremltools.ImageType(name="tile", shape=shape, color_layout=coremltools.colorlayout.RGB)],
            outputs=[coremltools.TensorType(name="embedding", dtype=np.float32)],
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS18,
            skip_model_load=True,
        )
        package.save(str(tmp_path / "model.mlpackage"))
        return tmp_path / "model.mlpackage"

    return converted


class Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.function(pixels)


def pixels(tiles: np.ndarray) -> np.ndarray:
    return tiles.transpose(0, 3, 1, 2).astype(np.float64)


def test_values_are_rounded_after_each_operation(convert: Callable[..., Path]) -> None:
    path = convert(Function(lambda x: ((x * 1.37 + 2049.5) * x).flatten(1)))
    x = pixels(TILES).reshape(3, -1).astype(np.float16)
    with np.errstate(over="ignore"):  # NumPy rounds each to FP16; infinite above 65504
        half = (x * np.float16(1.37) + np.float16(2049.5)) * x
    wide = (x.astype(np.float64) * float(np.float16(1.37)) + float(np.float16(2049.5))) * x
    with Runner(path) as runner:
        np.testing.assert_array_equal(runner(TILES), half.astype(np.float32))
    with Runner(path, fp32=True) as runner:
        found = runner(TILES)
    np.testing.assert_allclose(found, wide, rtol=1e-6)
    assert (np.isinf(half) & np.isfinite(found)).any()


def test_overflow_is_seen_and_no_drift_is_given_for_it(convert: Callable[..., Path]) -> None:
    path = convert(Function(lambda x: torch.nn.functional.layer_norm((x + 1) * 40000, (8,)).flatten(1)))
    with Runner(path, fp32=True) as runner:
        wanted = runner(TILES)
    with Runner(path) as runner:
        found = runner(TILES)
    assert np.isfinite(wanted).all()
    assert not np.isfinite(found).all()
    with pytest.raises(
        EdgepathError, match=r"the candidate embedding of tile 0 is not finite or zero \(3 such tiles\)"
    ):
        measure(wanted, found)


def test_operation_that_is_not_known_is_named_with_its_place(convert: Callable[..., Path]) -> None:
    path = convert(Function(lambda x: torch.cumsum(x.flatten(1), dim=1)))
    with pytest.raises(
        BundleError, match=r'^model\.mlpackage: "cumsum" \(.+, operation \d of \d\): this operation is not evaluated'
    ):
        Runner(path)


def respecified(path: Path, change: Callable[[Any], object]) -> Path:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((path / MODEL).read_bytes())
    function = spec.mlProgram.functions["main"]
    change(function.block_specializations[function.opset].operations)
    (path / MODEL).write_bytes(spec.SerializeToString())
    return path


def test_program_that_contradicts_itself_is_refused(convert: Callable[..., Path], tmp_path: Path) -> None:
    path = convert(Function(lambda x: (x * 1.37).flatten(1)))

    def altered(change: Callable[[Any], object]) -> Path:
        shutil.rmtree(tmp_path / "altered", ignore_errors=True)
        return respecified(Path(shutil.copytree(path, tmp_path / "altered")), change)

    def mul(operations: Any) -> Any:
        return next(operation for operation in operations if operation.type == "mul")

    def parameter(operations: Any) -> None:
        mul(operations).inputs["alpha"].CopyFrom(mul(operations).inputs["y"])

    def shape(operations: Any) -> None:
        mul(operations).outputs[0].type.tensorType.dimensions[1].constant.size = 4

    def nothing(operations: Any) -> None:
        mul(operations).inputs["x"].arguments[0].name = "nobody"

    with pytest.raises(BundleError, match=r'"mul" .*parameter alpha is not evaluated; known: x, y'):
        Runner(altered(parameter))
    for change, said in (
        (shape, r'"mul" .*: gives \[\(1, 3, 8, 8\)\]; \[\(1, 4, 8, 8\)\] is declared'),
        (nothing, "nobody"),
    ):
        with Runner(altered(change)) as runner, pytest.raises(BundleError, match=said):
            runner(TILES)


class Unfused(nn.Module):
    """Attention as many exports have it: matmul, softmax, matmul; then a tanh GELU."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x / 255).transpose(1, 2).flatten(2)
        q, k, v = self.qkv(x).reshape(1, 8, 3, 2, 12).permute(2, 0, 3, 1, 4).unbind(0)
        attended = ((q @ k.transpose(-2, -1)) * 12**-0.5).softmax(dim=-1) @ v
        x = torch.nn.functional.gelu(attended.transpose(1, 2).reshape(1, 8, 24), approximate="tanh")
        return self.out(x).mean(dim=1)


def test_attention_that_is_not_fused(convert: Callable[..., Path]) -> None:
    module = Unfused()
    path = convert(module)
    with torch.no_grad():
        wanted = torch.cat([module(torch.from_numpy(pixels(TILES[i : i + 1])).float()) for i in range(3)]).numpy()
    with Runner(path) as runner:
        kinds = {operation.kind for operation in runner._program.operations}
        found = runner(TILES)
    assert {"matmul", "softmax", "gelu"} <= kinds
    np.testing.assert_allclose(found, wanted, atol=5e-3)  # a dozen roundings to 11 bits of numbers near 1
    assert np.abs(found - wanted).max() > 0


@pytest.mark.slow
def test_gelu_model_of_timm(tmp_path: Path, tiles: np.ndarray) -> None:
    from edgepath.backends import builds_of
    from edgepath.models.catalogue import find_model
    from edgepath.program.fold import fold
    from edgepath.program.forms import Program
    from edgepath.recipes.recipe import find_recipe

    spec = find_model("timm:vit_tiny_patch16_224")
    vit, spec, _ = load_model(spec, "random")
    program = Program(fold(vit, spec))
    builds_of("coreml").build(program, tmp_path, find_recipe("coreml-fp16"))
    with Runner(tmp_path / "model.mlpackage", threads=2) as runner:
        assert sum(operation.kind == "gelu" for operation in runner._program.operations) == 12
        # FP16's 11 bits through twelve blocks: measured 0.999998.
        assert measure(program(tiles[:2]), runner(tiles[:2])).cosine_min > 0.99999


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"global_pool": "avg", "depth": 2, "qk_norm": True}),
        ("vit_so150m_patch16_reg4_gap_256", {"depth": 1, "embed_dim": 96, "num_heads": 3}),
    ],
    ids=["vit, GELU, pooled, a head", "vit, registers, pooled"],
)
def test_other_models_of_timm(convert: Callable[..., Path], name: str, arguments: dict[str, Any]) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, img_size=64, **arguments)
    scaled = nn.Sequential(Function(lambda values: (values / 255 - 0.5) / 0.5), model).eval()
    tiles = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)
    with torch.inference_mode():
        wanted = scaled(torch.from_numpy(tiles).permute(0, 3, 1, 2).float()).numpy()
    with Runner(convert(scaled, 64), threads=1) as runner:
        assert measure(wanted, runner(tiles)).cosine_min > 0.9999  # FP16 of an untrained model: measured 0.9999996
