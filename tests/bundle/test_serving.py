"""What a kit holds for model servers: their files name what the artifact has, and what a server answers is judged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepath.backends.runners.openvino import core
from edgepath.bundle.bundle import Bundle
from edgepath.exporting import Exported

Exports = Callable[[str], Exported]


@contextmanager
def server(bundle: Bundle, noise: float = 0.0) -> Iterator[str]:
    """A server of the Open Inference Protocol with a bundle's artifact; `noise` is added to what it answers."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send({"name": bundle.name, "versions": ["1"], "platform": "test"})

        def do_POST(self) -> None:
            (given,) = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
            assert (given["name"], given["datatype"]) == ("tiles", "UINT8")
            found = runner(np.array(given["data"], np.uint8).reshape(given["shape"]))
            found = found + noise * np.random.default_rng(0).standard_normal(found.shape).astype(np.float32)
            self._send({"outputs": [{"name": "embedding", "shape": list(found.shape), "data": found.ravel().tolist()}]})

        def _send(self, content: dict[str, Any]) -> None:
            known = self.path.startswith(f"/v2/models/{bundle.name}")
            raw = json.dumps(content if known else {"error": "no such\nmodel"}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    with bundle.runner(threads=1) as runner, ThreadingHTTPServer(("127.0.0.1", 0), Answer) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def check(bundle: Bundle, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(bundle.path / "kit/check.py"), "--runs", "1", "--force", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_served_artifact_is_judged(exports: Exports, tmp_path: Path) -> None:
    bundle = exports("onnx-int8").bundle
    local = json.loads(check(bundle, tmp_path, "--json", "--set", "threads=1").stdout)
    with server(bundle) as url:
        done = check(bundle, tmp_path, "--json", "--server", url, "--set", f"model={bundle.name}")
        other = check(bundle, tmp_path, "--server", url, "--set", "model=other")
    assert done.returncode == 0, done
    report = json.loads(done.stdout)
    assert report["drift"] == local["drift"]
    assert report["ran_with"] == f"a model server ({bundle.name}, test, ['1'])"
    assert (other.returncode, len(other.stderr.splitlines())) == (2, 1)
    assert 'models/other answers 404 Not Found: {"error": "no such' in other.stderr


def test_server_that_answers_other_numbers_fails_the_gates(exports: Exports, tmp_path: Path) -> None:
    bundle = exports("onnx-int8").bundle
    with server(bundle, noise=1.0) as url:
        done = check(bundle, tmp_path, "--json", "--server", url, "--set", f"model={bundle.name}")
    assert done.returncode == 1, done
    assert json.loads(done.stdout)["passed"] is False


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:9", "file:///etc/passwd"])
def test_server_that_is_not_there_is_one_line(exports: Exports, tmp_path: Path, url: str) -> None:
    done = check(exports("onnx-int8").bundle, tmp_path, "--server", url)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done
    assert url in done.stderr


def test_kit_without_files_for_servers_says_so(exports: Exports, tmp_path: Path) -> None:
    bundle = exports("coreml-int8").bundle
    assert not (bundle.path / "kit/serving").exists()
    done = check(bundle, tmp_path, "--server", "http://127.0.0.1:9")
    assert "this bundle's kit has nothing for servers" in done.stderr


@pytest.mark.parametrize("target", ["onnx-int8", "openvino-int8"])
def test_triton_is_told_what_the_artifact_takes_and_returns(exports: Exports, target: str) -> None:
    bundle = exports(target).bundle
    text = (bundle.path / "kit/serving/config.pbtxt").read_text()
    assert f'name: "{bundle.name}"' in text
    model = core().read_model(bundle.artifact)  # of ONNX, too
    ((taken, shape),) = re.findall(r'input \[ \{ name: "(\w+)" data_type: TYPE_UINT8 dims: \[ (.*?) \]', text)
    assert taken in model.input(0).get_names()
    assert [str(side) for side in model.input(0).partial_shape][1:] == shape.split(", ")
    ((returned, width),) = re.findall(r'output \[ \{ name: "(\w+)" data_type: TYPE_FP32 dims: \[ (\d+) \]', text)
    assert (model.output(returned).partial_shape[1].get_length(), int(width)) == (bundle.dim, bundle.dim)


def test_openvino_model_server_computes_as_the_bundle_was_checked(exports: Exports) -> None:
    bundle = exports("openvino-int8").bundle
    content = json.loads((bundle.path / "kit/serving/config.json").read_text())
    ((config,),) = [[one["config"] for one in content["model_config_list"]]]
    assert (config["name"], config["base_path"]) == (bundle.name, bundle.name)
    served = core().compile_model(bundle.artifact, config["target_device"], config["plugin_config"])
    with bundle.runner() as runner:
        for key in ("INFERENCE_PRECISION_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE", "PERFORMANCE_HINT"):
            assert served.get_property(key) == runner._compiled.get_property(key)
