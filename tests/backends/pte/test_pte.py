"""ExecuTorch's files: what is delegated, what is refused, and that reading them is right."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.backends import builds_of
from edgepath.errors import BundleError, UsageError
from edgepath.exporting import Exported
from edgepath.program.forms import Program
from edgepath.program.rebuilding import rebuild, same_weights
from edgepath.recipes.recipe import find_recipe

pytest.importorskip("executorch", reason="needs the extra executorch")

from edgepath.backends.pte.layers import layers
from edgepath.backends.pte.program import Graph, load_pte, xnnpack_schema
from edgepath.backends.runners import executorch

Exports = Callable[[str], Exported]
BLOCK_LINEARS = 9  # of two blocks, the last one's query apart


@pytest.fixture
def copied(exports: Exports, tmp_path: Path) -> Path:
    """The `.pte` of `tiny` in a folder of its own, with what stands beside it."""
    for name in ("model.pte", "model.json"):
        shutil.copyfile(exports("executorch-int8").bundle.path / name, tmp_path / name)
    return tmp_path / "model.pte"


def sealed(path: Path, data: bytes) -> None:
    """Write other bytes, and say beside them that these are those that were built."""
    path.write_bytes(data)
    about = json.loads(path.with_suffix(".json").read_text())
    about |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    path.with_suffix(".json").write_text(json.dumps(about))


def test_every_linear_is_the_delegates_and_int8(exports: Exports) -> None:
    for target, form in (("executorch-int8", "INT8"), ("executorch-fp32", "FP32")):
        path = exports(target).bundle.artifact
        nodes = load_pte(path).nodes()
        assert {name: count for name, count in nodes["delegated"].items() if "FullyConnected" in name} == {
            f"XNNFullyConnected, {form}": BLOCK_LINEARS
        }
        assert nodes["undelegated"] == {
            "aten::expand_copy": 2,
            "aten::native_layer_norm": 5,
            "aten::select_copy": 1,
            "dim_order_ops::_to_dim_order_copy": 1,
        }
        about = json.loads(path.with_suffix(".json").read_text())
        assert {name: about[name] for name in nodes} == nodes


def without_linears(partitioner: Any) -> Any:
    kept = [one for one in partitioner.ALL_PARTITIONER_CONFIGS if one.__name__ != "LinearConfig"]
    assert len(kept) < len(partitioner.ALL_PARTITIONER_CONFIGS)
    return functools.partial(partitioner.XnnpackPartitioner, configs=kept)


def without_int8(partitioner: Any) -> Any:
    from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType

    return functools.partial(partitioner.XnnpackPartitioner, config_precisions=ConfigPrecisionType.FP32)


@pytest.mark.parametrize("made", [without_linears, without_int8])
def test_a_linear_that_falls_back_to_float_is_refused(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Callable[[Any], Any]
) -> None:
    from executorch.backends.xnnpack.partition import xnnpack_partitioner

    bundle, recipe = exports("executorch-int8").bundle, find_recipe("executorch-int8")
    vit, spec, _ = same_weights(bundle, None)
    program = Program(rebuild(bundle, recipe, vit, spec), recipe)
    monkeypatch.setattr(xnnpack_partitioner, "XnnpackPartitioner", made(xnnpack_partitioner))
    with pytest.raises(UsageError, match=r"^export executorch-int8: XNNPACK does not take quantized\S+; another"):
        builds_of("executorch").build(program, tmp_path, recipe)
    assert not list(tmp_path.iterdir())


# --- the runner


def test_a_file_that_was_cut_or_changed_is_refused(copied: Path) -> None:
    data = copied.read_bytes()
    for size in (0, 7, len(data) // 2, len(data) - 1):
        copied.write_bytes(data[:size])
        with pytest.raises(
            RuntimeError, match=rf"^model\.pte has {size} bytes, {len(data)} were built; copy it again$"
        ):
            executorch.Runner(copied)
    for place in (0, 40, len(data) // 2, len(data) - 1):
        copied.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(RuntimeError, match=r"^model\.pte is not the file that was built \(its SHA-256 differs\)"):
            executorch.Runner(copied)
    copied.unlink()
    with pytest.raises(RuntimeError, match=r"^model\.pte: No such file or directory$"):
        executorch.Runner(copied)


def test_what_stands_beside_it_is_checked(copied: Path) -> None:
    about = copied.with_suffix(".json")
    kept = json.loads(about.read_text())
    for other in ("", "[]", "{}", "null", json.dumps(kept | {"schema": 2}), json.dumps(kept | {"tile": [224]})):
        about.write_text(other)
        with pytest.raises(RuntimeError, match=r"^model\.json is not what edgepath wrote \(.*\); export again$"):
            executorch.Runner(copied)
    about.unlink()
    with pytest.raises(RuntimeError, match=r"^model\.json: No such file or directory; it belongs beside model\.pte$"):
        executorch.Runner(copied)


def test_what_executorch_refuses_is_one_line(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sealed(copied, copied.read_bytes()[:1000])
    with pytest.raises(RuntimeError, match=r"^model\.pte: ExecuTorch cannot load it \(.*\)$") as caught:
        executorch.Runner(copied)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_another_batch_never_reaches_executorch(copied: Path, tiles: np.ndarray) -> None:
    with executorch.Runner(copied, threads=1) as run:
        wanted = run(tiles[:2])
        with pytest.raises(ValueError, match="N of at least 1 is needed"):
            run(tiles[:0])
        np.testing.assert_array_equal(run(tiles[:2]), wanted)


POOLS = """
import sys
from pathlib import Path
import numpy as np
from edgepath.backends.runners.executorch import Runner

