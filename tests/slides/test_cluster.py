"""Ray writes what one process writes, also where an actor or a node is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.slides.checking import check_slides
from edgepath.slides.cluster import embed_on_cluster
from edgepath.slides.embedding import Job
from edgepath.slides.listing import list_slides
from edgepath.slides.many import embed_slides
from edgepath.tiles.slides.cutting import CutSettings
from edgepath.tiles.slides.synthetic import write_synthetic_slide

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'edgepath[ray]'")
SLIDES = 6
pytestmark = [
    pytest.mark.slow,  # Ray starts a cluster, and a process for each actor
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for seed in range(SLIDES):
        write_synthetic_slide(folder / f"{seed}.tif", seed=seed, width=1024, height=1024, pieces=1)
    return folder


@pytest.fixture(scope="module")
def head() -> Iterator[Any]:
    """The first node of a cluster on this machine, with one CPU."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    if ray.is_initialized():
        ray.shutdown()
    made.shutdown()


@pytest.fixture
def cluster(head: Any) -> Any:
    """Two nodes on this machine, of one and two CPUs; the second is started again where a test has lost it."""
    if not head.worker_nodes:
        head.add_node(num_cpus=2)
    return head


@pytest.fixture(scope="module")
def alone(exports: Callable[[str], Exported], many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that one process writes of all slides."""
    job = Job(exports("openvino-int8").bundle, tmp_path_factory.mktemp("alone"), CutSettings())
    embed_slides(job, list_slides([many]))
    return features(job.out)


def features(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*.h5"))}


def kill_an_actor(out: Path) -> None:
    """Kill -9 the process of an actor, once one slide is done and the next one in work."""
    while not list((out / "slides").glob("*.json")):
        time.sleep(0.05)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                os.kill(int(process.name), signal.SIGKILL)
                return
        except (OSError, ProcessLookupError):
            continue
    raise AssertionError("no actor to kill")


@pytest.mark.parametrize("lost", ["nothing", "actor", "node"])
def test_files_are_those_of_one_process(
    exports: Callable[[str], Exported], many: Path, alone: dict[str, bytes], tmp_path: Path, cluster: Any, lost: str
) -> None:
    entries = list_slides([many])
    job = Job(exports("openvino-int8").bundle, tmp_path / "ray", CutSettings())
    job.out.mkdir()

    def lose_a_node() -> None:
        while not list(job.out.rglob("*.h5")):
            time.sleep(0.05)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    losing = {"actor": lambda: kill_an_actor(job.out), "node": lose_a_node, "nothing": lambda: None}[lost]
    thread = threading.Thread(target=losing, daemon=True)
    thread.start()
    found = embed_on_cluster(job, entries, address=cluster.address, workers=2, threads=1)
    thread.join(30)
    assert not thread.is_alive()
    assert [row["id"] for row in found["slides"]] == [str(seed) for seed in range(SLIDES)]
    assert {row["state"] for row in found["slides"]} <= {"done", "kept"}
    assert features(job.out) == alone
    assert {row["state"] for row in check_slides(job.out)["slides"]} == {"done"}
    again = embed_on_cluster(job, entries, address=cluster.address, workers=1, threads=1)
    assert {row["state"] for row in again["slides"]} == {"kept"}


def test_an_address_where_nothing_listens_is_one_line(
    exports: Callable[[str], Exported], many: Path, tmp_path: Path
) -> None:
    job = Job(exports("openvino-int8").bundle, tmp_path / "out", CutSettings())
    with pytest.raises(UsageError, match=r"no Ray at 127\.0\.0\.1:1 .*give HOST:PORT of its head") as raised:
        embed_on_cluster(job, list_slides([many]), address="127.0.0.1:1", workers=1)
    assert "\n" not in str(raised.value)


def test_a_full_disk_of_a_node_is_a_failed_slide(
    exports: Callable[[str], Exported], many: Path, small_disk: Path, cluster: Any
) -> None:
    job, entries = Job(exports("openvino-int8").bundle, small_disk / "out", CutSettings()), list_slides([many])[:2]
    (small_disk / "ballast").write_bytes(bytes((1 << 20) - (1 << 15)))
    found = embed_on_cluster(job, entries, address=cluster.address, workers=1)["slides"]
    assert [row["state"] for row in found] == ["failed", "failed"]
    assert {row["message"].partition(" (")[0] for row in found} == {"slides: the disk is full"}
    (small_disk / "ballast").unlink()
    again = embed_on_cluster(job, entries, address=cluster.address, workers=1)["slides"]
    assert [row["state"] for row in again] == ["done", "done"]
