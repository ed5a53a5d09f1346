"""`robustness`: does the artifact find the same tissue again as well as the full-precision model does?"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle.bundle import Bundle
from ..checks.bounds import ALPHA, UNSEEN, Bounds, mean_bounds, worst_of
from ..checks.gates import Gate, loss_gate
from ..errors import UsageError
from ..machine.progress import Progress
from ..machine.scratch import scratch
from ..recipes.recipe import Recipe
from .both_models import ARTIFACT, FULL, BothModels, both_models, judged, opened
from .feature_folder import ORIGIN, Extractor, embed_slides
from .results import Robustness
from .slides import SlideSet, open_slides

if TYPE_CHECKING:
    from .pairs import ByPlace


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
    """Measure PLISM's robustness figures for an artifact and its full-precision model, and judge what was lost.

    Without `plism` and `paired`, synthetic tissue is drawn in 13 stainings on 7 scanners.

    Args:
        bundle: A bundle folder, or a bundle that `open_bundle` returned.
        plism: A folder of owkin/plism-dataset's files.
        paired: A folder with one folder per scanner; files of one name show the same location.
        tiles: How many locations; with `plism` also row numbers.
        features: A folder that keeps the embeddings, in plism-benchmark's layout, so that an interrupted run continues.
        half: Return the float16 figures that plism-benchmark prints; gates stay on those of float32.
        weights: The weights that the bundle was exported from, where they were a file (`FILE::KEY`) or a folder.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        threads: CPU threads of the artifact's runtime; 0 lets it choose.
        device: Where the full-precision model runs: `auto`, `cpu`, `cuda` or `cuda:INDEX`.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        Medians over pairs of slides by group, and gates, JSON-able; `result["passed"]` is the verdict.

    Raises:
        TileError: Slides do not fit together.
        UsageError: The features are of another model, tiles or settings.
        EdgepathError: What `verify` raises.
    """
    bundle, recipe = opened(bundle)
    size = bundle.size
    slides = open_slides(plism=plism, paired=paired, tiles=tiles, size=size, resize=resize)
    from .pairs import measure_slides
    from .plism import leaderboard, summarise

    texts, measured = [*_of_slides(slides), *_of_looks(bundle, slides)], {}
    with (
        _feature_folder(features, bundle) as root,
        both_models(bundle, recipe, weights=weights, threads=threads, device=device, progress=progress) as models,
    ):
        counters = models.counters(len(slides.slides) * slides.places)
        folders = _folders(root, models, slides)
        extractors = [Extractor(models.runners[name], folder, counters[name]) for name, folder in folders.items()]
        files, counts = embed_slides(extractors, slides, bundle.dim)
        kept = dict(zip(folders, counts, strict=True))
        for name, of in zip(folders, files, strict=True):
            texts += _of_kept(name, kept[name], list(of.values()))
            compared = measure_slides(slides, of, bundle.dim, half=half, device=models.device, say=models.progress)
            measured[name] = compared
    rows = {name: of.half if half else of.exact for name, of in measured.items()}
    figures = {name: summarise(of) for name, of in rows.items()}
    texts += _of_half(figures[FULL]["all"], summarise(measured[FULL].exact)["all"]) if half else []
    return {
        "kind": "robustness",
        **models.measured(texts),
        "slides": slides.to_json(),
        "float16": half,
        "kept_slides": kept,
        "figures": figures,
        "leaderboard": {name: leaderboard(summary) for name, summary in figures.items()},
        **judged(gates(recipe, measured[FULL].places, measured[ARTIFACT].places, _certain(slides.places))),
        "pairs": rows,
    }


@contextmanager
def _feature_folder(features: str | Path | None, bundle: Bundle) -> Iterator[Path]:
    """Yield the folder that embeddings are kept in, one that goes where none is named.

    It is tried before the first slide's take an hour.
    """
    if features is None:
        with scratch("features") as made:
            yield made
        return
    folder = Path(features)
    if folder.resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(f"--features {folder} lies in the bundle, which holds nothing else; give another folder")
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


def _of_slides(slides: SlideSet) -> list[str]:
    """What a reader must know of the places."""
    texts = []
    if slides.kind == "synthetic":
        texts.append("Synthetic tissue: what was lost to full precision counts, not how robust the model is.")
    if certain := _certain(slides.places):
        texts.append(f"So few locations cannot miss {', '.join(certain)}: no gate on it.")
    return texts


def _certain(places: int) -> list[str]:
    """Return the figures that are 1 whatever the model: a tile has no more than k others."""
    from .plism import TOP

    return [f"top{k}" for k in TOP if 2 * places - 1 <= k]


def _of_looks(bundle: Bundle, slides: SlideSet) -> list[str]:
    looks = (bundle.manifest.get("calibration") or {}).get("looks") if slides.kind == "synthetic" else 0
    note = (
        "INT8 was tuned on other tissue in these stain-scanner combinations; --plism and --paired judge it on others."
    )
    return [note] if looks else []


def _of_half(figures: Mapping[str, Any], exact: Mapping[str, Any]) -> list[str]:
    """Say where plism-benchmark's own figures mislead, and by how much here."""
    medians = ", ".join(
        f"{key} {figures[key]['median']:.4f} ({exact[key]['median']:.4f})" for key in ("cosine", "top1")
    )
    return [
        "float16: figures as plism-benchmark prints them; gates are of float32. Near 1 its cosines are multiples of "
        "0.0005, equal ones count in the order of rows, and the nearest is dropped as if it were the tile itself. "
        f"Medians over all pairs, full precision (in float32): {medians}."
    ]


