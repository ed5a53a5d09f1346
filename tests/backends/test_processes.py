"""A runner goes to other processes by what it was opened with; after a fork it works or says that it does not."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.backends.runners import executorch, mil, onnxruntime, openvino
from edgepath.bundle.bundle import Bundle, load_artifact, open_bundle
from edgepath.errors import BundleError, UsageError
from edgepath.exporting import Exported

Exports = Callable[[str], Exported]
BACKENDS = {
    "onnx-fp32": "onnxruntime",
    "openvino-int8": "openvino",
    "coreml-int8": "mil",
    "executorch-int8": "executorch",
}


def open_runner(bundle: Bundle, target: str, **options: Any) -> Any:
    return load_artifact(bundle, BACKENDS[target], **options)


@pytest.mark.parametrize("target", BACKENDS)
def test_copies_compute_what_the_runner_does(exports: Exports, target: str, tiles: np.ndarray) -> None:
    with open_runner(exports(target).bundle, target, threads=1) as runner:
        wanted = runner(tiles[:2])
        for again in (pickle.loads(pickle.dumps(runner)), copy.deepcopy(runner), copy.copy(runner)):
            with again:
                assert np.array_equal(again(tiles[:2]), wanted)
                assert again.runtime == runner.runtime
        assert np.array_equal(runner(tiles[:2]), wanted)


@pytest.mark.parametrize("target", BACKENDS)
def test_runner_of_a_kit_is_copied_too(exports: Exports, target: str, tiles: np.ndarray) -> None:
    kind = importlib.import_module(f"edgepath.backends.runners.{BACKENDS[target]}").Runner
    with kind(exports(target).bundle.artifact, threads=1) as runner:
        saved = pickle.dumps(runner)
        assert len(saved) < 1000
        with pickle.loads(saved) as again:
            assert np.array_equal(again(tiles[:1]), runner(tiles[:1]))


def test_copies_keep_every_option(exports: Exports, tiles: np.ndarray, tmp_path: Path) -> None:
    options = {"threads": 1, "precision": "f32", "hint": "throughput", "profile": True, "cache": str(tmp_path / "c")}
    with exports("openvino-int8").bundle.runner(**options) as runner, copy.deepcopy(runner) as again:
        again(tiles[:1])
        assert again.operations()
        assert len(again.stream([tiles[:1], tiles[1:2]])) == 2


def test_copy_opens_the_bundle_from_any_folder(
    exports: Exports, tiles: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exports("onnx-fp32").bundle.path
    monkeypatch.chdir(path.parent)
    with open_bundle(path.name).runner(threads=1) as runner:
        saved, wanted = pickle.dumps(runner), runner(tiles[:1])
    monkeypatch.chdir(tmp_path)
    with pickle.loads(saved) as again:
        assert np.array_equal(again(tiles[:1]), wanted)


def test_copy_of_a_bundle_that_changed_is_refused(exports: Exports, tmp_path: Path) -> None:
    shutil.copytree(exports("onnx-fp32").bundle.path, tmp_path / "bundle")
    with open_bundle(tmp_path / "bundle").runner() as runner:
        saved = pickle.dumps(runner)
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"altered")
    with pytest.raises(BundleError, match="its manifest says"):
        pickle.loads(saved)
    shutil.rmtree(tmp_path / "bundle")
    shutil.copytree(exports("onnx-int8").bundle.path, tmp_path / "bundle")
    with pytest.raises(BundleError, match="another bundle than the one"):
        pickle.loads(saved)


# --- closed


@pytest.mark.parametrize("target", BACKENDS)
def test_closed_runner_says_so(exports: Exports, target: str, tiles: np.ndarray) -> None:
    with open_runner(exports(target).bundle, target) as runner:
        pass
    with runner:  # closed again: nothing happens
        pass
    calls: list[Callable[[], object]] = [lambda: runner(tiles[:1]), lambda: runner.outputs(tiles[:1])]
    if target == "openvino-int8":
        calls += [lambda: runner.stream([tiles[:1]]), runner.requests, runner.linears]
    for call in calls:
        with pytest.raises(RuntimeError, match=r"^this runner is closed; open another$"):
            call()


# --- options


@pytest.mark.parametrize("threads", [-1, 1.5, "2", None, True, 1025])
def test_number_of_threads_that_is_none_is_refused(exports: Exports, threads: Any) -> None:
    said = rf"threads is {threads!r}; a whole number from 0 to 1024 is needed, and 0 lets the runtime choose$"
    for target in BACKENDS:
        with pytest.raises(UsageError, match=rf"^bundle \S+: {said}"):
            open_runner(exports(target).bundle, target, threads=threads)
    for module in (onnxruntime, openvino, mil, executorch):
        with pytest.raises(ValueError, match=f"^{said}"):
            module.Runner(Path("not looked at"), threads=threads)


def test_number_of_threads_may_be_numpys(exports: Exports, tiles: np.ndarray) -> None:
    for target in BACKENDS:
        with open_runner(exports(target).bundle, target, threads=np.int64(1)) as runner:
            assert len(runner(tiles[:1])) == 1


@pytest.mark.parametrize("options", [{"device": "NO_SUCH"}, {"precision": "f99"}, {"hint": "never"}])
def test_whole_bundle_is_not_blamed_for_an_option(exports: Exports, options: dict[str, str]) -> None:
    with pytest.raises(BundleError) as caught:
        exports("openvino-int8").bundle.runner(**options)
    ((name, value),) = options.items()
    assert f"cannot load model.xml with {name}={value} (" in str(caught.value)
    assert "export it again" not in str(caught.value)
    assert "\n" not in str(caught.value)


# --- forked

FORKED = """
import os, sys, threading, time
import numpy as np
from pathlib import Path
from edgepath.backends.runners.{backend} import Runner

