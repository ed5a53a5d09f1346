"""ONNX bundles in a browser: ONNX Runtime Web computes what was checked, under Node and on the page.

It is fetched by npm, into the folder that $ORT_WEB names: `npm install --prefix FOLDER onnxruntime-web@1.30.0`.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
from browser import Browser, find_chromium
from PIL import Image

from edgepath.bundle.bundle import Bundle
from edgepath.exporting import Exported
from edgepath.machine.shipped import data_folder

Exports = Callable[[str], Exported]
VERSION = json.loads((data_folder("export") / "onnx/kit/web/package.json").read_text())["dependencies"]


def prepare(bundle: Bundle, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle.path / "kit/web/prepare.py"), str(out)]
    return subprocess.run(command, cwd=bundle.path, capture_output=True, text=True)


@pytest.fixture(scope="module")
def modules() -> Path:
    """The folder with onnxruntime-web."""
    folder = Path(os.environ.get("ORT_WEB", "build/web")).absolute() / "node_modules"
    package = folder / "onnxruntime-web/package.json"
    if shutil.which("node") is None or not package.is_file():
        pytest.skip("needs Node and $ORT_WEB: npm install --prefix build/web onnxruntime-web@1.30.0")
    assert json.loads(package.read_text())["version"] == VERSION["onnxruntime-web"]
    return folder


@pytest.fixture
def page(exports: Exports, modules: Path, tmp_path: Path) -> Path:
    made = tmp_path / "page"
    assert prepare(exports("onnx-int8").bundle, made).returncode == 0
    (made / "node_modules").symlink_to(modules)
    return made


@pytest.fixture
def served(page: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=page)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_page_is_made_outside_the_bundle_only(exports: Exports, tmp_path: Path) -> None:
    bundle = exports("onnx-int8").bundle
    for out in (bundle.path / "page", tmp_path):
        done = prepare(bundle, out)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done
    assert prepare(bundle, tmp_path / "page").returncode == 0
    tiles, reference = bundle.golden()
    assert (tmp_path / "page/tiles.bin").read_bytes() == tiles.tobytes()
    assert np.array_equal(np.fromfile(tmp_path / "page/reference.bin", np.float32).reshape(reference.shape), reference)


def test_artifact_computes_in_webassembly_what_was_checked(page: Path) -> None:
    done = subprocess.run(["node", "check.mjs"], cwd=page, capture_output=True, text=True)
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[2].endswith("passed")
    floor = 1 - json.loads((page / "facts.json").read_text())["noise_floor"]
    assert float(done.stdout.split("to the program ")[1].split(",")[0]) <= 2 * floor


def test_other_weights_fail_the_gate_under_node(page: Path) -> None:
    model = onnx.load(page / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8:
            flipped = np.frombuffer(tensor.raw_data, np.int8)[::-1]
            tensor.raw_data = flipped.tobytes()
    onnx.save(model, page / "model.onnx")
    done = subprocess.run(["node", "check.mjs"], cwd=page, capture_output=True, text=True)
    assert done.returncode == 1, done
    assert done.stdout.splitlines()[2].endswith("FAILED")


def test_without_the_package_node_says_what_to_run(page: Path) -> None:
    (page / "node_modules").unlink()
    done = subprocess.run(["node", "check.mjs"], cwd=page, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "check.mjs: onnxruntime-web is not here; run `npm install` first\n"


@pytest.mark.slow
def test_dropped_tile_finds_itself_on_the_page(
    exports: Exports, served: str, page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    binary = find_chromium()
    if binary is None:
        pytest.skip("needs Chromium or Chrome on the path, or named by $CHROMIUM (Debian: apt-get install chromium)")
    bundle = exports("onnx-int8").bundle
    tiles, _ = bundle.golden()
    Image.fromarray(tiles[2]).save(tmp_path / "tile.png")
    Image.fromarray(tiles[2][:100]).save(tmp_path / "small.png")
    (tmp_path / "odd.png").write_bytes(b"no image")
    browser = Browser(binary, tmp_path_factory.mktemp("profile"))
    try:
        browser.open(served, 1280)
        wait(browser, "document.body.dataset.ready === 'yes'")
        give(browser, tmp_path / "tile.png")
        wait(browser, "document.querySelectorAll('#nearest li').length === 5")
        captions = browser.evaluate("[...document.querySelectorAll('figcaption')].map(one => one.textContent)")
        similarity, name = captions[0].removeprefix("cosine ").split("\n")
        assert (name, float(similarity) > 0.999) == (bundle.manifest["held_out"]["keys"][2], True)
        assert browser.complaints() == []
        assert {url.startswith(served) for url in browser.requests()} == {True}  # nothing is sent anywhere
        give(browser, tmp_path / "small.png")
        wait(browser, "document.getElementById('said').textContent.includes('x 100; give a tile of')")
        assert browser.evaluate("document.querySelectorAll('#nearest li').length") == 0
        give(browser, tmp_path / "odd.png")
        wait(browser, "document.getElementById('said').textContent === 'odd.png is no image that this browser reads'")
    finally:
        browser.close()


def give(browser: Browser, file: Path) -> None:
    """Choose a file on the page, as a person does."""
    node = browser.call("DOM.getDocument")["root"]["nodeId"]
    chosen = browser.call("DOM.querySelector", nodeId=node, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", files=[str(file)], nodeId=chosen)


def wait(browser: Browser, expression: str) -> None:
    """Wait until an expression is true on the page."""
    end = time.monotonic() + 120
    while not browser.evaluate(expression):
        assert time.monotonic() < end, browser.evaluate("document.body.innerText")
        time.sleep(0.1)


@pytest.mark.parametrize("target", ["onnx-fp32", "onnx-int8", "jetson-fp16", "jetson-int8", "thor-fp8"])
def test_operations_outside_the_standard_are_the_documented_one(exports: Exports, target: str) -> None:
    graph = onnx.load(exports(target).bundle.path / "model.onnx", load_external_data=False).graph
    odd = {f"{node.domain}.{node.op_type}" for node in graph.node if node.domain}
    assert odd == ({"com.microsoft.MultiHeadAttention"} if target == "onnx-int8" else set())
