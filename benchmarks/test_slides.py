"""Whole slides: reading hides behind the artifact, two workers do twice the work, and no kill loses anything.

The slide is the real one beside the checkout where it is, else a procedural one; every result says which.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, REAL, THREADS, Bundles, Record

import edgepath
from edgepath.bundle.running import open_runner
from edgepath.slides.checking import check_slides
from edgepath.slides.embedding import Job
from edgepath.slides.listing import list_slides
from edgepath.slides.many import embed_slides
from edgepath.slides.streaming import Stream
from edgepath.speed.pinning import pinned
from edgepath.tiles.slides.cutting import CutSettings, cut
from edgepath.tiles.slides.synthetic import write_synthetic_slide

REAL_SLIDE = REAL.parent / "slides" / "CMU-1-Small-Region.svs"
ROUNDS = 9
COPIES = 2
RAY_ROUNDS = 3
SLIDES = 6
KILLS = {"process": 20, "actor": 10, "node": 10}


@pytest.fixture(scope="module")
def procedural(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One slide of some hundred tiles; a scanner's have thousands."""
    path = tmp_path_factory.mktemp("slide") / "procedural.tif"
    return write_synthetic_slide(path, width=6144, height=5120, pieces=4)


@pytest.fixture(scope="module")
def slide(procedural: Path) -> Path:
    """The real one, of 67 tiles, where it is here."""
    return REAL_SLIDE if REAL_SLIDE.is_file() else procedural


def test_reading_hides_behind_the_artifact(
    bundles: Bundles, procedural: Path, slide: Path, tmp_path: Path, record: Record
) -> None:
    """Tiles a second from slides to their files, all included, over those of the artifact alone on the same tiles.

    What a slide costs once, however many tiles it has (tissue, opening), is a larger share of the small real one.
    """
    medians = {}
    for path in dict.fromkeys((procedural, slide)):
        ratios, rates = _from_slides(bundles("openvino-int8"), path, tmp_path / path.stem)
        medians[path.stem] = statistics.median(ratios)
        record(f"slides: from {path.stem}", {"tiles/s": rates, "over the artifact's alone": ratios})
        record(f"slides: tiles/s from {path.stem} over the artifact's alone", round(medians[path.stem], 3))
    assert min(medians.values()) >= 0.95


def _from_slides(bundle: edgepath.Bundle, path: Path, out: Path) -> tuple[list[float], list[float]]:
    """Return ratios and rates of jobs of some copies of a slide, from where the artifact is loaded to the last file.

    The artifact alone is timed before each job and after it: a shared machine changes its speed meanwhile.
    """
    folder = out / "slides"
    folder.mkdir(parents=True)
    for number in range(COPIES):
        shutil.copy(path, folder / f"{number}{path.suffix}")
    with cut(path, CutSettings()) as cut_slide:
        batches = [tiles for _, tiles in Stream(cut_slide)]
    tiles = COPIES * sum(map(len, batches))
    with pinned(THREADS), open_runner(bundle, bundle.recipe, THREADS) as runner:
        for batch in batches[:2]:
            runner(batch)

        def alone() -> float:
            start = time.perf_counter()
            for batch in batches * COPIES:
                runner(batch)
            return time.perf_counter() - start

        ratios, rates, before = [], [], alone()
        for number in range(ROUNDS):
            job, times = Job(bundle, out / str(number), CutSettings()), list[float]()
            job.out.mkdir()
            result = embed_slides(
                job,
                list_slides([folder]),
                threads=THREADS,
                progress=lambda *_, times=times: times.append(time.perf_counter()),
            )
            seconds = times[-1] - times[0]
            assert {row["state"] for row in result["slides"]} == {"done"}
            assert sum(row["tiles"] for row in result["slides"]) == tiles
            after = alone()
            ratios.append(round((before + after) / 2 / seconds, 4))
            rates.append(round(tiles / seconds, 2))
            before = after
    return ratios, rates


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of this machine, of one CPU each."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'edgepath[ray]'")
    with _cluster(1, 1) as made:
        yield made