tiles = np.load(sys.argv[2])
runner = Runner(Path(sys.argv[1]), threads={threads})
wanted = runner(tiles)
other = Runner(Path(sys.argv[1]), threads={threads})
threading.Thread(target=lambda: [other(tiles) for _ in range(10**9)], daemon=True).start()

def child():
    {body}

for leave in (os._exit, sys.exit):
    pid = os.fork()
    if not pid:
        sys.stdout.flush()
        code = child()
        leave(code)
    for _ in range(600):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(pid, 9)
        sys.exit(f"the child hangs ({{leave}})")
    if status:
        print(f"the child ended with {{status}} ({{leave}})", file=sys.stderr)
        os._exit(1)
assert np.array_equal(runner(tiles), wanted)
print("done", flush=True)
os._exit(0)
"""
WORKS = "return 0 if all(np.allclose(runner(tiles), wanted, atol=1e-5) for _ in range(3)) else 3"
OPENS = "again = Runner(Path(sys.argv[1])); " + WORKS.replace("runner(", "again(")
REFUSES = """
    for call in (lambda: runner(tiles), lambda: runner.stream([tiles]), lambda: Runner(Path(sys.argv[1]))):
        try:
            call()
        except RuntimeError as error:
            if not str(error).startswith("OpenVINO was started before this process was forked"):
                raise
        else:
            return 3
    return 0
"""
IDLE = "return 0"
CHILDREN = {
    "ONNX Runtime is opened anew": ("onnx-int8", WORKS),
    "ONNX Runtime is opened by the child": ("onnx-int8", OPENS),
    "ONNX Runtime is not used": ("onnx-int8", IDLE),
    "OpenVINO refuses": ("openvino-int8", REFUSES),
    "OpenVINO is not used": ("openvino-int8", IDLE),
    "OpenVINO is closed": ("openvino-int8", "runner.__exit__(); return 0"),
    "the evaluator works": ("coreml-int8", WORKS),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("how", CHILDREN)
def test_after_a_fork(exports: Exports, how: str, threads: int, tiles: np.ndarray, tmp_path: Path) -> None:
    target, body = CHILDREN[how]
    np.save(tmp_path / "tiles.npy", tiles[:1])
    backend = BACKENDS.get(target, "onnxruntime")
    script = FORKED.format(backend=backend, threads=threads, body=body)
    command = [sys.executable, "-W", "ignore", "-c", script, str(exports(target).bundle.artifact)]
    done = subprocess.run([*command, str(tmp_path / "tiles.npy")], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


SIGNALS = """
import os, signal, sys
import numpy as np
import edgepath
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(True))
bundle = edgepath.open_bundle(sys.argv[1])
tiles = np.zeros((1, bundle.size, bundle.size, 3), np.uint8)
first, second = bundle.runner(threads=1), bundle.runner(threads=1)
for runner in (first, second):
    runner(tiles)
for runner in (first, second):
    runner.__exit__(None, None, None)
del first, second, runner
os.kill(os.getpid(), signal.SIGUSR1)
assert heard
"""


@pytest.mark.parametrize("target", ["openvino-int8", "onnx-int8"])
def test_signals_are_heard_after_runners_that_ended_in_the_order_they_began(
    exports: Callable[[str], Exported], target: str
) -> None:
    """OpenVINO left the process without a stack for them: Ctrl-C was a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", SIGNALS, exports(target).bundle.path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
