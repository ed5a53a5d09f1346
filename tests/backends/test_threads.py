"""A process that is kept to some cores gets no more threads than those: others would wait for each other on them."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from edgepath.backends.runners.onnxruntime import Runner
from edgepath.exporting import Exported


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or os.cpu_count() == 1, reason="needs cores to be kept from")
def test_onnx_runtime_takes_no_more_threads_than_there_are_cores_for_it(exports: Callable[[str], Exported]) -> None:
    artifact, cores = exports("onnx-fp32").bundle.path / "model.onnx", os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with Runner(artifact) as runner:
            threads = runner._session.get_session_options().intra_op_num_threads
    finally:
        os.sched_setaffinity(0, cores)
    assert threads == 1
