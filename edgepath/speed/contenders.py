"""What is timed: a bundle's artifact, its model in full precision in the same runtime, and the model in PyTorch."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import builds_of, every, find
from ..bundle.bundle import Bundle
from ..bundle.running import artifact_bytes
from ..errors import MissingRuntime, UsageError
from ..machine.packages import require
from ..recipes.recipe import Precision, Recipe
from .results import Kind


@dataclass(frozen=True)
class Contender:
    """Something loaded that embeds tiles, uint8 (N, S, S, 3); `artifact` is its file where it has one."""

    name: str
    kind: Kind
    run: Callable[[np.ndarray], object]
    runtime: str
    backend: str = ""
    artifact: Path | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class FullModel:
    """A bundle's full-precision model, loaded once for all that is made of it."""

    vit: Any
    spec: Any
    embedding: str
    tokens: bool

    def folded(self) -> Any:
        """Return the folded model, not quantized: what the bundle's program is a rounding of."""
        from ..program.fold import fold

        return fold(copy.deepcopy(self.vit), self.spec, embedding=self.embedding, tokens=self.tokens)


def bundle_contender(bundle: Bundle, name: str, threads: int, stack: ExitStack) -> Contender:
    """Load a bundle with its own runtime: another one's speed would say nothing about its device's.

    Raises MissingRuntime where that does not run here.
    """
    options = {"threads": threads} if find(bundle.backend).on_cpu else {}
    try:
        runner = stack.enter_context(bundle.runner(**options))
    except MissingRuntime as error:
        raise MissingRuntime(
            f"bench: {error}; its graph in another runtime says nothing about its device's speed, so it is not timed "
            "here: run kit/check.py on the device, then edgepath report add"
        ) from None
    return Contender(
        name, "bundle", runner, runner.runtime, bundle.backend, bundle.artifact, artifact_bytes(bundle.artifact)
    )


def file_contender(name: str, kind: Kind, backend: str, artifact: Path, threads: int, stack: ExitStack) -> Contender:
    """Load an artifact that belongs to no bundle."""
    runner = stack.enter_context(find(backend).load_runner()(artifact, threads=threads))
    return Contender(name, kind, runner, runner.runtime, backend, artifact, artifact_bytes(artifact))


def full_model(bundle: Bundle, weights: str | Path | None) -> FullModel:
    """Load the full-precision model a bundle was made from; see `rebuilding.same_weights` for what is raised."""
    require("torch", "export")
    from ..program.rebuilding import same_weights

    vit, spec, _ = same_weights(bundle, weights)
    return FullModel(vit, spec, bundle.contract.embedding, bundle.contract.tokens)


def build_full_precision(net: Any, recipe: Recipe, folder: Path) -> Path:
    """Lower a folded model, not quantized, for the runtime of `recipe`, as its backend lowers a program.

    Raises UsageError for a backend that runs elsewhere.
    """
    if not find(recipe.backend).can_compare_full_precision:
        known = " and ".join(backend.title for backend in every() if backend.can_compare_full_precision)
        raise UsageError(
            f"bench: full precision is built for {known}, {recipe.target} is for {recipe.backend}; leave out "
            "--against fp32"
        )
    from ..program.forms import Program

    folder.mkdir(parents=True, exist_ok=True)
    full_precision = replace(recipe, precision=Precision("fp32", "fp32"))
    return builds_of(recipe.backend).build(Program(net), folder, full_precision)


def torch_contenders(model: FullModel, threads: int, stack: ExitStack) -> list[Contender]:
    """Return the unmodified model in PyTorch, eager and, where there is a C++ compiler, compiled."""
    import torch

    from ..models import reference

    stack.callback(torch.set_num_threads, torch.get_num_threads())
    torch.set_num_threads(threads)

    def load() -> reference.Runner:
        vit, spec = copy.deepcopy(model.vit), model.spec
        return stack.enter_context(reference.Runner(vit, spec.mean, spec.std, model.embedding, by_torch=True))

    eager = load()
    contenders = [Contender("torch eager FP32", "torch eager", eager, eager.runtime)]
    if compiler():
        compiled = load()
        compiled.compile()
        contenders.append(Contender("torch.compile FP32", "torch compiled", compiled, f"{compiled.runtime}, compiled"))
    return contenders


def compiler() -> str | None:
    """Return the C++ compiler that `torch.compile` would use on the CPU, None where there is none."""
    names = (os.environ.get("CXX", "g++"), "clang++")
    return next((path for name in names if (path := shutil.which(name))), None)
