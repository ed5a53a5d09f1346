"""Everything that can go wrong because of what a user asked for or gave us.

    EdgepathError            exit code 2; the message is one line: asked, found, what to do
    ├── UsageError           a name, option or combination that does not exist; an output that is in the way
    │   └── DiskFull         there is no room for what is to be written
    ├── RecipeError          a recipe with an unknown key, a value out of range, a missing table
    ├── WeightsError         weights that are missing, gated, corrupt, of another shape, or not finite
    ├── TileError            a tile or folder of tiles that cannot be read as asked
    │   └── BadTile          one tile of several that cannot be read; it can be left out
    ├── SlideError           a whole slide that cannot be opened, or not cut at the scale asked for
    ├── PackError            a calibration pack that does not match its manifest, or cannot be built
    ├── BundleError          a bundle that is incomplete, altered or of another schema
    └── MissingRuntime       a package, driver or host that is not here; the message says how to get it

A gate that fails is a result, not an error (exit code 1). A bug is neither: it prints its
traceback (exit code 70).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 2000


class EdgepathError(Exception):
    """Base of all errors a user can cause; prints as one line and ends the command with exit code 2."""


class UsageError(EdgepathError):
    """The request names something that does not exist, contradicts itself, or would overwrite an output."""


class DiskFull(UsageError):
    """There is no room for what is to be written."""


class RecipeError(EdgepathError):
    """A recipe cannot be used as written."""


class WeightsError(EdgepathError):
    """Weights are missing, gated, corrupt, of another shape, or not finite."""


class TileError(EdgepathError):
    """A tile, or a source of tiles, cannot be read as asked."""


class BadTile(TileError):
    """One tile of several cannot be read; with `skip_bad` it is left out."""


class SlideError(EdgepathError):
    """A whole slide cannot be opened, or not cut at the scale asked for."""


class PackError(EdgepathError):
    """A calibration pack cannot be built, or does not match its manifest."""


class BundleError(EdgepathError):
    """A bundle is incomplete, altered, or written by another schema."""


class MissingRuntime(EdgepathError):
    """A package, driver or host that this step needs is not here."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the tail of an error message: the nearest known names, or all of them when none is near."""
    known = sorted(known)
    near = get_close_matches(name, known, n=2, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(f'"{n}"' for n in near) + "?"
    return "known: " + ", ".join(known)


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error that is more than a heading ("Exception from core.cpp:132:").

    Its class where it says nothing.
    """
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith(":")), (lines or [type(error).__name__])[0])


def one_line(error: BaseException) -> str:
    """Return an error as the one line that ends a command, shortened in its middle: names may be of any length."""
    line = printable(str(error))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


def printable(text: str) -> str:
    """Return a text as one line for a terminal: what is no character to print becomes its code, `\\x1b`."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
