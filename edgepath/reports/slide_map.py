"""A slide as a picture: where its tiles lie, what their embeddings say of it, and where the artifact differs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks.drift import cosines
from ..slides.results import Finished
from ..tiles.slides.cutting import CutSlide
from ..tiles.slides.tissue import overview
from .plots import BLUE, GREEN, VERMILION, picture, plain_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..slides.against import FullPrecision
    from ..slides.listing import Entry

_LEAST = 1e-7  # of 1 - cosine: a program that repeats itself exactly has no noise floor to begin at
_WORST = 8
_ACROSS = 1000  # pixels, about, of the slide drawn small
_LEAST_SHARE = 0.02  # of tiles at either end that a colour does not stretch to


@dataclass(frozen=True)
class Pictures:
    """Draws each slide of a job as it is done, to `<folder>/<id>.png` where there is a folder.

    With `against`, the full-precision model embeds the same tiles, and `cosine_mean` and `cosine_min` of each tile's
    two embeddings are returned. Colours of 1 - cosine begin at the program's `noise_floor`, and `gate`, the most that
    its mean may be, is marked: one scale for all slides of a bundle.
    """

    bundle: str
    folder: Path | None
    against: FullPrecision | None = None
    noise_floor: float = 1e-6
    gate: float = 1e-2

    @property
    def key(self) -> str:
        """What is drawn and measured, for going on later."""
        parts = ["picture" if self.folder is not None else "", "fp32" if self.against is not None else ""]
        return "+".join(filter(None, parts))

    def __call__(self, entry: Entry, cut: CutSlide, embeddings: np.ndarray, which: np.ndarray) -> Finished:
        done: Finished = {}
        exact = None if self.against is None else self.against(cut, which)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            title = f"{entry.id}: {self.bundle}"
            span = (self.noise_floor, self.gate)
            draw_slide(self.folder / f"{entry.id}.png", cut, embeddings, which, title=title, against=exact, span=span)
            done["picture"] = f"{self.folder.name}/{entry.id}.png"
        if exact is not None:
            each = cosines(exact, embeddings)
            done["cosine_mean"], done["cosine_min"] = float(each.mean()), float(each.min())
        return done


def draw_slide(
    path: Path,
    cut: CutSlide,
    embeddings: np.ndarray,
    which: np.ndarray,
    *,
    title: str,
    against: np.ndarray | None = None,
    span: tuple[float, float] = (1e-6, 1e-2),
) -> None:
    """Draw a slide as a PNG, from the embeddings, float32 (N, D), of its tiles `which`, int64 (N,).

    Beside the slide with its tissue and grid stand the first three principal components of the embeddings, as red,
    green and blue. `against` are the full-precision model's embeddings of the same tiles: with them, 1 - cosine of each
    tile's two embeddings, its colours between the noise floor and the gate of `span`, and the tiles that lie farthest.
    Raises UsageError where the file cannot be written.
    """
    tall = cut.slide.height / cut.slide.width
    columns = 2 if against is None else 3
    width = 4.6 * columns + 0.8
    height = float(np.clip(4.4 * tall, 2.0, 9.0)) + (2.4 if against is not None else 0.8)
    with picture(path, width, height) as figure:
        above: Any = figure
        if against is not None:
            parts: Any = figure.subfigures(2, 1, height_ratios=[height - 1.6, 1.6])
            above, below = parts
        axes = above.subplots(1, columns)
        _draw_grid(axes[0], cut, which)
        _draw_components(axes[1], cut, embeddings, which)
        if against is not None:
            apart = 1 - cosines(against, embeddings) if len(which) else np.empty(0)
            _draw_drift(above, axes[2], cut, apart, which, span)
            _draw_worst(below, cut, apart, which)
        figure.suptitle(title)


def _draw_grid(ax: Axes, cut: CutSlide, which: np.ndarray) -> None:
    """Draw the slide small, its tissue outlined, and the grid; tiles that could not be decoded are crossed out."""
    from matplotlib.collections import LineCollection, PolyCollection

    pixels, *_ = overview(cut.slide, max(1.0, cut.slide.width / _ACROSS))
    ax.imshow(pixels, extent=(0, cut.slide.width, cut.slide.height, 0), interpolation="antialiased")
    ax.add_collection(LineCollection(cut.tissue.outlines(), colors=BLUE, linewidths=1.2))
    width, height = cut.scale.width, cut.scale.height
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    line = float(np.clip(60 / max(1.0, len(cut) ** 0.5 * 2), 0.1, 0.8))
    ax.add_collection(
        PolyCollection(cut.coords[:, None] + corners, facecolors="none", edgecolors=GREEN, linewidths=line)
    )
    bad = np.setdiff1d(np.arange(len(cut)), which)
    if len(bad):
        marks = cut.coords[bad][:, None] + corners
        ax.add_collection(PolyCollection(marks, facecolors="none", edgecolors="black", hatch="xxx", linewidths=0))
    _frame(
        ax, cut, f"{len(cut)} tiles of {cut.scale.mpp:g} um per pixel" + (f", {len(bad)} undecodable" * bool(len(bad)))
    )
    _scale_bar(ax, cut)


def _draw_components(ax: Axes, cut: CutSlide, embeddings: np.ndarray, which: np.ndarray) -> None:
    colours, shares = components(embeddings)
    _cells(ax, cut, which, np.c_[colours, np.ones(len(colours))])
    explained = ", ".join(f"{share:.0%}" for share in shares)
    _frame(ax, cut, f"first three components as R, G, B ({explained or 'too few tiles'})")


def components(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return principal components as colours, float64 (N, 3) from 0 to 1, and their shares of variance (<= 3,).

    The sign of each is such that its largest loading is positive, so that one slide gives one picture.
    """
    if len(embeddings) < 3:
        return np.full((len(embeddings), 3), 0.6), np.empty(0)
    centred = embeddings.astype(np.float64) - embeddings.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    vectors = vectors[:, ::-1][:, :3]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    projected = centred @ vectors
    low, high = np.quantile(projected, (_LEAST_SHARE, 1 - _LEAST_SHARE), axis=0)
    colours = ((projected - low) / np.where(high > low, high - low, 1)).clip(0, 1)
    return colours, values[::-1][:3].clip(0) / max(values.sum(), 1e-30)


