"""Exported programs evaluated as they are written: what `torchtrt` builds is checked with this."""

from __future__ import annotations

from .backend import Backend

BACKEND = Backend(
    name="exported",
    title="PyTorch, FP16 rounding",
    package="torch",
    extra="export",
    runner="edgepath.backends.runners.exported",
    on_cpu=True,
)
