"""Core AI programs: read back, proved layer by layer, run by Apple's interpreter, and compared with our evaluator."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
import json
import operator
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgepath.backends import builds_of, find, ran_by
from edgepath.backends.runners import coreai as runners
from edgepath.backends.runners import coreai_interpreter, mil
from edgepath.bundle.bundle import Bundle, load_artifact, open_bundle
from edgepath.bundle.device_reports import add_report, device_reports
from edgepath.bundle.embedding import embed
from edgepath.bundle.running import open_runner
from edgepath.checks.debugging import debug
from edgepath.checks.drift import measure
from edgepath.checks.layerwise import prove
from edgepath.checks.parts import differences
from edgepath.checks.verification import verify
from edgepath.errors import BundleError, MissingRuntime, UsageError
from edgepath.exporting import Exported
from edgepath.models.catalogue import ModelSpec
from edgepath.models.weights import random_model
from edgepath.program.calibrate import calibrate
from edgepath.program.fold import EdgeModel, fold
from edgepath.program.forms import Program
from edgepath.program.linear import quantize
from edgepath.program.smooth import smooth
from edgepath.recipes.recipe import find_recipe
from edgepath.reports.tables.drift import device_table

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("coreai_torch") is None, reason="needs the extra coreai (Python 3.11 or later)"
)

Exports = Callable[[str], Exported]


@pytest.fixture(scope="module")
def net(tiny: ModelSpec, tiles: np.ndarray) -> EdgeModel:
    model = fold(random_model(tiny), tiny)
    return quantize(model, smooth(model, calibrate(model, [tiles[:4]])))


@pytest.fixture(scope="module")
def artifact(net: EdgeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = find_recipe("coreai-int8")
    return builds_of("coreai").build(Program(net, recipe), tmp_path_factory.mktemp("coreai"), recipe)


@pytest.fixture(scope="module")
def half(net: EdgeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same program with FP16 in its first block, too: what our evaluator of Core ML packages is compared with."""
    recipe = find_recipe("coreai-int8")
    recipe = dataclasses.replace(recipe, precision=dataclasses.replace(recipe.precision, first_block="other"))
    return builds_of("coreai").build(Program(net, recipe), tmp_path_factory.mktemp("half"), recipe)


