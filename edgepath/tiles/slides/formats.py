"""One open slide file, as OpenSlide or wsidicom reads it: what it says of itself, and regions of its pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import SlideError, first_line

_CACHE_BYTES = 64 << 20  # decoded tiles of the file, shared by all threads that read it
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NO_SLIDE = ("LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER")  # kinds of a DICOM image


@dataclass(frozen=True)
class Level:
    """One resolution of a slide: pixels, and how many of the finest level's one of its pixels spans."""

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class Metadata:
    """What a file says of itself.

    `mpp` is micrometres per pixel of the finest level in x and y, None where the metadata have none; `power` is the
    objective's magnification.
    """

    vendor: str
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    power: float | None
    properties: Mapping[str, str]


class Handle(Protocol):
    """An open file: `read` returns uint8 (height, width, 3), its corner at level-0 pixel (x, y), from any thread."""

    metadata: Metadata

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray: ...

    def close(self) -> None: ...


def open_handle(path: Path) -> tuple[Handle, Callable[[], Handle]]:
    """Return an open handle on a slide, and what opens another; SlideError in one line for what is no slide."""
    import openslide

    file = main_file(path)
    series = _series(file) if file.suffix.lower() == ".dcm" else []
    try:
        return _OpenSlide(file), lambda: _OpenSlide(file)
    except openslide.OpenSlideUnsupportedFormatError:
        why = _unknown(file)
    except (openslide.OpenSlideError, OSError) as error:
        why = first_line(error)
    if not series:
        raise SlideError(f"slide {path}: cannot be opened as a whole slide ({why}); copy it again, or leave it out")
    try:
        return _Dicom(series), lambda: _Dicom(series)
    except Exception as error:  # wsidicom and pydicom raise nearly every type there is
        raise SlideError(f"slide {path}: OpenSlide says {why}; wsidicom says {first_line(error)}") from None


def main_file(path: Path) -> Path:
    """Return the file to open: of a folder of DICOM, the first one of the slide; SlideError where there is no one."""
    if not path.is_dir():
        return path
    kinds = {file: _kind(file) for file in sorted(path.glob("*.dcm"))}
    series = {uid for uid, _ in kinds.values()}
    if len(series) > 1:
        raise SlideError(f"slide {path}: a folder with {len(series)} DICOM series; give each slide a folder of its own")
    slide = [file for file, (_, kind) in kinds.items() if not kind]
    if not slide:
        there = "a folder with no slide among its DICOM files" if kinds else "a folder with no DICOM files (*.dcm)"
        raise SlideError(f"slide {path}: {there}; give a slide's file, or its folder of DICOM")
    return slide[0]


def _series(file: Path) -> list[Path]:
    """Return the DICOM files beside one that are of its slide. Raises SlideError for an image of a label."""
    series, kind = _kind(file)
    if kind:
        raise SlideError(f"slide {file}: a DICOM image of kind {kind}, no slide; give the slide's files or folder")
    return [other for other in sorted(file.parent.glob("*.dcm")) if _kind(other)[0] == series]


def _kind(file: Path) -> tuple[str, str]:
    """Return a DICOM file's series, and what it shows where that is no slide."""
    import pydicom

    try:
        head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "ImageType"])
    except Exception as error:
        raise SlideError(f"slide {file}: cannot be read as DICOM ({first_line(error)})") from None
    kinds = [kind for kind in head.get("ImageType", ()) if kind in _NO_SLIDE]
    return str(head.get("SeriesInstanceUID", "")), "/".join(kinds)


def _unknown(file: Path) -> str:
    """Say why a file that OpenSlide does not know may be none that it knows."""
    with open(file, "rb") as opened:
        tiff = opened.read(4) in _TIFF
    if not tiff:
        return "no format that OpenSlide knows"
    return "a TIFF of no scanner, with no tiles inside: `vips tiffsave IN OUT.tif --tile --pyramid` writes one"


class _OpenSlide:
    """OpenSlide is safe to read from several threads, and they share what was decoded."""

    def __init__(self, file: Path) -> None:
        import openslide

        self._slide = openslide.OpenSlide(file)
        self._slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        properties = dict(self._slide.properties)
        sizes = zip(self._slide.level_dimensions, self._slide.level_downsamples, strict=True)
        levels = tuple(Level(*size, downsample) for size, downsample in sizes)
        both = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
        mpp = None if both[0] is None or both[1] is None else (both[0], both[1])
        power = _number(properties.get("openslide.objective-power"))
        self.metadata = Metadata(properties.get("openslide.vendor", "unknown"), levels, mpp, power, properties)

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        rgba = np.asarray(self._slide.read_region((x, y), level, (width, height)))
        rgb, alpha = rgba[..., :3], rgba[..., 3:]
        if alpha.min() == 255:
            return rgb
        if not alpha.any():  # where a scanner saw nothing, it wrote nothing
            return np.full(rgb.shape, 255, np.uint8)
        share = alpha.astype(np.float32) / 255
        return np.asarray(np.rint(rgb * share + 255 * (1 - share)), np.uint8)

    def close(self) -> None:
        self._slide.close()


class _Dicom:
    def __init__(self, files: list[Path]) -> None:
        from wsidicom import WsiDicom

        self._slide = WsiDicom.open(files)
        sizes = [level.size for level in self._slide.levels]
        levels = tuple(Level(size.width, size.height, sizes[0].width / size.width) for size in sizes)
        spacing = self._slide.levels[0].mpp
        mpp = (spacing.width, spacing.height) if spacing else None
        self.metadata = Metadata("dicom", levels, mpp, None, {})

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        image = self._slide.levels[level]
        scale = self.metadata.levels[level].downsample
        corner = (round(x / scale), round(y / scale))
        inside = (min(width, image.size.width - corner[0]), min(height, image.size.height - corner[1]))
        pixels = np.full((height, width, 3), 255, np.uint8)
        region = self._slide.read_region(corner, image.level, inside)
        pixels[: inside[1], : inside[0]] = np.asarray(region.convert("RGB"))
        return pixels

    def close(self) -> None:
        self._slide.close()


def _number(text: str | None) -> float | None:
    """Return a property that is a number, None for another."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
