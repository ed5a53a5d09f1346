"""One contract for every runner, `uint8 (N, S, S, 3) -> float32 (N, D)`, and what each vendor's artifact holds."""

from __future__ import annotations

import ast
import collections
import copy
import importlib
import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgepath.backends import builds_of
from edgepath.backends.runners import (
    coreai,
    coreml,
    executorch,
    exported,
    mil,
    onnxruntime,
    openvino,
    tensorrt,
    tensorrt_rtx,
)
from edgepath.checks.drift import measure
from edgepath.errors import BundleError
from edgepath.models import reference
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import calibrate
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.formats import FP8
from edgepath.program.forms import Program
from edgepath.program.linear import quantize
from edgepath.program.smooth import smooth
from edgepath.recipes.recipe import find_recipe

BACKENDS = {"coreml": coreml, "onnxruntime": onnxruntime, "openvino": openvino, "tensorrt": tensorrt}
BACKENDS |= {"tensorrt_rtx": tensorrt_rtx, "coreai": coreai, "executorch": executorch}
MODULES = {**BACKENDS, "reference": reference, "mil": mil, "exported": exported}
# The evaluator and the full-precision model go into no kit.
ALONE = [*BACKENDS, "exported"]
# Of two blocks. INT8 artifacts here keep the tokens, so their last block is whole.
BLOCK_LINEARS, NORMS = 8, 5

# What the contract is held to: an artifact, and the backend that runs it; those that cannot run here say why.
RUNNERS = {
    "reference": ("", "reference"),
    "onnx-fp32": ("onnx-fp32", "onnxruntime"),
    "onnx-int8": ("onnx-int8", "onnxruntime"),
    "jetson-fp16 on ONNX Runtime": ("jetson-fp16", "onnxruntime"),
    "jetson-int8 on ONNX Runtime": ("jetson-int8", "onnxruntime"),
    "openvino-fp16": ("openvino-fp16", "openvino"),
    "openvino-int8": ("openvino-int8", "openvino"),
    "coreml-int8": ("coreml-int8", "coreml"),
    "coreml-fp16 evaluated": ("coreml-fp16", "mil"),
    "coreml-int8 evaluated": ("coreml-int8", "mil"),
    "coreai-fp16 interpreted": ("coreai-fp16", "coreai"),
    "coreai-int8 interpreted": ("coreai-int8", "coreai"),
    "jetson-int8 on TensorRT": ("jetson-int8", "tensorrt"),
    "thor-fp8 on ONNX Runtime": ("thor-fp8", "onnxruntime"),
    "rtx-fp16 on ONNX Runtime": ("rtx-fp16", "onnxruntime"),
    "rtx-int8 on ONNX Runtime": ("rtx-int8", "onnxruntime"),
    "rtx-int8 on TensorRT-RTX": ("rtx-int8", "tensorrt_rtx"),
    "torchtrt-int8 in PyTorch": ("torchtrt-int8", "exported"),
    "executorch-fp32": ("executorch-fp32", "executorch"),
    "executorch-int8": ("executorch-int8", "executorch"),
}


@pytest.fixture(scope="session")
def nets(tiny: ModelSpec, tiles: np.ndarray) -> dict[str, EdgeModel]:
    """`full`: class token alone; `int8` and `fp8`: class token and mean, tokens kept."""
    net = fold(random_model(tiny), tiny, embedding="cls+mean", tokens=True)
    fp8 = copy.deepcopy(net)
    ranges = calibrate(net, [tiles[:4]])
    made = {"full": fold(random_model(tiny), tiny), "fp8": quantize(fp8, ranges, number_format=FP8)}
    return made | {"int8": quantize(net, smooth(net, ranges))}


class LoweredOnce(Program):
    """A program that keeps its ONNX form: six artifacts here come from two programs."""

    _kept: onnx.ModelProto | None = None

    def onnx(self) -> onnx.ModelProto:
        self._kept = self._kept or super().onnx()
        return copy.deepcopy(self._kept)