@contextlib.contextmanager
def _cluster(*cpus: int) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "include_dashboard": False})
    for more in cpus[1:]:
        made.add_node(num_cpus=more)
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_two_workers_do_twice_the_work(
    bundles: Bundles, slide: Path, tmp_path: Path, cluster: Any, record: Record
) -> None:
    """Slides an hour of two actors of a thread each over one's, from the first slide's end to the last one's."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for number in range(8):
        shutil.copy(slide, folder / f"{number}{slide.suffix}")
    bundle, seconds = bundles("openvino-int8"), {1: list[float](), 2: list[float]()}
    for number in range(2 * RAY_ROUNDS):
        workers = 1 + number % 2
        out = tmp_path / f"out-{number}"
        seconds[workers].append(_seconds_a_slide(bundle, folder, out, cluster.address, workers))
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[2])
    record("slides: seconds a slide of one Ray worker, and of two", list(seconds.values()))
    record("slides: two Ray workers of a thread over one", round(ratio, 2))
    assert ratio >= 1.8


def _seconds_a_slide(bundle: edgepath.Bundle, folder: Path, out: Path, address: str, workers: int) -> float:
    """Return seconds a slide; actors start once for thousands of slides, so the first of each is not counted."""
    from edgepath.slides.cluster import embed_on_cluster

    job, ends = Job(bundle, out, CutSettings(), readers=1), list[float]()
    job.out.mkdir()
    embed_on_cluster(
        job,
        list_slides([folder]),
        address=address,
        workers=workers,
        progress=lambda _, done, total: ends.append(time.perf_counter()) if done else None,
    )
    return (ends[-1] - ends[workers - 1]) / (len(ends) - workers)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("lost", KILLS)
def test_no_kill_loses_anything(bundles: Bundles, tmp_path: Path, record: Record, lost: str) -> None:
    """Kill -9 at a random moment; what is there afterwards, and after the same call again, is what no kill makes."""
    bundle, folder = bundles("openvino-int8", model="demo", weights=None), tmp_path / "slides"
    folder.mkdir()
    for seed in range(SLIDES):
        write_synthetic_slide(folder / f"{seed}.tif", seed=seed, width=1024, height=1024, pieces=1)
    whole = Job(bundle, tmp_path / "whole", CutSettings())
    embed_slides(whole, list_slides([folder]), threads=1)
    names = _features(whole.out)
    draw, in_work = random.Random(lost), 0
    for number in range(KILLS[lost]):
        job = Job(bundle, tmp_path / str(number), CutSettings())
        job.out.mkdir()
        after = number % (SLIDES - 1) + draw.uniform(0, 0.9)
        done = {"process": _lose_process, "actor": _lose_actor, "node": _lose_node}[lost](job, folder, after)
        left = _features(job.out)
        in_work += 0 < done < SLIDES
        assert left.items() <= names.items()  # whole files only, and those that one process makes
        embed_slides(job, list_slides([folder]), threads=1)
        assert _features(job.out) == names
        rows = check_slides(job.out)["slides"]
        assert [row["id"] for row in rows] == [str(seed) for seed in range(SLIDES)]
        assert {row["state"] for row in rows} == {"done"}
    record(f"slides: kills of a {lost}", {"kills": KILLS[lost], "with some slides done": in_work, "lost": 0})
    assert in_work >= KILLS[lost] / 2


def _features(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*.h5"))}


def _start(job: Job, folder: Path) -> subprocess.Popen[bytes]:
    words = ["slides", str(job.bundle.path), str(folder), "--out", str(job.out), "--threads", "1"]
    return subprocess.Popen([sys.executable, "-m", "edgepath", *words], cwd=CHECKOUT, stderr=subprocess.DEVNULL)


def _done(job: Job) -> int:
    return len(list((job.out / "slides").glob("*.json")))


def _wait_until(job: Job, after: float, ended: Callable[[], bool]) -> int:
    """Return how many slides are done when `after` of them are: 2.5 is half a fifth of a second into the third."""
    while not ((job.out / "slides").is_dir() and _done(job) >= int(after)):
        assert not ended(), "it ended before it was killed"
        time.sleep(0.005)
    time.sleep(after % 1 / 5)
    return _done(job)


def _lose_process(job: Job, folder: Path, after: float) -> int:
    process = _start(job, folder)
    done = _wait_until(job, after, lambda: process.poll() is not None)
    process.kill()
    process.wait()
    return done


def _lose_actor(job: Job, folder: Path, after: float) -> int:
    with _cluster(2) as made:
        return _embed_while(job, folder, made, _kill_an_actor, after)


def _lose_node(job: Job, folder: Path, after: float) -> int:
    with _cluster(1, 1) as made:
        node = next(iter(made.worker_nodes))
        return _embed_while(job, folder, made, lambda: made.remove_node(node, allow_graceful=False), after)


def _actors() -> list[int]:
    """Return the processes of actors that hold a runner or are loading one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(process.name))
    return found


def _kill_an_actor() -> None:
    os.kill(_actors()[0], signal.SIGKILL)


def _embed_while(job: Job, folder: Path, cluster: Any, kill: Callable[[], None], after: float) -> int:
    from edgepath.slides.cluster import embed_on_cluster

    done_then, ended, before = list[int](), threading.Event(), set(_actors())

    def then_kill() -> None:
        while not set(_actors()) - before:
            time.sleep(0.01)
        done = _wait_until(job, after, ended.is_set)
        if not ended.is_set():
            kill()
            done_then.append(done)

    thread = threading.Thread(target=then_kill, daemon=True)
    thread.start()
    found = embed_on_cluster(job, list_slides([folder]), address=cluster.address, workers=2)
    ended.set()
    thread.join()
    assert done_then, "it ended before anything was killed"
    assert {row["state"] for row in found["slides"]} <= {"done", "kept"}
    return done_then[0]
