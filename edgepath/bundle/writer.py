"""A bundle written complete, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from ..errors import BundleError, UsageError
from ..machine.writing import NewFolder
from .bundle import _walk, sha256
from .manifest import MANIFEST, SCHEMA, check_name, contents, parse, read_manifest


class BundleWriter:
    """Fill `path`, then `commit(manifest)`: the bundle appears under `final` complete, or not at all.

    Use it in a `with` block. Entering raises UsageError where `final` is in the way: a bundle without `force`, anything
    else also with it. A full disk raises BundleError. An exception or SIGTERM removes what was written.
    """

    def __init__(self, final: str | Path, *, force: bool = False) -> None:
        self._folder = NewFolder(final, "bundle", BundleError, _may_replace, force=force)
        self.final = self._folder.final

    def __enter__(self) -> BundleWriter:
        self.path = self._folder.__enter__().path
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._folder.__exit__(kind, error, at)

    def commit(self, manifest: Mapping[str, object]) -> None:
        """Write `bundle.json` (`manifest`, with `schema` and `files` added), flush everything to disk, and rename."""
        files = {}
        for name in sorted(_walk(self.path)):
            check_name(name, f"bundle {self.final}")
            files[name] = {"sha256": sha256(self.path / name), "size_bytes": (self.path / name).stat().st_size}
        complete = {**manifest, "schema": SCHEMA, "files": files}
        contents(complete, f"bundle {self.final}")
        with open(self.path / MANIFEST, "x", encoding="utf-8") as file:
            file.write(json.dumps(complete, indent=2, allow_nan=False) + "\n")
        self._folder.commit()


def _may_replace(final: Path, force: bool) -> None:
    """Raise BundleError for what is no bundle, UsageError for one without `force`, or with anything else in it."""
    listed = parse(read_manifest(final), f"bundle {final}")["files"].keys() | {MANIFEST}
    foreign = sorted(set(_walk(final)) - listed)
    if not force:
        raise UsageError(f"{final} exists; give --force to replace it, or another name")
    if foreign:
        raise UsageError(f"{final} holds {foreign[0]}, which is not the bundle's; move it away to replace the bundle")