@pytest.fixture(scope="session")
def artifact(nets: dict[str, EdgeModel], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Build a target's artifact with its own backend, once."""
    built: dict[str, Path] = {}
    programs = {name: LoweredOnce(net) for name, net in nets.items()}

    def build(target: str) -> Path:
        if target not in built:
            recipe = find_recipe(target)
            program = programs[recipe.precision.linear if recipe.quantized else "full"]
            built[target] = builds_of(recipe.backend).build(program, tmp_path_factory.mktemp(target), recipe)
        return built[target]

    return build


def without(backend: str) -> str:
    """Why a backend does not run here; empty where it does."""
    if backend == "coreml" and sys.platform != "darwin":
        return "Core ML runs only on macOS"
    if backend == "coreai" and importlib.util.find_spec("coreai_torch") is None:
        return "needs the extra coreai"
    if backend == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        return "TensorRT is not installed; it runs on a Jetson"
    if backend == "exported" and None in map(importlib.util.find_spec, ("torch_tensorrt", "tensorrt_rtx_bindings")):
        return "needs the extra torchtrt"
    if backend == "tensorrt_rtx" and shutil.which("nvidia-smi") is None:
        return "TensorRT-RTX runs beside an NVIDIA GPU"
    if backend == "executorch" and importlib.util.find_spec("executorch") is None:
        return "needs the extra executorch"
    return ""


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest, artifact: Callable[[str], Path], tiny: ModelSpec) -> Any:
    target, backend = RUNNERS[request.param]
    if reason := without(backend):
        pytest.skip(reason)
    if backend == "reference":
        return reference.Runner(random_model(tiny), tiny.mean, tiny.std)
    options = {} if backend in ("coreml", "tensorrt", "tensorrt_rtx") else {"threads": 1}
    options |= {"interpreter": True} if backend == "coreai" else {}
    return MODULES[backend].Runner(artifact(target), **options)


def width(request: pytest.FixtureRequest) -> int:
    return 192 if is_quantized(request) else 96


def is_quantized(request: pytest.FixtureRequest) -> bool:
    return "int8" in request.node.name or "fp8" in request.node.name


def assert_near(found: np.ndarray, wanted: np.ndarray, cosine: float) -> None:
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.min() > cosine


# --- the contract


@pytest.mark.parametrize("count", [1, 3])
def test_tiles_in_embedding_out(runner: Any, count: int, tiles: np.ndarray, request: pytest.FixtureRequest) -> None:
    given = tiles[:count].copy()
    with runner:
        found = runner(given)
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (np.float32, (count, width(request)))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(given, tiles[:count])  # what is handed over stays as it is


def test_runner_is_its_own_context_and_lets_errors_through(runner: Any) -> None:
    def fail() -> None:
        with runner as entered:
            assert entered is runner
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_runner_says_what_it_runs_on(runner: Any) -> None:
    with runner:
        assert any(letter.isdigit() for letter in runner.runtime)  # a version
        assert "\n" not in runner.runtime


def test_outputs_by_name(runner: Any, tiles: np.ndarray, request: pytest.FixtureRequest) -> None:
    with runner:
        outputs = runner.outputs(tiles[:2])
        np.testing.assert_array_equal(outputs["embedding"], runner(tiles[:2]))
    has_tokens = is_quantized(request) or "reference" in request.node.name
    assert list(outputs) == ["embedding"] + has_tokens * ["tokens"]
    if has_tokens:
        assert (outputs["tokens"].dtype, outputs["tokens"].shape) == (np.float32, (2, 256, 96))
    if is_quantized(request):  # the embedding's second half is the mean of these very tokens
        # FP16 artifacts add up 256 numbers of 11 bits.
        np.testing.assert_allclose(outputs["embedding"][:, 96:], outputs["tokens"].mean(axis=1), atol=5e-3)


def test_numbers_are_the_full_precision_models(
    runner: Any, tiles: np.ndarray, tiny: ModelSpec, request: pytest.FixtureRequest
) -> None:
    with reference.Runner(random_model(tiny), tiny.mean, tiny.std, "cls+mean") as plain:
        wanted = plain(tiles[:4])[:, : width(request)]
    with runner:
        found = runner(tiles[:4])
    # Measured on these two blocks with random weights: INT8 0.9998, FP16 0.999999. FP8 has the gate of its recipe.
    least = {"fp8": 0.995, "int8": 0.999}
    assert_near(found, wanted, next((least[name] for name in least if name in request.node.name), 0.99999))
    assert len({row.tobytes() for row in found}) == 4


