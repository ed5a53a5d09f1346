"""What bundles are held against, each built once for all bundles of one model and runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..backends import find
from ..bundle.bundle import Bundle
from ..machine.progress import Progress
from . import peers
from .contenders import Contender, FullModel, build_full_precision, file_contender, full_model, torch_contenders
from .pinning import Pinning
from .results import Kind

KINDS = ("fp32", "torch", "peer")


class Rivals:
    """Builds and loads them; `notes` say what could not be measured.

    `scratch` is a folder for artifacts, `stack` closes what is loaded, `weights` are the model's where it was a file.
    """

    def __init__(
        self, pinning: Pinning, weights: str | Path | None, scratch: Path, stack: ExitStack, say: Progress
    ) -> None:
        self._threads, self._weights, self._scratch = pinning.threads, weights, scratch
        self._stack, self._say = stack, say
        self._models: dict[str, FullModel] = {}
        self._full_models: dict[tuple[str, str], Path] = {}
        self._loaded: dict[tuple[str, ...], list[Contender]] = {}
        self.notes: list[str] = []

    def of(self, bundle: Bundle, kinds: Sequence[str]) -> list[Contender]:
        """Return what `bundle` is held against, of the kinds that are no bundles, in their order."""
        contenders: list[Contender] = []
        for number, kind in enumerate(kinds):
            self._say("build", number, len(kinds))
            key = (kind, _model_of(bundle), "" if kind == "torch" else bundle.backend)
            if key not in self._loaded:
                self._loaded[key] = {"fp32": self._full, "torch": self._torch, "peer": self._peers}[kind](bundle)
            contenders += self._loaded[key]
        self._say("build", len(kinds), len(kinds))
        return contenders

    def _full(self, bundle: Bundle) -> list[Contender]:
        model = self._full_model_of(bundle)
        return [self._file(bundle, f"FP32 ({find(bundle.backend).title})", "full precision", model)]

    def _torch(self, bundle: Bundle) -> list[Contender]:
        loaded = torch_contenders(self._model(bundle), self._threads, self._stack)
        if len(loaded) == 1:
            self.notes.append("torch.compile was not measured: there is no C++ compiler here.")
        return [replace(contender, name=self._called(bundle, contender.name)) for contender in loaded]

    def _peers(self, bundle: Bundle) -> list[Contender]:
        model, golden = self._full_model_of(bundle), bundle.golden()[0]
        return [
            self._file(bundle, name, "peer", peers.build_peer(name, model, golden, self._folder()))
            for name in peers.OF[bundle.backend]
        ]

    def _file(self, bundle: Bundle, name: str, kind: Kind, path: Path) -> Contender:
        return file_contender(self._called(bundle, name), kind, bundle.backend, path, self._threads, self._stack)

    def _full_model_of(self, bundle: Bundle) -> Path:
        key = (_model_of(bundle), bundle.backend)
        if key not in self._full_models:
            recipe = bundle.recipe
            self._full_models[key] = build_full_precision(self._model(bundle).folded(), recipe, self._folder())
        return self._full_models[key]

    def _model(self, bundle: Bundle) -> FullModel:
        key = _model_of(bundle)
        if key not in self._models:
            self._models[key] = full_model(bundle, self._weights)
        return self._models[key]

    def _called(self, bundle: Bundle, name: str) -> str:
        """Name a rival also by the bundle it was made for where it is not the only one of its kind."""
        known = [contender.name for few in self._loaded.values() for contender in few]
        return name if name not in known else f"{name} of {bundle.path}"

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._scratch))


def _model_of(bundle: Bundle) -> str:
    return f"{bundle.weights.sha256} {bundle.contract.embedding} {bundle.contract.tokens}"
