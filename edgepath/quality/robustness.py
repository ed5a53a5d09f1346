"""`robustness`: does the artifact find the same tissue again as well as the full-precision model does?"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ..bundle.bundle import Bundle
from ..checks.gates import Gate, loss_gate
from ..errors import UsageError
from ..machine.progress import Progress
from ..recipes.recipe import Recipe
from .both_models import ARTIFACT, FULL, BothModels, Measured, Verdict, both_models, judged, opened
from .feature_folder import ORIGIN, embed_slides
from .slides import SlideSet, open_slides

Pair = dict[str, Any]
"""Of which slides, in which group, and PLISM's figures."""


class Robustness(Measured, Verdict):
    """What `robustness` returns: by model, each group's figures, PLISM's one number, and every pair's figures."""

    kind: Literal["robustness"]
    slides: dict[str, Any]
    float16: bool
    kept_slides: dict[str, int]
    figures: dict[str, dict[str, Any]]
    leaderboard: dict[str, float | None]
    pairs: dict[str, list[Pair]]


def robustness(
    bundle: str | Path | Bundle,
    *,
    plism: str | Path | None = None,
    paired: str | Path | None = None,
    tiles: Sequence[int] | int | None = None,
    features: str | Path | None = None,
    half: bool = False,
    weights: str | Path | None = None,
    resize: str = "refuse",
    threads: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Robustness:
    """Measure PLISM's figures for a bundle's artifact and for its full-precision model, and gate on what was lost.

    On synthetic tissue in 13 stainings on 7 scanners, on `plism` (a folder of owkin/plism-dataset's files), or on
    `paired` (a folder with a folder a scanner). `tiles` says how many places, or which rows. `features` keeps the
    embeddings, in plism-benchmark's layout, so that an interrupted run goes on; `half` rounds them to float16 before
    they are compared, as plism-benchmark does. Returns the figures, JSON-able; `result["passed"]` is the verdict.

    Raises TileError for slides that do not fit together, UsageError for features of others, and what `verify` raises.
    """
    bundle, recipe = opened(bundle)
    size = bundle.manifest["contract"]["size"]
    slides = open_slides(plism=plism, paired=paired, tiles=tiles, size=size, resize=resize)
    from .plism import leaderboard, measure_slides, summarise

    said, rows, kept = [*_of_slides(slides), *_of_looks(bundle, slides)], {}, {}
    with (
        _feature_folder(features, bundle) as root,
        both_models(bundle, recipe, weights=weights, threads=threads, device=device, progress=progress) as models,
    ):
        counters = models.counters(len(slides.slides) * slides.places)
        for name, folder in _folders(root, models, slides).items():
            files, kept[name] = embed_slides(models.runners[name], slides, folder, bundle.dim, counters[name])
            said += _of_kept(name, kept[name], list(files.values()))
            rows[name] = measure_slides(slides, files, bundle.dim, half=half, device=models.device, say=models.progress)
    figures = {name: summarise(of) for name, of in rows.items()}
    return {
        "kind": "robustness",
        **models.measured(said),
        "slides": slides.to_json(),
        "float16": half,
        "kept_slides": kept,
        "figures": figures,
        "leaderboard": {name: leaderboard(summary) for name, summary in figures.items()},
        **judged(_gates(recipe, slides, rows, figures)),
        "pairs": rows,
    }


@contextmanager
def _feature_folder(features: str | Path | None, bundle: Bundle) -> Iterator[Path]:
    """Yield the folder that embeddings are kept in, one that goes where none is named.

    It is tried before the first slide's take an hour.
    """
    if features is None:
        with tempfile.TemporaryDirectory(prefix="edgepath-") as made:
            yield Path(made)
        return
    folder = Path(features)
    if folder.resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"features {folder} lie in the bundle, which holds nothing else; give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"features {folder}: cannot be written ({error.strerror}); give another folder") from None
    yield folder


def _folders(root: Path, models: BothModels, slides: SlideSet) -> dict[str, Path]:
    """Return where each model's embeddings of these slides are kept, by what they depend on."""
    bundle, of_slides = models.bundle, slides.identity()
    weights = hashlib.sha256(models.made_from.encode()).hexdigest()[:8]
    return {
        FULL: root / f"{bundle.model.replace(':', '-')}-fp32-{weights}{of_slides}",
        ARTIFACT: root / f"{bundle.name}-{bundle.digest[:8]}{of_slides}",
    }


def _gates(
    recipe: Recipe, slides: SlideSet, rows: Mapping[str, list[Pair]], figures: Mapping[str, dict[str, Any]]
) -> list[Gate]:
    looks = {slide.name: (slide.staining, slide.scanner) for slide in slides.slides}
    found = [
        *gates(recipe, figures[FULL], figures[ARTIFACT], slides.places),
        *worst_gates(recipe, rows[FULL], rows[ARTIFACT], looks),
    ]
    return [gate for gate in found if gate.figure not in _certain(slides.places)]


def _of_slides(slides: SlideSet) -> list[str]:
    """What a reader must know of the places."""
    said = []
    if slides.kind == "synthetic":
        said.append("Synthetic tissue: what was lost to full precision counts, not how robust the model is.")
    if slides.places < 100:
        step = f"{50 / slides.places:.1f} points"
        said.append(
            f"{slides.places} places only: a share of them moves in steps of {step}; a few tiles decide a gate. "
            "Where a step is more than may be lost, the mean over pairs is judged, not the median."
        )
    if certain := _certain(slides.places):
        said.append(f"So few places cannot miss {', '.join(certain)}: no gate on it.")
    return said


def _certain(places: int) -> list[str]:
    """Return the figures that are 1 whatever the model: a tile has no more than k others."""
    from .plism import TOP

    return [f"top{k}" for k in TOP if 2 * places - 1 <= k]


def _of_looks(bundle: Bundle, slides: SlideSet) -> list[str]:
    looks = (bundle.manifest.get("calibration") or {}).get("looks") if slides.kind == "synthetic" else 0
    said = "INT8 was tuned on other tissue in these very looks; --plism and --paired judge it on others."
    return [said] if looks else []


def _of_kept(name: str, kept: int, files: Sequence[Path]) -> list[str]:
    """Say whose embeddings were made by an earlier run, on whatever it ran with, and whether on these very tiles."""
    unsure = sum(not path.with_name(ORIGIN).is_file() for path in files)
    of = f" Of {unsure} it is not known from which tiles: no {ORIGIN} lies beside them." if unsure else ""
    return [f"{name}: {kept} of {len(files)} slides were embedded by an earlier run.{of}"] if kept else []


def worst_gates(
    recipe: Recipe,
    full: Sequence[Mapping[str, Any]],
    artifact: Sequence[Mapping[str, Any]],
    looks: Mapping[str, tuple[str, str]],
) -> list[Gate]:
    """Hold the scanner and the staining that lost most, on average over its pairs, against `[accept.robustness]`.

    A median over all pairs hardly moves when one scanner of seven fails.
    """
    found = []
    for kind, which in (("staining", 0), ("scanner", 1)):
        names = sorted({look[which] for look in looks.values()} - {""})
        if len(names) < 2:
            continue
        for figure, allowed in asdict(recipe.accept.robustness).items():
            lost: dict[str, list[float]] = {name: [] for name in names}
            for one, other in zip(full, artifact, strict=True):
                for name in {looks[slide][which] for slide in one["of"]} & lost.keys():
                    lost[name].append(one[figure] - other[figure])
            means = {name: sum(values) / len(values) for name, values in lost.items()}
            worst = max(means, key=lambda name: means[name])
            found.append(loss_gate(figure, f"pairs of {kind} {worst}, the worst", means[worst], allowed))
    return found


def gates(recipe: Recipe, full: Mapping[str, Any], artifact: Mapping[str, Any], places: int) -> list[Gate]:
    """Hold what the artifact lost, in each group's medians, against the recipe's `[accept.robustness]`.

    The share of a pair's tiles that find their twin, and so the median of shares, moves in steps of one of 2 x `places`
    tiles. Where that is more than may be lost, one tile would decide: the means over pairs are held instead.
    """
    found = []
    for group, figures in full.items():
        for figure, allowed in asdict(recipe.accept.robustness).items():
            coarse = figure != "cosine" and 1 / (2 * places) > allowed
            how, of = ("mean", f"{group}, mean over pairs") if coarse else ("median", group)
            found.append(loss_gate(figure, of, figures[figure][how] - artifact[group][figure][how], allowed))
    return found