def test_batch_size_does_not_matter(runner: Any, tiles: np.ndarray, request: pytest.FixtureRequest) -> None:
    with runner:
        together = runner(tiles[:5])
        apart = np.concatenate([runner(tiles[i : i + 1]) for i in range(5)])
        again = runner(tiles[:5])
    np.testing.assert_array_equal(again, together)  # and nothing of a call is left for the next
    # Runtimes add up in another order for another batch. In FP32 that stays rounding; in FP16 and INT8 a number on the
    # edge of two values falls either way, and later layers carry it on.
    if is_quantized(request) or "fp16" in request.node.name:
        assert_near(apart, together, 0.9999)
    else:
        np.testing.assert_allclose(apart, together, rtol=0, atol=1e-4 * np.abs(together).max())


def test_any_view_of_tiles_is_taken(runner: Any, tiles: np.ndarray) -> None:
    frozen = tiles[:2].copy()
    frozen.flags.writeable = False
    views = [tiles[:4:2], tiles[1::-1], tiles[:2, ::-1], tiles[:2, :, ::-1], tiles[:2].transpose(0, 2, 1, 3), frozen]
    views.append(np.asfortranarray(tiles[:2]))
    with runner:
        for view in views:
            np.testing.assert_array_equal(runner(view), runner(np.ascontiguousarray(view).copy()))


WRONG = {
    "float": np.zeros((2, 224, 224, 3), np.float32),
    "signed": np.zeros((2, 224, 224, 3), np.int8),
    "channels first": np.zeros((2, 3, 224, 224), np.uint8),
    "one tile without a batch": np.zeros((224, 224, 3), np.uint8),
    "RGBA": np.zeros((2, 224, 224, 4), np.uint8),
    "another size": np.zeros((2, 256, 256, 3), np.uint8),
    "not square": np.zeros((2, 224, 210, 3), np.uint8),
    "five dimensions": np.zeros((1, 2, 224, 224, 3), np.uint8),
    "no tile": np.zeros((0, 224, 224, 3), np.uint8),
}


def test_tiles_of_another_kind_are_refused_and_do_no_harm(runner: Any, tiles: np.ndarray) -> None:
    with runner:
        before = runner(tiles[:2])
        for name, given in WRONG.items():
            for call in (runner, runner.outputs):
                with pytest.raises(ValueError, match=r"^tiles are .*; uint8 \(N, 224, 224, 3\)") as caught:
                    call(given)
                assert str(given.dtype) in str(caught.value), name
                assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(runner(tiles[:2]), before)


@pytest.mark.parametrize("backend", MODULES)
def test_check_is_the_same_in_every_backend(backend: str) -> None:
    # Copied, because each module goes into a bundle's kit alone. Those that cannot run here are checked this way.
    assert inspect.getsource(MODULES[backend]._check) == inspect.getsource(onnxruntime._check)
    for given in WRONG.values():
        with pytest.raises(ValueError, match="is needed"):
            MODULES[backend]._check(given, 224)
    MODULES[backend]._check(np.zeros((1, 224, 224, 3), np.uint8), 224)
    assert "_check(tiles, self.size)" in inspect.getsource(MODULES[backend].Runner)


# --- a module stands alone


