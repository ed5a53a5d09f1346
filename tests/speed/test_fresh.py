"""Cold start and memory are those of a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgepath.errors import MissingRuntime
from edgepath.exporting import Exported
from edgepath.speed.fresh import cold_starts, peak_memory

Exports = Callable[[str], Exported]


def test_cold_start_with_and_without_a_model_cache(exports: Exports) -> None:
    artifact = exports("openvino-int8").bundle.artifact
    found = cold_starts("one", "openvino", artifact, size=224, threads=1, times=2)
    assert [(one["cache"], one["n"]) for one in found] == [(False, 2), (True, 2)]
    for one in found:
        assert one["total_s"] == pytest.approx(np.median(one["samples_s"]), abs=1e-3)
        assert min(one[key] for key in ("import_s", "load_s", "first_s")) > 0
    assert [path.name for path in artifact.parent.iterdir() if "cache" in path.name or path.suffix == ".blob"] == []


def test_a_runtime_without_a_cache_has_one_entry(exports: Exports) -> None:
    artifact = exports("onnx-int8").bundle.artifact
    found = cold_starts("one", "onnxruntime", artifact, size=224, threads=1, times=1)
    assert [one["cache"] for one in found] == [False]


def test_peak_memory_is_not_this_processs(exports: Exports) -> None:
    ballast = np.ones(1 << 26)  # 512 MB
    (found,) = peak_memory("one", "onnxruntime", exports("onnx-int8").bundle.artifact, size=224, threads=1, batches=[2])
    assert ballast.all()
    assert 10e6 < found["start_bytes"] < found["peak_bytes"] < 400e6
    assert (found["name"], found["batch"]) == ("one", 2)


def test_what_lies_in_the_working_directory_is_not_run(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = exports("onnx-int8").bundle.artifact
    for name in ("json", "subprocess", "numpy", "onnxruntime"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    cold_starts("one", "onnxruntime", artifact, size=224, threads=1, times=1)
    assert not (tmp_path / "planted").exists()


def test_what_a_fresh_process_cannot_load_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingRuntime, match=r"a fresh process cannot run none\.onnx \(.*none\.onnx"):
        peak_memory("one", "onnxruntime", tmp_path / "none.onnx", size=224, threads=1, batches=[1])
