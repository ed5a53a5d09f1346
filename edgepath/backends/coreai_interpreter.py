"""Core AI programs run by Apple's interpreter: what `coreai` builds is checked with this."""

from __future__ import annotations

from .backend import Backend

BACKEND = Backend(
    name="coreai_interpreter",
    title="Core AI interpreter",
    package="coreai-core",
    distribution="coreai-core",
    extra="coreai",
    runner="edgepath.backends.runners.coreai_interpreter",
    on_cpu=True,
    tiles_at_export=16,  # of H0-mini, one takes 3 s of a core
)