@pytest.mark.parametrize("backend", ALONE)
def test_backend_imports_nothing_of_edgepath_and_no_sdk_at_its_top(backend: str) -> None:
    tree = ast.parse(Path(str(MODULES[backend].__file__)).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module
            assert node.module.split(".")[0] != "edgepath"
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != "edgepath" for alias in node.names)
    top = {
        name.split(".")[0]
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert top - set(sys.stdlib_module_names) == {"numpy"}


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8"])
def test_module_copied_out_runs_without_edgepath_and_torch(
    target: str, artifact: Callable[[str], Path], tiles: np.ndarray, tmp_path: Path
) -> None:
    backend = find_recipe(target).backend
    shutil.copyfile(str(MODULES[backend].__file__), tmp_path / "runner.py")
    np.save(tmp_path / "tiles.npy", tiles[:2])
    script = (
        "import sys; sys.modules.update(edgepath=None, torch=None, onnx=None, timm=None)\n"
        "import numpy as np; from pathlib import Path; from runner import Runner\n"
        "with Runner(Path(sys.argv[1]), threads=1) as run: np.save('found.npy', run(np.load('tiles.npy')))\n"
    )
    subprocess.run([sys.executable, "-c", script, str(artifact(target))], cwd=tmp_path, check=True)
    with MODULES[backend].Runner(artifact(target), threads=1) as runner:
        np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), runner(tiles[:2]))


# --- OpenVINO


def test_openvino_runs_every_linear_in_int8(artifact: Callable[[str], Path]) -> None:
    with openvino.Runner(artifact("openvino-int8"), threads=1) as runner:
        assert runner.linears() == {"i8": BLOCK_LINEARS}
    with openvino.Runner(artifact("openvino-fp16"), threads=1) as runner:
        counts = runner.linears()
    assert "i8" not in counts
    assert sum(counts.values()) == BLOCK_LINEARS + 1  # the last block's qkv is two: q of the class token, kv of all


def test_openvino_computes_the_rest_in_bf16_where_recipe_and_cpu_have_it(
    nets: dict[str, EdgeModel], artifact: Callable[[str], Path], tiles: np.ndarray, tmp_path: Path
) -> None:
    recipe = find_recipe("openvino-int8")
    recipe = replace(recipe, precision=replace(recipe.precision, other="bf16"))
    path = builds_of("openvino").build(Program(nets["int8"]), tmp_path, recipe)
    has_it = "BF16" in openvino.core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with (
        openvino.Runner(path, threads=1) as runner,
        openvino.Runner(path, threads=1, precision="f32") as exact,
        openvino.Runner(artifact("openvino-int8"), threads=1) as plain,
    ):
        assert runner.runtime.endswith(", bf16" if has_it else ", f32")
        assert exact.runtime.endswith(", f32")
        assert plain.runtime.endswith(", f32")
        np.testing.assert_array_equal(exact(tiles[:2]), plain(tiles[:2]))  # the artifacts differ in that word only
        assert np.array_equal(runner(tiles[:2]), exact(tiles[:2])) != has_it


def test_openvino_leaves_nothing_beside_its_two_files(artifact: Callable[[str], Path]) -> None:
    for target in ("openvino-int8", "openvino-fp16"):
        path = artifact(target)
        assert path.name == "model.xml"
        assert {file.name for file in path.parent.iterdir()} == {"model.xml", "model.bin"}
        text = path.read_text()
        assert str(path.parent) not in text
        assert "source.onnx" not in text
        assert "site-packages" not in text


# --- Core ML, read back without a Mac


def main_of(package: Path) -> tuple[Any, list[Any]]:
    import coremltools

    spec = coremltools.models.MLModel(str(package), skip_model_load=True).get_spec()
    function = spec.mlProgram.functions["main"]
    return spec, list(function.block_specializations[function.opset].operations)


@pytest.mark.parametrize("target", ["coreml-int8", "coreml-fp16"])
def test_coreml_takes_an_rgb_image(target: str, artifact: Callable[[str], Path]) -> None:
    spec, _ = main_of(artifact(target))
    (image,) = spec.description.input
    kind = image.type.imageType
    assert image.name == "tile"
    assert (kind.width, kind.height, kind.colorSpace) == (224, 224, kind.ColorSpace.Value("RGB"))
    outputs = {output.name: list(output.type.multiArrayType.shape) for output in spec.description.output}
    wanted = {"embedding": [1, 192], "tokens": [1, 256, 96]} if target == "coreml-int8" else {"embedding": [1, 96]}
    assert outputs == wanted
    array = spec.description.output[0].type.multiArrayType
    assert {output.type.multiArrayType.dataType for output in spec.description.output} == {
        array.ArrayDataType.Value("FLOAT32")
    }
    assert spec.specificationVersion == 9  # iOS 18, macOS 15


