"""Pictures for people, drawn with matplotlib (extra `plots`): lines over steps, degrees or layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..machine.packages import require
from ..machine.writing import check_output, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe & Ito, https://jfly.uni-koeln.de/color: told apart under all common kinds of colour blindness.
BLUE, VERMILION, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#59636e"
_COLOURS = (BLUE, VERMILION, GREEN, "#cc79a7")
_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "figure.titlesize": 11,
    "font.size": 9,
    "grid.color": "#d8dee4",
    "legend.frameon": False,
    "savefig.dpi": 120,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "edgepath",  # the same figures are the same bytes
    "text.parse_math": False,  # a bundle's name may hold dollar signs
}
_UNDATED = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


@dataclass(frozen=True)
class Line:
    """A line's label and values; one that is `broad` lies pale under the others, so that an equal one hides it not."""

    label: str
    values: Sequence[float]
    colour: str | None = None
    broad: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines over the same places; `down` and `across` label the axes, `low` and `high` fix the one upwards."""

    title: str
    across: str
    down: str
    at: Sequence[float]
    lines: Sequence[Line]
    low: float | None = None
    high: float | None = None
    log: bool = False


def check_plot(path: Path | None, bundles: Sequence[Path], *, force: bool) -> None:
    """Refuse a picture, if one is asked for, that cannot be drawn or written, or that would lie in a bundle.

    Raises UsageError, and MissingRuntime without matplotlib.
    """
    if path is None:
        return
    require("matplotlib", "plots")
    final = path.resolve()
    try:
        usable = path.suffix == ".png" and final.parent.is_dir() and not final.is_dir()
    except OSError as error:
        raise UsageError(f"--plot {path}: cannot be written ({error.strerror})") from None
    if not usable:
        raise UsageError(f"--plot {path}: give a file that ends in .png, in a folder that exists")
    for bundle in bundles:
        if final.is_relative_to(bundle.resolve()):
            raise UsageError(f"--plot {path} lies in the bundle {bundle}, which holds nothing else; write it elsewhere")
    check_output(path, force=force)


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of this size in inches; write it as a PNG or SVG. Raises UsageError where it cannot."""
    require("matplotlib", "plots")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    kind = path.suffix[1:]
    with rc_context(_STYLE), replacing(path, "plot") as partial:
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(partial, format=kind, metadata=_UNDATED[kind])


def draw_panels(panels: Sequence[Panel], path: Path, *, columns: int = 1, heading: str = "") -> None:
    """Draw panels in rows of `columns` as a PNG. Raises UsageError where it cannot."""
    rows = -(-len(panels) // columns)
    with picture(path, 8 if columns == 1 else 5.5 * columns, 2.9 * rows + 0.4) as figure:
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        shared = len(panels) > 1 and len({tuple(line.label for line in panel.lines) for panel in panels}) == 1
        for panel, ax in zip(panels, axes, strict=False):
            _draw(ax, panel)
            if len(panel.lines) > 1 and not shared:  # between title and lines, so that it hides neither
                rows_of_legend = -(-len(panel.lines) // 2)
                ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
                ax.set_title(panel.title, pad=6 + 15 * rows_of_legend)
        for unused in axes[len(panels) :]:
            unused.remove()
        if shared and len(panels[0].lines) > 1:
            figure.legend(handles=figure.axes[0].lines, loc="outside lower center", ncols=2)
        figure.suptitle(heading)


def plain_numbers(axis: Axis) -> None:
    """Write an axis' numbers out, without a common factor or offset beside it."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_formatter(NullFormatter())


def _draw(ax: Axes, panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    for number, line in enumerate(panel.lines):
        colour, style = line.colour or _COLOURS[number % len(_COLOURS)], "--" if line.dashed else "-"
        width, strength = (6.0, 0.35) if line.broad else (1.6, 1.0)
        mark = "o" if len(panel.at) == 1 else None
        ax.plot(panel.at, line.values, style, color=colour, lw=width, alpha=strength, marker=mark, label=line.label)
    if panel.log:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    if all(float(at).is_integer() for at in panel.at):
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    plain_numbers(ax.xaxis)
    plain_numbers(ax.yaxis)
    ax.set(title=panel.title, xlabel=panel.across, ylabel=panel.down)
    room = 0.0 if panel.low is None or panel.high is None else 0.02 * (panel.high - panel.low)
    ax.set_ylim(None if panel.low is None else panel.low - room, None if panel.high is None else panel.high + room)