tiles = np.load(sys.argv[2])
runners = [Runner(Path(sys.argv[1]), threads=threads) for threads in (1, 2, 3, 1)]
wanted = runners[0](tiles)
for turn in range(4):
    for run in runners:
        np.testing.assert_array_equal(run(tiles), wanted)
    runners = [*runners[1:], Runner(Path(sys.argv[1]), threads=1 + turn % 3)]
print("same")
"""


def test_runners_of_other_numbers_of_threads_take_turns(copied: Path, tiles: np.ndarray) -> None:
    """In a process of its own: a method that is run with a pool of threads that is gone ends it."""
    np.save(copied.with_name("tiles.npy"), tiles[:2])
    command = [sys.executable, "-X", "faulthandler", "-c", POOLS, str(copied), str(copied.with_name("tiles.npy"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "same\n", ""), done.stderr


# --- reading


def test_reader_agrees_with_the_makers_compiler(exports: Exports, tmp_path: Path) -> None:
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    pte = load_pte(exports("executorch-int8").bundle.artifact)
    index = 0
    (tmp_path / "schema.fbs").write_text(xnnpack_schema())
    for call in pte.calls:
        if not isinstance(call, Graph):
            continue
        blob = bytes(pte.stored.program.backend_delegate_data[index].data)
        index += 1
        start, size = int.from_bytes(blob[10:14], "little"), int.from_bytes(blob[14:18], "little")
        (tmp_path / "schema.bin").write_bytes(blob[start : start + size])
        _flatc_decompile(str(tmp_path), str(tmp_path / "schema.fbs"), str(tmp_path / "schema.bin"))
        assert same(json.loads((tmp_path / "schema.json").read_text()), call.raw) == []
    assert index == 5


def same(theirs: object, ours: object, where: str = "") -> list[str]:
    """Return where two readings differ; the compiler prints six decimals, and leaves out what is not stored."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [odd for key, one in theirs.items() for odd in same(one, ours.get(key), f"{where}.{key}")]
    if isinstance(theirs, list) and isinstance(ours, list):
        lengths = [] if len(theirs) == len(ours) else [f"{where}: {len(theirs)} and {len(ours)}"]
        return lengths + [
            odd for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) for odd in same(a, b, f"{where}[{i}]")
        ]
    near = isinstance(theirs, float) and isinstance(ours, float) and abs(theirs - ours) < 1e-6
    return [] if near or theirs == ours else [f"{where}: {theirs} and {ours}"]


def test_a_damaged_file_is_a_bundle_error(copied: Path) -> None:
    data = copied.read_bytes()
    rng = np.random.default_rng(0)
    for size in (0, 8, 1000, len(data) // 2):
        copied.write_bytes(data[:size])
        with pytest.raises(BundleError, match=r"^model\.pte: "):
            load_pte(copied)
    for place in rng.integers(0, 4000, 40):  # the program's head: a change may be of what nothing reads
        copied.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        with contextlib.suppress(BundleError):
            load_pte(copied).nodes()


def test_rows_of_any_range_are_rounded_with_the_programs_scale(exports: Exports) -> None:
    path = exports("executorch-int8").bundle.artifact
    from edgepath.backends.pte.parts import read
    from edgepath.program.operations import quantize

    layer, product = layers(path)[1], read(path).products[1]
    assert product.input_scales is not None
    scale, rng = product.input_scales[0], np.random.default_rng(1)
    rows = [
        np.zeros(96),
        np.full(96, 1e6),
        np.full(96, -1e6),
        rng.normal(size=96) * 1e-3,
        rng.normal(size=96) * 40 * scale,
    ]
    rows += [np.arange(96) * scale - 48 * scale, (np.arange(96) + 0.25) * scale * 2]
    x = np.resize(np.stack(rows), (1, 261, 96)).astype(np.float32)  # the program has no other shape
    integers, output, fused = layer.run(x)
    import torch

    np.testing.assert_array_equal(integers, quantize(torch.from_numpy(x), scale).numpy())
    np.testing.assert_allclose(fused, output, rtol=0, atol=1e-5 * np.abs(output).max())