def dtype_of(value: Any) -> tuple[str, list[int]]:
    from coremltools.proto import MIL_pb2

    tensor = value.type.tensorType
    return MIL_pb2.DataType.Name(tensor.dataType), [dimension.constant.size for dimension in tensor.dimensions]


def test_coreml_int8_holds_int8_weights_and_quantized_activations(
    artifact: Callable[[str], Path], nets: dict[str, EdgeModel]
) -> None:
    _, operations = main_of(artifact("coreml-int8"))
    made_by = {output.name: operation for operation in operations for output in operation.outputs}
    counts = collections.Counter(operation.type for operation in operations)
    assert counts["linear"] == counts["constexpr_blockwise_shift_scale"] == BLOCK_LINEARS
    assert counts["quantize"] == counts["dequantize"] == BLOCK_LINEARS  # two operations a linear
    assert counts["layer_norm"] == NORMS
    shapes = collections.Counter()
    for operation in operations:
        if operation.type != "linear":
            continue
        x, weight = (made_by[operation.inputs[name].arguments[0].name] for name in ("x", "weight"))
        assert x.type == "dequantize"
        assert made_by[x.inputs["input"].arguments[0].name].type == "quantize"
        assert dtype_of(made_by[x.inputs["input"].arguments[0].name].outputs[0])[0] == "INT8"
        assert weight.type == "constexpr_blockwise_shift_scale"
        data, scale = (weight.inputs[name].arguments[0].value for name in ("data", "scale"))
        assert dtype_of(data)[0] == "INT8"
        assert dtype_of(scale) == ("FLOAT16", [dtype_of(data)[1][0], 1])  # one scale for each output
        shapes[tuple(dtype_of(data)[1])] += 1
    assert shapes == {(288, 96): 2, (96, 96): 2, (512, 96): 2, (96, 256): 2}


