"""Core ML packages evaluated where there is no Core ML: what `coreml` builds is checked with this."""

from __future__ import annotations

from .backend import Backend

BACKEND = Backend(
    name="mil",
    title="MIL evaluator",
    package="torch and coremltools",
    distribution="coremltools",
    extra="coreml",
    runner="edgepath.backends.runners.mil",
    on_cpu=True,
    needs=(("torch", "coreml"), ("coremltools", "coreml")),
)