@pytest.fixture(scope="module")
def package(net: EdgeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = find_recipe("coreml-int8")
    return builds_of("coreml").build(Program(net, recipe), tmp_path_factory.mktemp("coreml"), recipe)


def ulps(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far FP16 numbers lie apart, in steps of FP16."""
    steps = np.spacing(np.abs(wanted).astype(np.float16)).astype(np.float64)
    return np.asarray(np.abs(found.astype(np.float64) - wanted.astype(np.float64)) / steps)


# --- what is built


@pytest.mark.parametrize("target", ["coreai-fp16", "coreai-int8"])
def test_export_runs_the_artifact_with_apples_interpreter(exports: Exports, target: str) -> None:
    made = exports(target)
    report = made.report
    assert report["passed"]
    assert report["runtime"] is not None
    assert report["runtime"]["kind"] == "coreai_interpreter"
    assert any("interpreter in Apple's coreai-core" in note for note in report["notes"])
    lowering, quantization = report["drift"]["lowering"], report["drift"]["quantization"]
    assert (lowering["tiles"], quantization["tiles"]) == (16, 24), "the interpreter is slow, the program is not"
    floor = report["drift"]["noise_floor"]
    # FP16 rounds ten bits earlier than the nudge that the floor is made with; measured 6e-5 and 6e-7.
    assert 1 - lowering["cosine_mean"] < max(2e-4, 2 * (1 - floor["cosine_mean"]))


def test_program_takes_any_number_of_tiles_and_names_no_machine(artifact: Path) -> None:
    assert {file.name for file in artifact.iterdir()} == {"main.mlirb", "main.hash", "metadata.json"}
    data = b"".join(file.read_bytes() for file in artifact.iterdir())
    for trace in (b"site-packages", b"/edgepath/", str(artifact.parent).encode(), b".py"):
        assert trace not in data
    from edgepath.backends.coreai_program import Source

    source = Source(artifact)
    graph = source.graphs["main"]
    assert str(graph.arguments[0].type) == "tensor<?x224x224x3xui8>"
    copies = [one for one in source.operations() if one.name == "coreai.broadcast_in_dims"]
    assert len(copies) == 2, "only class token and registers are copied for each tile, no weights"


def test_all_linears_are_int8_and_none_is_left_in_float(artifact: Path, net: EdgeModel) -> None:
    parts = builds_of("coreai").read(artifact)
    kinds = [product.weight.dtype for product in parts.products]
    assert kinds == [np.float32] + [np.int8] * 9  # the patch convolution; the last block's qkv is two
    assert all(product.input_scales is not None for product in parts.products[1:])
    assert differences(Program(net).lowered, artifact, "coreai") == []


def test_first_block_is_fp32_and_the_rest_fp16(artifact: Path, half: Path, net: EdgeModel) -> None:
    def types(path: Path) -> tuple[list[bool], set[str], set[str]]:
        from edgepath.backends.coreai_program import Source

        source = Source(path)
        layers = builds_of("coreai").layers(path)
        norms = [one for one in source.operations() if one.name == "coreai.invoke" and "norm" in str(one)]
        kinds = [str(one.results[0].type.element_type) for one in norms]
        return [layers[place].half for place in sorted(layers)], set(kinds[:2]), set(kinds[2:])

    assert types(artifact) == ([False] * 4 + [True] * 5, {"f32"}, {"f16"})
    assert types(half) == ([True] * 9, {"f16"}, {"f16"})
    assert builds_of("coreai").read(half).products[0].weight.dtype == np.float16
    assert differences(Program(net).lowered, half, "coreai") == []


# --- proofs, and that they can fail


def rewrite(artifact: Path, out: Path, change: Callable[[Any], None]) -> Path:
    """Save a program that `change` changed, whole: its hash is right."""
    from coreai._compiler.ir import Location

    from edgepath.backends.coreai_program import Source

    source = Source(artifact)
    with source.program._module._mlir_module.context, Location.unknown():
        change(source)
    source.program.save_asset(out / "model.aimodel")
    return out / "model.aimodel"


def replace_constant(source: Any, value: Any, change: Callable[[np.ndarray], np.ndarray], user: Any) -> None:
    """Give one operation another constant; others that share it keep theirs."""
    from coreai._compiler.dialects import coreai
    from coreai._compiler.ir import InsertionPoint

    numbers = source.value(value)
    with InsertionPoint(user):
        other = coreai.constant(change(numbers).astype(numbers.dtype))
    place = next(i for i, one in enumerate(user.operands) if one == value)
    user.operands[place] = other


def altered_operation(kind: str, operand: int, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Any], None]:
    """Return what changes a constant of the last operation of a kind that has one there."""

    def alter(source: Any) -> None:
        users = [one for one in source.operations() if one.name == kind]
        user = [one for one in users if source.value(one.operands[operand]) is not None][-1]
        replace_constant(source, user.operands[operand], change, user)

    return alter


def other_epsilon(source: Any) -> None:
    graph = next(name for name in source.graphs if name.startswith("layer_norm"))
    (root,) = [one for one in source.operations(graph) if one.name == "coreai.rsqrt"]
    added = root.operands[0].owner.opview
    replace_constant(source, added.operands[1], lambda value: value * 10, added)


DAMAGE = {
    "one integer": (
        altered_operation("coreai.dequantize", 0, lambda w: w + (np.arange(w.size).reshape(w.shape) == 5)),
        "1 of .* integers differ",
    ),
    "scale of an input": (altered_operation("coreai.quantize", 1, lambda s: s * 1.5), "its input is quantized with"),
    "scale of weights": (altered_operation("coreai.dequantize", 1, lambda s: s * 1.01), "scale"),
    "bias": (altered_operation("coreai.decomposable.broadcasting_add", 1, lambda b: b + 1), "another bias"),
    "LayerScale": (altered_operation("coreai.decomposable.broadcasting_mul", 1, lambda g: g * 2), "other numbers"),
    "zero-point": (altered_operation("coreai.quantize", 2, lambda z: z + 1), "has a zero-point"),
    "epsilon": (other_epsilon, "computes with epsilon"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_other_numbers_are_found(damage: str, artifact: Path, net: EdgeModel, tmp_path: Path) -> None:
    change, said = DAMAGE[damage]
    other = rewrite(artifact, tmp_path, change)
    try:
        found = " | ".join(str(one) for one in differences(Program(net).lowered, other, "coreai"))
    except BundleError as error:
        found = str(error)
    assert re.search(said, found), found


def test_every_quantized_layer_is_the_programs(artifact: Path, net: EdgeModel, tiles: np.ndarray) -> None:
    proofs = prove(net, artifact, tiles[:2], backend="coreai")
    assert len(proofs) == 9
    assert all(proof.holds for proof in proofs.values())
    assert sum(proof.differ for proof in proofs.values()) <= 5  # of 400,000; measured 0


def test_layer_that_computes_something_else_is_found(
    artifact: Path, net: EdgeModel, tiles: np.ndarray, tmp_path: Path
) -> None:
    def offset(source: Any) -> None:  # a product's own bias, used twice: no constant differs
        from coreai._compiler.dialects import coreai
        from coreai._compiler.ir import InsertionPoint

        added = [one for one in source.operations() if one.name == "coreai.decomposable.broadcasting_add"]
        biased = [one for one in added if source.value(one.operands[1]) is not None][-1]
        product = biased.operands[0].owner.opview
        with InsertionPoint(product):
            more = coreai.broadcasting_mul(product.operands[0], np.float16(1.01))
        product.operands[0] = more

    other = rewrite(artifact, tmp_path, offset)
    with pytest.raises(BundleError, match="not quantized"):
        prove(net, other, tiles[:1], backend="coreai")


def test_bundle_is_verified_debugged_and_embeds(exports: Exports, tiles: np.ndarray, tmp_path: Path) -> None:
    bundle = exports("coreai-int8").bundle
    result = verify(bundle)
    assert result["passed"]
    assert result["runtime"]["kind"] == "coreai_interpreter"
    found = debug(bundle, weights="random")
    assert found["parts"]["differences"] == []
    assert found["unproved"] == []
    Image.fromarray(tiles[0]).save(tmp_path / "a.png")
    embed(bundle, tmp_path, out=tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as found_rows:
        assert found_rows["embeddings"].shape == (1, bundle.dim)
    with open_runner(bundle, bundle.recipe) as runner:
        assert measure(bundle.golden_embeddings("program")[:2], runner(bundle.golden()[0][:2])).cosine_mean > 0.999


# --- how Apple's interpreter computes


def converted(module: Any, *given: np.ndarray, wide: bool = False) -> np.ndarray:
    """Return what Apple's interpreter makes of a torch module, inputs x0, x1, ..."""
    import torch

    from edgepath.machine.quiet import quiet

    with quiet():
        import coreai_torch

        exported = torch.export.export(module, tuple(torch.from_numpy(one) for one in given))
        converter = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)
        names = [f"x{i}" for i in range(len(given))]
        converter.add_exported_program(
            exported.run_decompositions(coreai_torch.get_decomp_table()), input_names=names, output_names=["y"]
        )
        program = converter.to_coreai()
    if wide:
        runners.widen(program)
    function = runners.load_function(program, ["main"])["main"]
    return runners.call(function, **dict(zip(names, given, strict=True)))["y"]


def module_of(function: Callable[..., Any]) -> Any:
    import torch

    class Module(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            return function(*given)

    return Module()


def test_interpreter_adds_fp16_products_in_fp16_and_widened_in_fp32() -> None:
    source, product = np.random.default_rng(0), module_of(operator.matmul)
    a, b = (source.normal(size=size).astype(np.float16) for size in ((8, 256), (256, 8)))
    one_by_one = np.zeros((8, 8), np.float16)
    for k in range(256):
        one_by_one = (one_by_one + (a[:, k : k + 1] * b[k : k + 1]).astype(np.float16)).astype(np.float16)
    assert np.array_equal(converted(product, a, b), one_by_one)
    exact = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float16)
    assert (one_by_one != exact).mean() > 0.5  # or the next line shows nothing
    assert ulps(converted(product, a, b, wide=True), exact).max() <= 1
    large = np.array([[40000.0, 40000.0, -40000.0]], np.float16)
    ones = np.ones((3, 1), np.float16)
    assert np.isinf(converted(product, large, ones)).all()
    assert converted(product, large, ones, wide=True) == 40000


# --- our evaluator of Core ML packages, checked from outside


def test_both_lowerings_have_the_same_layers(half: Path, package: Path, net: EdgeModel, tiles: np.ndarray) -> None:
    """Apple's interpreter and our evaluator, given the same numbers, make the same integers and FP16 outputs."""
    import torch

    apple, ours = builds_of("coreai").layers(half), builds_of("coreml").layers(package)
    products = builds_of("coreai").read(half).products
    assert len(apple) == len(ours) == 9
    generator = torch.Generator().manual_seed(0)
    equal = total = 0
    for (place, one), other in zip(sorted(apple.items()), (ours[key] for key in sorted(ours)), strict=True):
        scales = products[place].input_scales
        assert scales is not None
        length = 1 if place in (5, 7, 8, 9) else 261  # the last block's, but for its keys and values: the class token
        x = torch.randn(1, length, products[place].weight.shape[1], generator=generator) * scales[0] * 40
        given = x.half().float().numpy()
        (integers, output, _), (theirs, expected, _) = one.run(given), other.run(given)
        assert np.array_equal(integers, theirs)
        # MIL's linear rounds once, Core AI's product and sum are two operations that round each; sums in any order.
        step = np.spacing(np.abs(expected - products[place].bias).astype(np.float16)) + np.spacing(
            np.abs(expected).astype(np.float16)
        )
        assert (np.abs(output - expected) <= step).all()
        equal, total = equal + int((output == expected).sum()), total + output.size
    assert equal / total > 0.5


def test_evaluator_embeds_as_apples_interpreter_does(
    half: Path, package: Path, net: EdgeModel, tiles: np.ndarray
) -> None:
    with coreai_interpreter.Runner(half) as apple, mil.Runner(package, threads=1) as ours:
        found, wanted = apple(tiles[:4]), ours(tiles[:4])
    program = Program(net)(tiles[:4])
    apart = 1 - measure(wanted, found).cosine_mean
    # Nearer to each other than 16 bits are to the program is not to be had: rounding to 8 bits amplifies the last bit.
    assert apart < 2 * (1 - measure(program, found).cosine_mean)
    assert apart < 2e-4  # measured 6e-5


FUNCTIONS = {
    "softmax": (lambda F, x: F.softmax(x, -1), 0.5),
    "silu": (lambda F, x: F.silu(x), 0.5),
    "layer_norm": (lambda F, x: F.layer_norm(x, (x.shape[-1],), eps=1e-6), 1.0),
    "add": (lambda F, x: x + x.flip(0), 0.5),
    "mul": (lambda F, x: x * x.flip(0), 0.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_round_once_as_our_evaluator_does(name: str) -> None:
    """Apple's interpreter computes these in FP32 and rounds once, which is what our evaluator takes for granted."""
    import torch
    from torch.nn import functional

    function, most = FUNCTIONS[name]
    x = (torch.randn(4, 261, generator=torch.Generator().manual_seed(1)) * 3).half()
    found = converted(module_of(lambda given: function(functional, given)), x.numpy())
    exact = function(functional, x.double()).numpy()
    assert ulps(found, exact).max() <= most + 0.01


# --- what can go wrong


def damaged(artifact: Path, folder: Path, change: Callable[[Path], object]) -> Path:
    path = Path(shutil.copytree(artifact, folder / "model.aimodel"))
    change(path / "main.mlirb")
    return path


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


BROKEN = {
    "cut in half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file: file.write_bytes(b""),
    "one bit at the front": lambda file: flip(file, 100),
    "one bit of a weight": lambda file: flip(file, file.stat().st_size // 2),
    "one bit at the end": lambda file: flip(file, file.stat().st_size - 10),
    "gone": lambda file: file.unlink(),
    "its hash gone": lambda file: file.with_name("main.hash").unlink(),
    "metadata cut": lambda file: file.with_name("metadata.json").write_text("{"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_damaged_program_is_one_line(way: str, artifact: Path, tmp_path: Path) -> None:
    # Apple's reader ends the whole process for most of these.
    path = damaged(artifact, tmp_path, BROKEN[way])
    with pytest.raises(RuntimeError) as caught:
        runners.Runner(path, interpreter=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(BundleError, match=r"^model\.aimodel: ") as read:
        builds_of("coreai").read(path)
    assert "\n" not in str(read.value)


def test_kits_runner_alone_says_what_is_wrong(artifact: Path, tmp_path: Path, tiles: np.ndarray) -> None:
    shutil.copyfile(str(runners.__file__), tmp_path / "runner.py")
    np.save(tmp_path / "tiles.npy", tiles[:2])
    script = (
        "import sys; sys.modules.update(edgepath=None, torch=None, coreai_torch=None)\n"
        "import numpy as np; from pathlib import Path; from runner import Runner\n"
        "with Runner(Path(sys.argv[1]), interpreter=True, threads=1) as run:\n"
        "    np.save('found.npy', run(np.load('tiles.npy')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(artifact)], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with coreai_interpreter.Runner(artifact, threads=1) as runner:
        assert np.array_equal(np.load(tmp_path / "found.npy"), runner(tiles[:2]))
    path = damaged(artifact, tmp_path, BROKEN["cut in half"])
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("main.mlirb is damaged, its hash is not the one in main.hash")


def test_another_release_is_named(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "version", lambda name: "1.0.0b4")
    with pytest.raises(OSError, match=r"^this runs coreai-core 1\.0\.0b3, 1\.0\.0b4 is installed: pip install"):
        runners.Runner(artifact, interpreter=True)


def test_doctor_names_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "builds and checks here" in find("coreai").availability().detail or sys.platform == "darwin"
    monkeypatch.setattr("edgepath.backends.backend.version_of", lambda name: "1.0.0b4")
    found = find("coreai").availability()
    assert not found.usable
    assert found.detail == f"coreai-core 1.0.0b4; it takes {runners.VERSION}"


def test_missing_package_is_named(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "coreai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "coreai", None)
    bundle = exports("coreai-int8").bundle
    with pytest.raises(MissingRuntime, match=r"runs with coreai-core .*pip install 'edgepath\[coreai\]'"):
        load_artifact(bundle, "coreai_interpreter")


@pytest.mark.skipif(sys.platform == "darwin", reason="Core AI may run here")
def test_the_device_is_named_and_nothing_is_timed_without_it(exports: Exports) -> None:
    from edgepath.speed.benchmark import bench

    bundle: Bundle = exports("coreai-int8").bundle
    with pytest.raises(MissingRuntime, match=r"Core AI runs only on macOS 27 or later, this is linux"):
        bundle.runner()
    with pytest.raises(MissingRuntime, match="says nothing about its device's speed"):
        bench([bundle.path], batches=(1,), rounds=3, cold=0)


def test_option_that_it_does_not_have_is_refused(exports: Exports) -> None:
    with pytest.raises(UsageError, match="coreai has no option compute; known: interpreter, fp16_sums, threads"):
        exports("coreai-int8").bundle.runner(compute="ALL")


# --- a runner among others


def test_runner_works_beside_an_event_loop_and_says_nothing(
    artifact: Path, tiles: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    async def embed() -> np.ndarray:
        with coreai_interpreter.Runner(artifact, threads=2) as runner:
            return np.asarray(runner(tiles[:3]))

    found = asyncio.run(embed())
    with coreai_interpreter.Runner(artifact) as runner:
        assert np.array_equal(runner(tiles[:3]), found)
        assert ran_by(runner).kind == "coreai_interpreter"
        assert runner.runtime == "Core AI 1.0.0b3, Apple's interpreter, FP16 matmuls add in FP32"
    assert capfd.readouterr() == ("", "")
    with pytest.raises(RuntimeError, match="closed"):
        runner(tiles[:1])


def test_kit_checks_numbers_with_the_interpreter_and_times_nothing(exports: Exports, tmp_path: Path) -> None:
    bundle = shutil.copytree(exports("coreai-int8").bundle.path, tmp_path / "tiny-coreai-int8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [sys.executable, bundle / "kit" / "check.py", "--set", "interpreter=true"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "wrote device-report.json\n"), done
    assert re.search(r"^not measured +-", done.stdout, flags=re.MULTILINE)
    report = json.loads((tmp_path / "device-report.json").read_text())
    assert "latency" not in report
    assert report["ran_with"] == "Core AI 1.0.0b3, Apple's interpreter, FP16 matmuls add in FP32"
    with coreai_interpreter.Runner(bundle / "model.aimodel") as runner:
        found = runner(np.load(bundle / "golden" / "tiles.npz")["tiles"])
    expected = measure(np.load(bundle / "golden" / "program.npz")["embeddings"], found)
    assert report["drift"]["lowering"]["cosine_mean"] == expected.cosine_mean
    add_report(bundle, tmp_path / "device-report.json")
    (row,) = device_table(device_reports(open_bundle(bundle))).rows
    assert list(row).count("not measured") == 2


def test_fp16_sums_are_the_interpreters_own(artifact: Path, tiles: np.ndarray, net: EdgeModel) -> None:
    with coreai_interpreter.Runner(artifact, fp16_sums=True) as runner:
        narrow = runner(tiles[:1])
    with coreai_interpreter.Runner(artifact) as runner:
        wide = runner(tiles[:1])
    assert not np.array_equal(narrow, wide)
    assert measure(Program(net)(tiles[:1]), narrow).cosine_mean > 0.999


def test_row_of_the_interpreter_builds_nothing() -> None:
    assert find("coreai_interpreter").builds is None
    assert builds_of("coreai").checked_with == "coreai_interpreter"
