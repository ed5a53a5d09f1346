"""A runner gives every thread what that thread's tiles are, and takes no more cores than its process has."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import edgepath
from edgepath.backends.runners import coreml, executorch, mil, onnxruntime, openvino, tensorrt, tensorrt_rtx
from edgepath.exporting import Exported

THREADS, CALLS = 8, 72
RUN = {
    "openvino-int8": openvino,
    "openvino-fp16": openvino,
    "onnx-fp32": onnxruntime,
    "onnx-int8": onnxruntime,
    "coreml-int8": mil,
    "executorch-int8": executorch,
}


def batches(tiles: np.ndarray) -> list[np.ndarray]:
    """Tiles that differ from call to call, one to three at a time."""
    return [tiles[i % 20 : i % 20 + 1 + i % 3] for i in range(CALLS)]


def hammer(run: Callable[[Any], Any], given: Sequence[Any]) -> list[Any]:
    """Call `run` from several threads at once; the results are in the order of `given`."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, given))


def wrong(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if not np.array_equal(a, b)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("target", RUN)
def test_every_thread_gets_its_own_embeddings(
    exports: Callable[[str], Exported], target: str, threads: int, tiles: np.ndarray
) -> None:
    given = batches(tiles)
    with RUN[target].Runner(exports(target).bundle.artifact, threads=threads) as runner:
        wanted = [runner(batch) for batch in given]
        assert wrong(hammer(runner, given), wanted) == []


@pytest.mark.parametrize("target", ["openvino-int8", "onnx-int8"])
def test_module_is_safe_to_call_from_threads(
    exports: Callable[[str], Exported], target: str, tiles: np.ndarray
) -> None:
    module = edgepath.torch_module(exports(target).bundle, threads=1)
    given = [torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in batches(tiles)]
    wanted = [module(images).numpy() for images in given]
    assert wrong([rows.numpy() for rows in hammer(module, given)], wanted) == []
    module.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_stream_and_calls_go_side_by_side(exports: Callable[[str], Exported], threads: int, tiles: np.ndarray) -> None:
    given = batches(tiles)[:24]
    artifact = exports("openvino-int8").bundle.artifact
    with openvino.Runner(artifact, threads=threads, hint="throughput") as runner:
        wanted = [runner(batch) for batch in given]

        def work(number: int) -> list[np.ndarray]:
            return runner.stream(given) if number % 2 else [runner(batch) for batch in given]

        for found in hammer(work, range(6)):
            assert wrong(found, wanted) == []


def test_stream_that_met_a_bad_batch_leaves_nothing_running(
    exports: Callable[[str], Exported], tiles: np.ndarray
) -> None:
    with openvino.Runner(exports("openvino-int8").bundle.artifact, threads=1, hint="throughput") as runner:
        wanted = runner(tiles[:2])
        for _ in range(20):
            with pytest.raises(ValueError, match="uint8"):
                runner.stream([tiles[:8], tiles[8:16], tiles[:1].astype(np.float32)])
            assert np.array_equal(runner(tiles[:2]), wanted)
            assert np.array_equal(runner.stream([tiles[:2]])[0], wanted)


def test_operations_are_those_of_the_threads_own_last_call(
    exports: Callable[[str], Exported], tiles: np.ndarray
) -> None:
    with openvino.Runner(exports("openvino-int8").bundle.artifact, threads=1, profile=True) as runner:
        runner(tiles[:8])
        own = runner.operations()
        assert sum(milliseconds for _, _, milliseconds in own) > 0
        (others,) = hammer(lambda batch: (runner(batch), runner.operations())[1], [tiles[:1]])
        assert others != own
        assert runner.operations() == own
        with pytest.raises(RuntimeError, match="this thread"):
            hammer(lambda _: runner.operations(), [0])


# --- runtimes with one context, which only a device has: that they are asked by one thread at a time


class OneContext:
    """A runtime like TensorRT's or Core ML's: it computes in one place, and returns what lies there."""

    def __init__(self) -> None:
        self.place = np.zeros((1, 1), np.float32)

    def compute(self, tile: np.ndarray) -> dict[str, np.ndarray]:
        self.place[0, 0] = tile.sum()
        time.sleep(0.001)  # another thread has time to come in between
        return {"embedding": self.place}


@pytest.mark.parametrize("backend", [tensorrt, tensorrt_rtx, coreml])
def test_runtime_with_one_context_is_asked_by_one_thread_at_a_time(
    backend: Any, tiles: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = OneContext()
    for name, module in vendors(context).items():
        monkeypatch.setitem(sys.modules, name, module)
    for function in ("prepare", "find_engine"):
        monkeypatch.setattr(backend, function, lambda *_, **__: tmp_path / "engine", raising=False)
    monkeypatch.setattr(tensorrt, "gpu", lambda: "a GPU")
    monkeypatch.setattr(coreml.sys, "platform", "darwin")
    (tmp_path / "engine").write_bytes(b"")
    shapes = {"max": [1, 224, 224, 3], "tiles": {"max": [1, 224, 224, 3]}}
    for plan in ("read_plan", "read_plans"):
        monkeypatch.setattr(backend, plan, lambda _: {"shapes": shapes}, raising=False)
    given = [tiles[i % 24 : i % 24 + 1] for i in range(CALLS)]
    with backend.Runner(tmp_path / "model") as runner:
        found = hammer(runner, given)
        with pickle.loads(pickle.dumps(runner)) as again:
            assert np.array_equal(again(given[0]), found[0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(RuntimeError, match=r"was opened before a fork, which .* does not outlive"):
                runner(given[0])
    assert wrong(found, [np.array([[tile.sum()]], np.float32) for tile in given]) == []
    runner.__exit__()  # closed again: nothing happens
    with pytest.raises(RuntimeError, match=r"^this runner is closed; open another$"):
        runner(given[0])


def vendors(context: OneContext) -> dict[str, ModuleType]:
    """The vendors' packages, as far as runners ask them, around one context."""

    class TrtRunner:
        def __init__(self, _: object) -> None: ...
        def activate(self) -> None: ...
        def deactivate(self) -> None: ...
        def infer(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return context.compute(feed["tiles"])

    class MLModel:
        def __init__(self, *_: object, **__: object) -> None: ...
        def get_spec(self) -> Any:
            size = type("Size", (), {"width": 224})
            return type("Spec", (), {"description": Named(input=[Named(type=Named(imageType=size))])})

        def predict(self, feed: dict[str, Any]) -> dict[str, np.ndarray]:
            return context.compute(np.asarray(feed["tile"]))

    trt = package("polygraphy.backend.trt", TrtRunner=TrtRunner, engine_from_bytes=lambda data: data)
    coremltools = package(
        "coremltools", __version__="9", ComputeUnit={"ALL": 0}, models=package("models", MLModel=MLModel)
    )
    named = {name: package(name, __version__="1.0") for name in ("tensorrt", "tensorrt_rtx_bindings", "tensorrt_rtx")}
    above = {name: package(name) for name in ("polygraphy", "polygraphy.backend")}
    return {**named, **above, "polygraphy.backend.trt": trt, "coremltools": coremltools}


class Named:
    def __init__(self, **values: object) -> None:
        vars(self).update(values)


def package(name: str, **values: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(values)
    return made


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or os.cpu_count() == 1, reason="needs cores to be kept from")
def test_onnx_runtime_takes_no_more_threads_than_there_are_cores_for_it(exports: Callable[[str], Exported]) -> None:
    artifact, cores = exports("onnx-fp32").bundle.path / "model.onnx", os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with onnxruntime.Runner(artifact) as runner:
            threads = runner._session.get_session_options().intra_op_num_threads
    finally:
        os.sched_setaffinity(0, cores)
    assert threads == 1


def test_evaluator_leaves_torchs_number_of_threads_as_it_was(
    exports: Callable[[str], Exported], tiles: np.ndarray
) -> None:
    artifact, before = exports("coreml-int8").bundle.artifact, torch.get_num_threads()
    with mil.Runner(artifact, threads=1) as one, mil.Runner(artifact, threads=3) as three:
        hammer(lambda i: (one if i % 2 else three)(tiles[:1]), range(24))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_binds_no_thread_to_a_core(exports: Callable[[str], Exported], threads: int) -> None:
    """Each process would bind its first thread to the same core, and processes beside each other share that one."""
    bundle = exports("openvino-int8").bundle
    with openvino.Runner(bundle.artifact, threads=threads) as runner:
        assert runner._compiled.get_property("ENABLE_CPU_PINNING") is False