def test_coreml_weights_on_disk_are_the_programs(artifact: Callable[[str], Path], nets: dict[str, EdgeModel]) -> None:
    sizes = {
        target: (artifact(target) / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").read_bytes()
        for target in ("coreml-int8", "coreml-fp16")
    }
    assert len(sizes["coreml-int8"]) < 0.7 * len(sizes["coreml-fp16"])
    integers = [value for name, value in nets["int8"].state_dict().items() if value.dtype.itemsize == 1]
    assert len(integers) == BLOCK_LINEARS
    for value in integers:  # row by row as PyTorch keeps them
        assert value.numpy().tobytes() in sizes["coreml-int8"]


def test_coreml_fp16_computes_in_fp16(artifact: Callable[[str], Path]) -> None:
    _, operations = main_of(artifact("coreml-fp16"))
    kinds = {operation.type for operation in operations}
    assert not {"quantize", "dequantize"} & kinds
    linears = [operation for operation in operations if operation.type == "linear"]
    assert len(linears) == BLOCK_LINEARS + 1
    assert {dtype_of(operation.outputs[0])[0] for operation in linears} == {"FLOAT16"}


@pytest.mark.skipif(sys.platform == "darwin", reason="this is macOS: Core ML runs")
def test_coreml_runner_names_the_host_it_needs(artifact: Callable[[str], Path]) -> None:
    with pytest.raises(OSError, match=r"^Core ML runs only on macOS, this is .*open it there$"):
        coreml.Runner(artifact("coreml-int8"))


# --- Core ML, evaluated in torch


@pytest.mark.parametrize(("target", "net"), [("coreml-fp16", "full"), ("coreml-int8", "int8")])
def test_evaluated_package_is_the_program(
    target: str, net: str, artifact: Callable[[str], Path], nets: dict[str, EdgeModel], tiles: np.ndarray
) -> None:
    import torch

    wanted = Program(nets[net])(tiles)
    with mil.Runner(artifact(target), threads=1) as runner:
        drift = measure(wanted, runner(tiles))
    if target == "coreml-fp16":
        assert drift.cosine_min > 0.99999  # FP16's 11 bits through two blocks: measured 0.999999
    else:
        # FP16 in front of a Q moves numbers across its edges: about as far as pixels moved by FP16's 2^-11 do, once for
        # each operation. Measured 1.3 times that.
        pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float()
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            moved = nets[net].encode(pixels * (1 + 2**-11 * noise))[0].numpy()
        assert 1 - drift.cosine_mean < 3 * (1 - measure(wanted, moved).cosine_mean)
        assert drift.cosine_min > 0.9997
    assert drift.relative_l2 > 1e-4, "nothing was rounded"


def test_evaluator_counts_what_is_int8(artifact: Callable[[str], Path]) -> None:
    with mil.Runner(artifact("coreml-int8")) as runner:  # the patch convolution stays in FP16
        assert runner.weights() == runner.quantized() == {"int8": BLOCK_LINEARS, "fp16": 1}
    with mil.Runner(artifact("coreml-fp16")) as runner:
        assert runner.weights() == runner.quantized() == {"fp16": BLOCK_LINEARS + 2}  # and the last block's qkv is two


def test_evaluator_does_not_claim_to_be_core_ml(artifact: Callable[[str], Path]) -> None:
    import torch

    version = torch.__version__.split("+")[0]
    with mil.Runner(artifact("coreml-fp16")) as runner:
        assert runner.runtime == f"MIL evaluator (torch {version}, FP16 semantics), not Core ML"
    with mil.Runner(artifact("coreml-fp16"), fp32=True) as runner:
        assert runner.runtime == f"MIL evaluator (torch {version}, FP32), not Core ML"


def test_evaluator_leaves_torchs_threads_as_they_were(artifact: Callable[[str], Path], tiles: np.ndarray) -> None:
    import torch

    before = torch.get_num_threads()
    with mil.Runner(artifact("coreml-fp16"), threads=before + 1) as runner:
        runner(tiles[:1])
    assert torch.get_num_threads() == before


def test_evaluator_reads_the_weights_on_disk(
    artifact: Callable[[str], Path], nets: dict[str, EdgeModel], tiles: np.ndarray, tmp_path: Path
) -> None:
    package = Path(shutil.copytree(artifact("coreml-int8"), tmp_path / "model.mlpackage"))
    file = package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    data, wanted = file.read_bytes(), Program(nets["int8"])(tiles[:4])
    weight = max((v.numpy() for v in nets["int8"].state_dict().values() if v.dtype.itemsize == 1), key=lambda v: v.size)
    at = data.index(weight.tobytes())
    file.write_bytes(data[:at] + weight[::-1].tobytes() + data[at + weight.size :])
    with mil.Runner(package, threads=1) as runner:
        assert measure(wanted, runner(tiles[:4])).cosine_min < 0.99
    file.write_bytes(data[: at + 5])
    with mil.Runner(package, threads=1) as runner, pytest.raises(BundleError, match=r"weight\.bin"):
        runner(tiles[:4])


# --- TensorRT


def test_jetson_plan_says_how_each_release_builds_the_engine(artifact: Callable[[str], Path]) -> None:
    for target, weak in (("jetson-int8", "--fp16 --int8 "), ("jetson-fp16", "--fp16 ")):
        folder = artifact(target).parent
        assert {file.name for file in folder.iterdir()} == {"model.onnx", "plan.json"}
        plan = json.loads((folder / "plan.json").read_text())
        assert plan["schema"] == 1
        assert plan["shapes"] == {"min": [1, 224, 224, 3], "opt": [1, 224, 224, 3], "max": [16, 224, 224, 3]}
        recipe = find_recipe(target)
        assert [(p["release"], p["runtime"], p["strongly_typed"]) for p in plan["plans"]] == [
            (p.release, p.runtime, p.strongly_typed) for p in recipe.deploy.plan
        ]
        shapes = "--minShapes=tiles:1x224x224x3 --optShapes=tiles:1x224x224x3 --maxShapes=tiles:16x224x224x3"
        start = "trtexec --onnx=model.onnx --saveEngine=model.engine "
        flags = {p["release"]: p["trtexec"].removeprefix(start).removesuffix(shapes) for p in plan["plans"]}
        # TensorRT 11 has no weak typing and no flag for the strong one; 10.3 needs permission for what the graph says.
        assert flags == {
            "JetPack 6.1 / 6.2": weak,
            "JetPack 7.0 / 7.1": "--stronglyTyped ",
            "JetPack 7.2.2 and later": "",
        }


def test_jetson_graph_has_the_plans_input(artifact: Callable[[str], Path]) -> None:
    model = onnx.load(artifact("jetson-int8"))
    assert [value.name for value in model.graph.input] == ["tiles"]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_tensorrt_runner_names_what_is_missing(artifact: Callable[[str], Path]) -> None:
    with pytest.raises(ModuleNotFoundError, match="tensorrt"):
        tensorrt.Runner(artifact("jetson-int8"))


@pytest.mark.parametrize("target", ["jetson-int8", "jetson-fp16", "thor-fp8"])
def test_tensorrt_parses_the_graph_and_builds_an_engine_without_a_gpu(
    target: str, artifact: Callable[[str], Path]
) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx", exc_type=ImportError)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(artifact(target).read_bytes())
    assert parsed, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    tiles = network.get_input(0)
    assert (tiles.name, tiles.dtype, tuple(tiles.shape)) == ("tiles", trt.uint8, (-1, 224, 224, 3))
    assert {network.get_output(index).dtype for index in range(network.num_outputs)} == {trt.float32}

    layers = [network.get_layer(index) for index in range(network.num_layers)]
    counts = collections.Counter(layer.type.name for layer in layers)
    assert counts["QUANTIZE"] == (0 if target == "jetson-fp16" else BLOCK_LINEARS)
    assert counts["DEQUANTIZE"] == 2 * counts["QUANTIZE"]  # activation and weight
    assert counts["NORMALIZATION"] == NORMS  # fused: taken apart it would overflow in FP16
    for layer in layers:
        if layer.type.name in ("MATRIX_MULTIPLY", "NORMALIZATION", "CONVOLUTION", "SOFTMAX"):
            assert layer.get_output(0).dtype == trt.float16, layer.name

    config = builder.create_builder_config()
    # The nearest to Orin's SM87 that this build offers, and to Thor's SM110.
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, "SM120" if target == "thor-fp8" else "SM86"), 0)
    shapes = json.loads((artifact(target).parent / "plan.json").read_text())["shapes"]
    profile = builder.create_optimization_profile()
    profile.set_shape("tiles", *(tuple(shapes[name]) for name in ("min", "opt", "max")))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    assert engine.nbytes > 1e6


