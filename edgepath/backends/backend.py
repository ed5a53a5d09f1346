"""What edgepath has to know of a runtime, as one value; and the runtimes that are known, by name."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, did_you_mean
from ..machine.packages import EXTRAS, pip_install, require, require_all, version_of

if TYPE_CHECKING:
    from .contents import Layer, Parts
    from .tensorrt_network.network import Network

Calls = list[list[tuple[str, str, float]]]
"""Of every call of an artifact, its operations: kind, precision it was executed in, milliseconds."""


@dataclass(frozen=True)
class Runtime:
    """What ran an artifact: `kind` is the backend's name, `text` how its runner describes itself to people.

    Of a runner that is no backend's, `kind` is its module.
    """

    kind: str
    name: str
    version: str
    text: str

    def to_json(self) -> dict[str, str]:
        """Return kind, name and version; the text stands beside them, as `ran_with`."""
        return {"kind": self.kind, "name": self.name, "version": self.version}


@dataclass(frozen=True)
class Found:
    """Whether a runtime is usable here, in words what is here and what is not, and how to get it."""

    usable: bool
    detail: str
    install: str


@dataclass(frozen=True)
class Builds:
    """How a backend's artifact is built and read back.

    Attributes:
        build: takes the program (`program.forms.Program`), a folder and the recipe, writes the artifact into the folder
            and returns its path. It raises UsageError, naming the node, for a graph that the vendor's builder refuses.
        needs: the package that building takes besides the extra `export`.
        kit: the folder of `export/` whose kit goes into the bundle, besides the one that all have.
        kit_modules: modules of `runners` that go into the kit beside the runner, under their own names.
        precisions: what it can build, as (linears, everything else).
        checked_with: the backend that can run its artifact on a machine that edgepath runs on, itself or another.
        was_checked_with: the one that older recipes and bundles name in its place.
        suffix: of the artifact's file or folder.
        read: the contents of an artifact.
        layers: its quantized layers, each to be run alone, by their place among the products with weights.
        reads_with: the package that reading takes, and the extra that installs it.
        check: what is wrong with a recipe's `[deploy]` table for this backend, "" for nothing.
        split_projections: whether an INT8 program is built with queries, keys and values apart.
        float_class_token: whether the class token's activations may stay in floating point.
        stand_in: what a reader must know where another runtime ran the artifact.
        checked_how: what is done with an artifact on the machine that makes it, in a table's words.
        ran_on: what its own runtime has run an artifact on, for tables: "" for nothing of its kind.
        network: the TensorRT network that an artifact becomes (`tensorrt_network.network.Network`), in memory.
        network_needs: modules that making it takes.
        int8_note: what nobody has shown of its INT8.
    """

    build: Callable[[Any, Path, Any], Path]
    needs: str
    precisions: tuple[tuple[str, str], ...]
    checked_with: str
    suffix: str
    read: Callable[[Path], Parts]
    layers: Callable[[Path], Mapping[int, Layer]]
    reads_with: tuple[str, str]
    kit: str = ""
    kit_modules: tuple[str, ...] = ()
    was_checked_with: str = ""
    check: Callable[[Any], str] = lambda recipe: ""
    split_projections: bool = False
    float_class_token: bool = False
    stand_in: str = ""
    checked_how: str = "running it"
    ran_on: str = ""
    int8_note: str = ""
    network: Callable[[Path], Network] | None = None
    network_needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backend:
    """A runtime that artifacts are run with and, where `builds` says how, built for.

    Attributes:
        name: as recipes and bundles have it.
        title: as people know it.
        package: what its runner imports; `distribution` where that has another name.
        extra: of edgepath, which installs it.
        runner: the module with `Runner`. It stands alone: it is copied into a bundle's kit.
        on_cpu: whether it runs on any machine's CPU, with a number of `threads` as its runner's option.
        tiles_at_export: how many golden tiles an export runs it on at most: one that takes seconds a tile, few.
        needs: packages that running takes besides its own, each with the extra that installs it.
        look: whether it is usable here, where that takes more than its package.
        model_cache: whether its runner has an option `cache`, a folder that keeps the compiled model.
        profile: the operations of calls of an artifact: takes path, tiles, threads, calls, and how many to leave out.
    """

    name: str
    title: str
    package: str
    extra: str
    runner: str
    distribution: str = ""
    builds: Builds | None = None
    on_cpu: bool = False
    tiles_at_export: int = 32
    needs: tuple[tuple[str, str], ...] = ()
    look: Callable[[], Found] | None = None
    model_cache: bool = False
    profile: Callable[[Path, Any, int, int, int], Calls] | None = None

    def load_runner(self) -> Any:
        """Return the class `Runner`; its vendor's package is imported when one is made."""
        return importlib.import_module(self.runner).Runner

    def runner_file(self) -> Path:
        """Return the file of the runner's module, for kits."""
        return module_file(self.runner)

    @property
    def version(self) -> str | None:
        """The version of its package that is installed here."""
        return version_of(self.distribution or self.package)

    def availability(self) -> Found:
        """Return whether it is usable here."""
        if self.look is not None:
            return self.look()
        return Found(self.version is not None, self.version or "not installed", pip_install(self.extra))

    @property
    def can_compare_full_precision(self) -> bool:
        """Whether the same model can be built for it in full precision and run here, to compare its speed with."""
        return self.on_cpu and self.builds is not None

    def require_to_build(self) -> None:
        """Raise MissingRuntime, with the command that installs it, unless all that building takes is here."""
        assert self.builds is not None
        require_all([*EXTRAS["export"], self.builds.needs], "export")

    def require_to_run(self) -> None:
        """Raise MissingRuntime, with the command that installs it, unless what running takes besides it is here."""
        for package, extra in self.needs:
            require(package, extra)


def module_file(name: str) -> Path:
    """Return the file of a module of edgepath's, which need not be imported."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


_KNOWN: dict[str, Backend] = {}


def register(backend: Backend) -> Backend:
    """Make a backend known. Raises ValueError where its name is taken."""
    if backend.name in _KNOWN:
        raise ValueError(f"a backend {backend.name} is known already")
    _KNOWN[backend.name] = backend
    return backend


def find(name: str) -> Backend:
    """Return a backend by name. Raises UsageError naming the nearest known ones."""
    if name not in _KNOWN:
        raise UsageError(f'backend "{name}" is not known; {did_you_mean(name, _KNOWN)}')
    return _KNOWN[name]


def ran_by(runner: Any) -> Runtime:
    """Return what a runner runs artifacts with; of one that is no backend's, its module's name and what it says."""
    modules = [kind.__module__ for kind in type(runner).__mro__]
    for module, backend in ((module, backend) for module in modules for backend in _KNOWN.values()):
        if backend.runner == module:
            return Runtime(backend.name, backend.title, backend.version or "", runner.runtime)
    return Runtime(modules[0], type(runner).__qualname__, "", runner.runtime)


def builds_of(name: str) -> Builds:
    """Return how the artifacts of a backend are built and read. Raises UsageError for one that builds none."""
    builds = find(name).builds
    if builds is None:
        raise UsageError(f'backend "{name}" builds no artifacts; {did_you_mean(name, targets())}')
    return builds


def every() -> tuple[Backend, ...]:
    """Return all that are known, in the order they were registered."""
    return tuple(_KNOWN.values())


def targets() -> tuple[str, ...]:
    """Return the names of those that artifacts are built for."""
    return tuple(name for name, backend in _KNOWN.items() if backend.builds is not None)
