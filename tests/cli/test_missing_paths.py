"""A path that is not there is said at once: before torch or a runtime is imported, whatever the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from edgepath.exporting import Exported

Exports = Callable[[str], Exported]

_SLOW = ("torch", "timm", "onnxruntime", "openvino", "nncf", "scipy.stats", "sklearn", "matplotlib")
_RUN = f"""
import contextlib, io, json, sys
from edgepath import cli
for words in json.loads(sys.argv[1]):
    sys.argv, said = ["edgepath", *words], io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        cli.main()
    slow = [name for name in {_SLOW} if name in sys.modules]
    print(json.dumps([said.getvalue(), slow]), flush=True)
    if slow:
        break
"""


@pytest.fixture(scope="module")
def commands(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    bundle, out = str(exports("onnx-int8").bundle.path), str(tmp_path_factory.mktemp("out"))
    nowhere = f"{out}/nowhere"
    export, search = ["export", "--target", "onnx-int8", "--out", out], ["search", "--target", "onnx-int8"]
    search += ["--budget", "cosine_mean=0.9", "--out", f"{out}/r.toml"]
    distill = ["distill", "--teacher", "demo", "--student", "demo", "--out", f"{out}/run"]
    capture = ["reference", "capture", "--model", "demo", "--out", f"{out}/g.npz"]
    return [
        ["export", "--target", f"{nowhere}.toml"],
        *([*export, option, nowhere] for option in ("--weights", "--calibration", "--model-config")),
        [*export, "--weights", f"{nowhere}.pth::model"],
        *([*search, option, nowhere] for option in ("--weights", "--calibration", "--model-config")),
        [*distill, "--tiles", nowhere],
        *(
            [*distill, "--tiles", "synthetic:9", option, nowhere]
            for option in ("--teacher-weights", "--student-weights")
        ),
        [*distill, "--tiles", "synthetic:9", "--recipe", f"{nowhere}.toml"],
        [*capture, "--tiles", nowhere],
        *([*capture, "--tiles", "synthetic:9", option, nowhere] for option in ("--weights", "--model-config")),
        ["embed", nowhere, "synthetic:9", "--out", f"{out}/e.npz"],
        ["embed", bundle, nowhere, "--out", f"{out}/e.npz"],
        ["pack", "build", nowhere, "--out", f"{out}/pack"],
        ["pack", "check", nowhere],
        ["verify", nowhere],
        *(["verify", bundle, option, nowhere] for option in ("--tiles", "--golden")),
        ["verify", bundle, "--tiles", "synthetic:9", "--weights", nowhere],
        ["compare", bundle, nowhere],
        ["compare", bundle, bundle, "--tiles", nowhere],
        ["debug", nowhere],
        *(["debug", bundle, option, nowhere] for option in ("--tiles", "--weights")),
        ["lint", nowhere],
        ["sign", nowhere, "--key", nowhere],
        ["sign", bundle, "--key", nowhere],
        ["report", "add", bundle, nowhere],
        ["report", "page", bundle, "--curves", nowhere],
        ["robustness", nowhere],
        *(["robustness", bundle, option, nowhere] for option in ("--plism", "--paired", "--weights")),
        *(["curves", bundle, option, nowhere] for option in ("--tiles", "--weights")),
        ["probe", "labels", bundle, nowhere],
        ["probe", "hest", bundle, nowhere],
        ["bench", nowhere],
        *(["bench", bundle, option, nowhere] for option in ("--against", "--weights", "--compare")),
        *(["bench", "reference", "--model", "demo", option, nowhere] for option in ("--weights", "--compare")),
        ["slides", nowhere, "synthetic:1", "--out", f"{out}/s"],
        ["slides", bundle, nowhere, "--out", f"{out}/s"],
        ["slides", bundle, "synthetic:1", "--out", f"{out}/s", "--against", "fp32", "--weights", nowhere],
        ["slides", "check", nowhere],
    ]


def test_what_is_not_there_is_said_before_anything_slow_is_imported(commands: list[list[str]]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(commands)], capture_output=True, text=True, timeout=300
    )
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    for words, (message, slow) in zip(commands, ended, strict=False):
        assert not slow, (words, message, slow)
        assert "nowhere" in message, (words, message)
        assert message.count("\n") == 1, (words, message)
    assert len(ended) == len(commands), done.stderr
