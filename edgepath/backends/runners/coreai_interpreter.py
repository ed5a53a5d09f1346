"""Core AI programs where there is no macOS 27: Apple's own interpreter, with matmuls that add up in FP32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from . import coreai


class Runner(coreai.Runner):
    """`coreai.Runner` with its interpreter; `fp16_sums` and `threads` are that one's."""

    def __init__(self, artifact: Path, *, fp16_sums: bool = False, threads: int = 0) -> None:
        super().__init__(artifact, interpreter=True, fp16_sums=fp16_sums, threads=threads)
        self.reopen: Callable[[], coreai.Runner] = functools.partial(
            Runner, Path(artifact).absolute(), fp16_sums=fp16_sums, threads=threads
        )
