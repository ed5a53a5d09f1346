"""`robustness`: does the artifact find the same tissue again as well as the full-precision model does?"""

from __future__ import annotations

import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..backends import Runtime, ran_by
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.running import open_runner
from ..checks.gates import Gate, all_passed, loss_gate, to_json
from ..checks.summary import notes
from ..errors import UsageError
from ..machine.packages import require
from ..machine.progress import Progress, counter
from ..program.rebuilding import same_weights
from ..recipes.recipe import Recipe
from .feature_folder import ORIGIN, embed_slides, load_features
from .slides import SlideSet, open_slides

FULL, ARTIFACT = "full precision", "artifact"
_HELD = 1 << 30  # bytes of unit embeddings held at once


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
) -> dict[str, Any]:
    """Measure PLISM's figures for a bundle's artifact and for its full-precision model, and gate on what was lost.

    On synthetic tissue in 13 stainings on 7 scanners, on `plism` (a folder of owkin/plism-dataset's files), or on
    `paired` (a folder with a folder a scanner). `tiles` says how many places, or which rows. `features` keeps the
    embeddings, in plism-benchmark's layout, so that an interrupted run goes on; `half` rounds them to float16 before
    they are compared, as plism-benchmark does. Returns the figures, JSON-able; `result["passed"]` is the verdict.

    Raises TileError for slides that do not fit together, UsageError for features that are not theirs, and what
    `verify` raises.
    """
    require("torch", "export")
    from ..machine.hardware import pick_device
    from ..models import reference

    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    recipe, contract = Recipe.from_json(bundle.manifest["recipe"]), bundle.manifest["contract"]
    say = progress or (lambda stage, done, total: None)
    device = pick_device(device)
    slides = open_slides(plism=plism, paired=paired, tiles=tiles, size=contract["size"], resize=resize)
    vit, spec, loaded = same_weights(bundle, weights)
    count = len(slides.slides) * slides.places
    with ExitStack() as stack:
        root = Path(features or stack.enter_context(tempfile.TemporaryDirectory(prefix="edgepath-")))
        if root.resolve().is_relative_to(bundle.path.resolve()):
            raise UsageError(f"features {root} lie in the bundle, which holds nothing else; give another folder")
        _check_writable(root)
        artifact = stack.enter_context(open_runner(bundle, recipe, threads))
        full = stack.enter_context(reference.Runner(vit, spec.mean, spec.std, contract["embedding"], device))
        model = f"{loaded.sha256} {spec.mean} {spec.std} {contract['embedding']}"
        known_as = bundle.model.replace(":", "-")
        made_on = {
            FULL: f"{known_as}-fp32-{hashlib.sha256(model.encode()).hexdigest()[:8]}{slides.identity()}",
            ARTIFACT: f"{bundle.name}-{bundle.digest[:8]}{slides.identity()}",
        }
        rows, ran_with, kept, unsure = {}, {}, {}, {}
        for name, run in ((FULL, full), (ARTIFACT, artifact)):
            advance = counter(say, f"embed, {name}", count)
            files, kept[name] = embed_slides(run, slides, root / made_on[name], bundle.dim, advance)
            unsure[name] = sum(not path.with_name(ORIGIN).is_file() for path in files.values())
            ran_with[name] = run.runtime
            rows[name] = measure_slides(slides, files, bundle.dim, half=half, device=device, say=say)
        ran = ran_by(artifact)
    return _result(bundle, recipe, slides, rows, ran_with, kept, unsure, half, ran)


def measure_slides(
    slides: SlideSet,
    files: Mapping[str, Path],
    dim: int,
    *,
    half: bool = False,
    device: str = "cpu",
    say: Progress = lambda stage, done, total: None,
) -> list[dict[str, Any]]:
    """Return PLISM's figures of every pair of slides, from their files of features (see `featurefolder`).

    Slides are compared block by block, so that no more than 1 GiB of them is held.
    """
    from .plism import (
        Slide,
        compare,
        pairs,
        prepare,
    )

    of_slide = slides.places * dim * 4
    block = max(1, _HELD // (2 * of_slide))
    held: OrderedDict[int, Slide] = OrderedDict()

    def get(index: int) -> Slide:
        if index not in held:
            if len(held) >= 2 * block:
                held.popitem(last=False)
            slide = slides.slides[index]
            held[index] = prepare(load_features(files[slide.name], slide, dim), slide.name, half=half, device=device)
        held.move_to_end(index)
        return held[index]

    found = []
    everything = pairs([(slide.staining, slide.scanner) for slide in slides.slides])
    ordered = sorted(everything, key=lambda pair: (pair[0] // block, pair[1] // block))
    for number, (a, b, group) in enumerate(ordered):
        names = [slides.slides[i].name for i in (a, b)]
        found.append({"of": names, "group": group} | compare(get(a), get(b)))
        say("compare", number + 1, len(ordered))
    return found


def _result(
    bundle: Bundle,
    recipe: Recipe,
    slides: SlideSet,
    rows: Mapping[str, list[dict[str, Any]]],
    ran_with: Mapping[str, str],
    kept: Mapping[str, int],
    unsure: Mapping[str, int],
    half: bool,
    ran: Runtime,
) -> dict[str, Any]:
    from .plism import leaderboard, summarise

    summaries = {name: summarise(of) for name, of in rows.items()}
    looks = {slide.name: (slide.staining, slide.scanner) for slide in slides.slides}
    judged = [
        *gates(recipe, summaries[FULL], summaries[ARTIFACT], slides.places),
        *worst_gates(recipe, rows[FULL], rows[ARTIFACT], looks),
    ]
    judged = [gate for gate in judged if gate.figure not in _certain(slides.places)]
    return {
        "name": bundle.name,
        "bundle": bundle.digest,
        "slides": slides.to_json(),
        "ran_with": dict(ran_with),
        "float16": half,
        "cautions": bundle.manifest["cautions"],
        "kept_slides": dict(kept),
        "notes": _of_slides(slides)
        + _of_looks(bundle, slides)
        + _of_kept(kept, unsure, len(slides.slides))
        + notes(recipe, ran),
        "figures": summaries,
        "leaderboard": {name: leaderboard(summary) for name, summary in summaries.items()},
        "gates": to_json(judged),
        "passed": all_passed(judged),
        "pairs": dict(rows),
    }


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


def _of_kept(kept: Mapping[str, int], unsure: Mapping[str, int], slides: int) -> list[str]:
    """Say whose embeddings were made by an earlier run, on whatever it ran with, and whether on these very tiles."""
    said = []
    for name, count in kept.items():
        if count:
            of = f" Of {unsure[name]} it is not known from which tiles: no {ORIGIN} lies beside them."
            said.append(
                f"{name}: {count} of {slides} slides were embedded by an earlier run.{of if unsure[name] else ''}"
            )
    return said


def _check_writable(folder: Path) -> None:
    """See that embeddings can be kept, before the first slide's take an hour."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"features {folder}: cannot be written ({error.strerror}); give another folder") from None


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