def test_openvino_streams_embed_in_order_as_calls_do(
    artifact: Callable[[str], Path], tiles: np.ndarray, tmp_path: Path
) -> None:
    batches = [tiles[i : i + 1 + i % 3] for i in range(11)]
    cache = str(tmp_path / "cache")
    with openvino.Runner(artifact("openvino-fp16"), threads=1, hint="throughput", cache=cache) as runner:
        assert runner.requests() >= 1
        for _ in range(2):  # what was made for the first time is used again
            found = runner.stream(batches)
            assert [len(rows) for rows in found] == [len(batch) for batch in batches]
            for rows, batch in zip(found, batches, strict=True):
                assert np.allclose(rows, runner(batch), atol=1e-5)
        assert runner.stream([]) == []
        with pytest.raises(ValueError, match="uint8"):
            runner.stream([tiles[:1], tiles[:1].astype(np.float32)])
    assert list((tmp_path / "cache").iterdir()), "no compiled model was kept"


# --- TensorRT-RTX


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx", exc_type=ImportError)


def test_rtx_engine_is_for_what_the_recipe_names(rtx: Any, artifact: Callable[[str], Path]) -> None:
    path = artifact("rtx-int8")
    assert {file.name for file in path.parent.iterdir()} == {"model.onnx", "model.engine", "plan.json"}
    plan = json.loads((path.parent / "plan.json").read_text())
    assert plan["compute_capabilities"] == list(find_recipe("rtx-int8").deploy.compute_capabilities)
    assert plan["tensorrt_rtx"] == rtx.__version__
    engine = (path.parent / "model.engine").read_bytes()
    assert len(engine) > path.stat().st_size
    one = tensorrt_rtx.serialize(rtx, path, plan["shapes"], ["SM89"])
    assert len(one) == pytest.approx(len(engine), rel=0.1)  # what three GPUs need beyond one is little


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU here")
def test_rtx_runner_names_the_driver_it_needs(rtx: Any, artifact: Callable[[str], Path]) -> None:
    with pytest.raises(OSError, match=r"^no NVIDIA driver on this machine .*runs beside an RTX GPU$"):
        tensorrt_rtx.Runner(artifact("rtx-int8"))