def _of_kept(name: str, kept: int, files: Sequence[Path]) -> list[str]:
    """Say whose embeddings were made by an earlier run, on whatever it ran with, and whether on these very tiles."""
    unsure = sum(not path.with_name(ORIGIN).is_file() for path in files)
    of = f" Of {unsure} it is not known from which tiles: no {ORIGIN} lies beside them." if unsure else ""
    return [f"{name}: {kept} of {len(files)} slides were embedded by an earlier run.{of}"] if kept else []


def gates(recipe: Recipe, full: ByPlace, artifact: ByPlace, certain: Sequence[str] = ()) -> list[Gate]:
    """Hold what the artifact lost, on average over places and pairs of slides, against `[accept.robustness]`.

    Each group of pairs is judged, and the staining and the scanner that lost most: a mean over all pairs hardly moves
    when one scanner of seven fails. Where slides differ in one thing only, that group is all pairs, and is judged once.
    Places are what is sampled, slides are not: verdicts are of these stainings and scanners on other tissue. `certain`
    are figures to leave out.
    """
    allowed = {key: value for key, value in asdict(recipe.accept.robustness).items() if key not in certain}
    groups = [("pairs", group) for group in _groups() if ("pairs", group) in full.sums]
    if any(full.pairs[group] == full.pairs["pairs", "all"] for group in groups if group != ("pairs", "all")):
        groups.remove(("pairs", "all"))
    bounds = _lost(full, artifact, allowed, groups, ALPHA)
    held = [
        loss_gate(figure, f"{group}, mean over pairs", bounds[figure][number], most)
        for number, (_, group) in enumerate(groups)
        for figure, most in allowed.items()
    ]
    for kind in ("staining", "scanner"):
        looks = sorted(key for key in full.sums if key[0] == kind and key[1])
        if len(looks) < 2:
            continue
        for figure, of in _lost(full, artifact, allowed, looks, ALPHA / len(looks)).items():
            worst = max(zip(looks, of, strict=True), key=lambda pair: pair[1].estimate)[0][1]
            name = f"pairs of {kind} {worst}, the worst of {len(looks)}"
            held.append(loss_gate(figure, name, worst_of(of), allowed[figure]))
    return held


def _lost(
    full: ByPlace, artifact: ByPlace, allowed: Mapping[str, float], keys: Sequence[tuple[str, str]], alpha_low: float
) -> dict[str, list[Bounds]]:
    """Return, by figure, what the artifact lost of it in the pairs of each key.

    A place that was not seen may lose all of its hits; of its cosine, `UNSEEN` times what may be lost on average.
    """
    columns = [(figure, key) for figure in allowed for key in keys]
    values = np.column_stack([full.lost(artifact, *column) for column in columns])
    most = np.array([UNSEEN * allowed[figure] if figure == "cosine" else 1.0 for figure, _ in columns])
    bounds = iter(mean_bounds(values, "places", -most, most, alpha_low=alpha_low))
    return {figure: [next(bounds) for _ in keys] for figure in allowed}


def _groups() -> Sequence[str]:
    from .plism import GROUPS

    return GROUPS