def _draw_drift(
    figure: Any, ax: Axes, cut: CutSlide, apart: np.ndarray, which: np.ndarray, span: tuple[float, float]
) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    low, gate = drift_scale(*span)
    scale, colours = LogNorm(low, gate, clip=True), colormaps["viridis_r"]
    _cells(ax, cut, which, colours(scale(np.maximum(apart, low))))
    mean = f", mean {apart.mean():.1e}" if len(apart) else ""
    _frame(ax, cut, f"1 - cosine to full precision{mean}")
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=ax, extend="both", shrink=0.8)
    plain_numbers(bar.ax.yaxis)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    bar.ax.axhline(gate, color=VERMILION, linewidth=3, clip_on=False)
    least = "noise floor" if low == span[0] else "and less"
    for at, edge, text in ((1.06, "bottom", f"gate of the mean\n{gate:.2g}"), (-0.06, "top", f"{least}\n{low:.2g}")):
        bar.ax.text(0.5, at, text, transform=bar.ax.transAxes, ha="center", va=edge, fontsize=7)


def drift_scale(noise_floor: float, gate: float) -> tuple[float, float]:
    """Return the ends of the colours of 1 - cosine: the noise floor, and the gate; at least a factor of ten apart."""
    gate = max(gate, 10 * _LEAST)
    return min(max(noise_floor, _LEAST), gate / 10), gate


def _draw_worst(figure: Any, cut: CutSlide, apart: np.ndarray, which: np.ndarray) -> None:
    """Draw the tiles that lie farthest from full precision, farthest first."""
    axes = figure.subplots(1, _WORST)
    farthest = np.argsort(-apart, kind="stable")[:_WORST]
    for ax, place in zip(axes, farthest, strict=False):
        index = int(which[place])
        ax.imshow(cut.tile(index))
        x, y = cut.coords[index]
        ax.set_title(f"{apart[place]:.1e}\n({x}, {y})", fontsize=7)
    for ax in axes:
        ax.set_axis_off()


def _cells(ax: Axes, cut: CutSlide, which: np.ndarray, colours: np.ndarray) -> None:
    """Draw a colour, (N, 4) from 0 to 1, where each tile lies: one image, however many there are."""
    if not len(which):
        return
    coords = cut.coords[which]
    xs, ys = np.unique(cut.coords[:, 0]), np.unique(cut.coords[:, 1])
    sides = ((xs, cut.scale.width), (ys, cut.scale.height))
    steps = [float(np.diff(places).min()) if len(places) > 1 else side for places, side in sides]
    columns = np.rint((coords[:, 0] - xs[0]) / steps[0]).astype(int)
    rows = np.rint((coords[:, 1] - ys[0]) / steps[1]).astype(int)
    image = np.zeros((rows.max() + 1, columns.max() + 1, 4))
    image[rows, columns] = colours
    right, bottom = xs[0] + image.shape[1] * steps[0], ys[0] + image.shape[0] * steps[1]
    ax.imshow(image, extent=(xs[0], right, bottom, ys[0]), interpolation="nearest")


def _frame(ax: Axes, cut: CutSlide, title: str) -> None:
    ax.set_xlim(0, cut.slide.width)
    ax.set_ylim(cut.slide.height, 0)
    ax.set_aspect(cut.scale.slide_mpp[1] / cut.scale.slide_mpp[0])
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_facecolor("#f6f8fa")
    ax.set_title(title, fontsize=8)


def _scale_bar(ax: Axes, cut: CutSlide) -> None:
    """Draw a bar of a round length, about a fifth of the slide."""
    across = cut.slide.width * cut.scale.slide_mpp[0] / 1000  # mm
    length = 10.0 ** np.floor(np.log10(across / 5))
    length *= max(step for step in (1, 2, 5) if step * length <= across / 4)
    pixels = length * 1000 / cut.scale.slide_mpp[0]
    left, at = 0.03 * cut.slide.width, 0.97 * cut.slide.height
    ax.plot([left, left + pixels], [at, at], color="black", linewidth=3, solid_capstyle="butt")
    ax.annotate(f"{length:g} mm", (left, at), (0, 4), textcoords="offset points", fontsize=7)