def test_rtx_says_why_an_engine_does_not_fit(rtx: Any, artifact: Callable[[str], Path], tmp_path: Path) -> None:
    data = bytearray(artifact("rtx-int8").with_suffix(".engine").read_bytes())
    file = tmp_path / "model.engine"
    assert rtx.__version__ == ".".join(map(str, data[24:28])), "the header holds the version somewhere else"
    data[25] -= 1
    file.write_bytes(data)
    assert "created with TensorRT-RTX version" in tensorrt_rtx.unfit(rtx, file)
    assert "the current runtime is TensorRT-RTX version" in tensorrt_rtx.unfit(rtx, file)
    file.write_bytes(bytes(data[:30]))
    assert "does not conform to the expected format" in tensorrt_rtx.unfit(rtx, file)
    file.write_bytes(b"")
    assert tensorrt_rtx.unfit(rtx, file)


def test_rtx_engine_of_another_release_is_refused_until_one_is_built(
    rtx: Any, artifact: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_rtx, "require_driver", lambda: None)
    for name in ("model.onnx", "plan.json", "model.engine"):
        shutil.copyfile(artifact("rtx-int8").parent / name, tmp_path / name)
    data = bytearray((tmp_path / "model.engine").read_bytes())
    data[25] -= 1
    (tmp_path / "model.engine").write_bytes(data)
    with pytest.raises(
        OSError, match=r"^model\.engine does not fit this machine \(.*version.*\); build one from"
    ) as caught:
        tensorrt_rtx.find_engine(rtx, tmp_path / "model.onnx", tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("model.onnx: kit/build.py")
    built = tensorrt_rtx.prepare(rtx, tmp_path / "model.onnx", tmp_path / "cache", ["SM75"])
    assert built == tensorrt_rtx.engine_file(rtx, tmp_path / "model.onnx", tmp_path / "cache")
    assert built.stat().st_size > 1e6
    # What this machine can say of it is whether it is for this release; whether for its GPU, only one with a GPU can.
    assert "created with TensorRT-RTX version" not in tensorrt_rtx.unfit(rtx, built)


def graph_of(path: Path, node: onnx.NodeProto, *constants: Any) -> Path:
    """Write a graph of one node, `x` float32 (1, 8) to `y`."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8]) for name in "xy")
    graph = onnx.helper.make_graph([node], "one", [x], [y], list(constants))
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)]), path)
    return path


def test_rtx_names_the_node_it_refuses(rtx: Any, tmp_path: Path) -> None:
    half = onnx.numpy_helper.from_array(np.ones((8, 8), np.float16), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="blocks.3.fc1")
    with pytest.raises(
        tensorrt_rtx.Refused, match=r"cannot read a\.onnx: MatMul blocks\.3\.fc1: .*same input types"
    ) as caught:
        tensorrt_rtx.serialize(rtx, graph_of(tmp_path / "a.onnx", node, half), {}, ["SM86"])
    assert caught.value.node == "MatMul blocks.3.fc1"
    assert "\n" not in str(caught.value)
    with pytest.raises(tensorrt_rtx.Refused, match="SM1 cannot be built for here"):
        ok = onnx.helper.make_node("Relu", ["x"], ["y"])
        tensorrt_rtx.serialize(rtx, graph_of(tmp_path / "b.onnx", ok), {}, ["SM1"])
