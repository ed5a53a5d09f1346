"""A slide before it is embedded: opened, identified, and cut, its first tiles read, unless its file is current."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import EdgepathError
from ..tiles.slides.cutting import CutSettings, CutSlide, cut_open
from ..tiles.slides.reader import open_slide
from . import sidecar
from .listing import Entry
from .results import SlideRow, row
from .streaming import Stream


@dataclass(frozen=True)
class Prepared:
    """A slide's tiles, the row of one that is kept, or why it cannot be read.

    `seconds` are those that preparing took.
    """

    seconds: float
    identity: dict[str, Any] = field(default_factory=dict)
    tiles: Stream | None = None
    kept: SlideRow | None = None
    error: EdgepathError | None = None

    def close(self) -> None:
        """Close the slide; once more does nothing."""
        if self.tiles is not None:
            self.tiles.close()
            self.tiles.cut.__exit__()


Prepare = Callable[[], Prepared]
"""Returns a prepared slide."""


@dataclass(frozen=True)
class Preparation:
    """Prepares the slides of the job `key` that writes to `out`.

    `finish_key` is of what is done besides, if at all; `stream` reads a slide's tiles.
    """

    out: Path
    settings: CutSettings
    key: str
    finish_key: str | None
    stream: Callable[[CutSlide], Stream]

    def __call__(self, entry: Entry) -> Prepared:
        """Prepare a slide."""
        start = time.perf_counter()
        try:
            prepared = self._prepare(entry)
        except EdgepathError as error:  # a slide that cannot be read, or settings that do not fit it
            prepared = Prepared(0, error=error)
        return replace(prepared, seconds=time.perf_counter() - start)

    def _prepare(self, entry: Entry) -> Prepared:
        settings = self.settings
        if entry.mpp is not None:
            settings = replace(settings, mpp_of_slide=entry.mpp)
        if entry.mask is not None:
            settings = replace(settings, tissue=entry.mask)
        slide, tiles = open_slide(entry.path), None
        try:
            identity = slide.identity() | {"mpp_of_slide": settings.mpp_of_slide, "mask": _mask_sha256(settings)}
            known = sidecar.is_current(self.out, entry.id, self.key, identity)
            if known is None or not self._finished(known):
                tiles, known = self.stream(cut_open(slide, settings)), None
        finally:
            if tiles is None:
                slide.__exit__()
        kept = None if known is None else _kept(entry.id, known, finished=self.finish_key is not None)
        return Prepared(0, identity, tiles, kept)

    def _finished(self, known: dict[str, Any]) -> bool:
        return self.finish_key is None or sidecar.is_finished(self.out, known, self.finish_key)


@contextmanager
def prepared_ahead(
    entries: Sequence[Entry], prepare_one: Callable[[Entry], Prepared]
) -> Iterator[Iterator[tuple[Entry, Prepare]]]:
    """Yield slides, each with what returns it prepared: the next one is prepared while one is embedded.

    The first is begun at once, so that it is ready when the artifact is loaded.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="edgepath-prepare") as pool:
        begun = [pool.submit(prepare_one, entry) for entry in entries[:1]]

        def slides() -> Iterator[tuple[Entry, Prepare]]:
            for number, entry in enumerate(entries):
                begun[-1].exception()  # it is ready
                begun.extend(pool.submit(prepare_one, following) for following in entries[number + 1 : number + 2])
                yield entry, begun[0].result
                del begun[0]  # it was embedded, and closed

        try:
            yield slides()
        finally:
            for future in begun:
                if not future.cancel() and future.exception() is None:
                    future.result().close()


def _kept(id: str, known: dict[str, Any], *, finished: bool) -> SlideRow:
    kept = row(id, "kept", tiles=known["tiles"], bad=known["bad"])
    kept["mpp"], kept["cautions"] = known["mpp"]["found"][0], known["cautions"]
    kept.update(known.get("finished", {}) if finished else {})
    return kept


def _mask_sha256(settings: CutSettings) -> str | None:
    return None if settings.tissue in ("otsu", "none") else sidecar.file_sha256(Path(settings.tissue))
