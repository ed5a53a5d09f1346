"""A new folder appears whole or not at all, takes the place of nothing that is to stay, and leaves nothing behind."""

from __future__ import annotations

import dis
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from edgepath.errors import EdgepathError, UsageError
from edgepath.machine import workspace as workspaces
from edgepath.machine.workspace import clear, workspace
from edgepath.machine.writing import NewFolder, write_text

DEAD = "0123456789abcdef"  # of a workspace whose lock nobody holds


class CrateError(EdgepathError):
    """What is wrong with a crate: a folder with `label` in it, and `goods` if it likes."""


def may_replace(final: Path, force: bool) -> None:
    if not (final / "label").exists():
        raise CrateError("no label")
    if not force:
        raise UsageError(f"{final} exists; give --force")
    if contents(final) - {"label", "goods"}:
        raise UsageError(f"{final} holds more")


def new(final: Path | str, force: bool = False) -> NewFolder:
    return NewFolder(final, "crate", CrateError, may_replace, force=force)


def write(final: Path, label: str = "old", force: bool = False) -> None:
    with new(final, force) as folder:
        (folder.path / "label").write_text(label)
        folder.commit()


def contents(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- what may be replaced


def test_free_name_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for final in (tmp_path / "free", tmp_path / "empty", tmp_path / "a" / "b"):
        write(final)
        assert contents(final) == {"label"}
    assert contents(tmp_path) == {"free", "empty", "a"}


def test_old_folder_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    write(tmp_path / "crate")
    with new(tmp_path / "crate", force=True) as folder:
        (folder.path / "label").write_text("new")
        assert (tmp_path / "crate" / "label").read_text() == "old"
        folder.commit()
    assert (tmp_path / "crate" / "label").read_text() == "new"
    assert contents(tmp_path) == {"crate"}


@pytest.mark.parametrize(
    ("name", "force", "said"),
    [
        ("label", False, r"crate exists; give --force$"),
        ("more", True, r"crate holds more$"),
        ("precious", False, r"crate exists and is not a crate to replace \(no label\); give another name$"),
        ("precious", True, r"crate exists and is not a crate to replace \(no label\); give another name$"),
    ],
)
def test_whoever_asks_for_the_folder_says_what_may_be_replaced(
    tmp_path: Path, name: str, force: bool, said: str
) -> None:
    (tmp_path / "crate").mkdir()
    for file in {name, "label"} if name != "precious" else {name}:
        (tmp_path / "crate" / file).touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=said):
        new(tmp_path / "crate", force).__enter__()
    assert sorted(tmp_path.rglob("*")) == before


def test_files_and_links_are_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "crate")
    (tmp_path / "latest").symlink_to(tmp_path / "crate")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name in ("latest", "broken", "file"):
        with pytest.raises(UsageError, match="exists and is no folder"):
            new(tmp_path / name, force=True).__enter__()
    assert contents(tmp_path) == {"crate", "latest", "broken", "file"}


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists"), new(tmp_path / "crate", force=True) as folder:
        (tmp_path / "crate").write_text("someone else's")
        folder.commit()
    assert contents(tmp_path) == {"crate"}
    assert (tmp_path / "crate").read_text() == "someone else's"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_final_needs_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a new crate"):
        new(Path(name))


def test_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        new(tmp_path / "file" / "crate").__enter__()


# --- what goes wrong meanwhile


def test_leaving_without_commit_is_a_bug_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^crate .*: nothing was committed"), new(tmp_path / "crate"):
        pass
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit, CrateError])
def test_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    write(tmp_path / "crate")
    with pytest.raises(error), new(tmp_path / "crate", force=True) as folder:
        (folder.path / "goods").touch()
        raise error
    assert contents(tmp_path) == {"crate"}
    assert contents(tmp_path / "crate") == {"label"}


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new(tmp_path / "crate") as folder:
        (folder.path / "nowhere").read_bytes()


def after(source: Path) -> None:
    if source.name == "crate":
        raise KeyboardInterrupt


def instead(source: Path) -> None:
    if source.name.startswith("new-"):
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("before", "then", "error"),
    [(None, after, KeyboardInterrupt), (instead, None, OSError)],
    ids=["interrupted after the first rename", "second rename fails"],
)
def test_old_folder_is_put_back(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[Path], None] | None,
    then: Callable[[Path], None] | None,
    error: type[BaseException],
) -> None:
    write(tmp_path / "crate")
    rename = os.rename

    def disturbed(source: Path, target: Path) -> None:
        if before:
            before(source)
        rename(source, target)
        if then:
            then(source)

    monkeypatch.setattr(os, "rename", disturbed)
    with pytest.raises(error):
        write(tmp_path / "crate", "new", force=True)
    assert contents(tmp_path) == {"crate"}
    assert (tmp_path / "crate" / "label").read_text() == "old"


def test_own_sigterm_handler_is_taken_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with new(tmp_path / "crate") as folder:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        folder.commit()
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_handler_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    def theirs(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with new(tmp_path / "crate") as folder:
            assert signal.getsignal(signal.SIGTERM) is theirs
            folder.commit()
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_exit_between_any_two_instructions_of_opening_leaves_nothing(tmp_path: Path) -> None:
    # As SIGTERM's handler raises it, which runs between two instructions.
    def interrupted_at(step: int) -> bool:
        passed = 0

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal passed
            if Path(frame.f_code.co_filename).name not in ("writing.py", "workspace.py"):
                return None
            frame.f_trace_opcodes = True
            instruction = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            # Python handles signals after calls and jumps: what is loaded is always returned.
            if event == "opcode" and (frame.f_code.co_name, instruction) != ("__enter__", "RETURN_VALUE"):
                passed += 1
                if passed == step:
                    sys.settrace(None)
                    raise SystemExit(143)
            return trace

        before = sys.gettrace()
        folder = new(tmp_path / "crate")
        sys.settrace(trace)
        try:
            with folder:
                sys.settrace(before)
                folder.commit()
        except SystemExit:
            return True
        finally:
            sys.settrace(before)
        return False

    steps, before = 1, signal.getsignal(signal.SIGTERM)
    while interrupted_at(steps):
        assert contents(tmp_path) == set(), steps
        assert signal.getsignal(signal.SIGTERM) is before, steps
        steps += 1
    assert steps > 100
    assert contents(tmp_path) == {"crate"}


# --- what other processes left

WRITE = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_writing import new

with new(Path(sys.argv[1])) as folder:
    (folder.path / "goods").touch()
    print(folder.path, flush=True)
    time.sleep(600)
"""


def start(final: Path) -> tuple[subprocess.Popen[str], Path]:
    """Return a process that is in the middle of its work, and the folder it fills."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(final)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_partial_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    process, partial = start(tmp_path / "crate")
    try:
        write(tmp_path / "crate")
        assert contents(partial) == {"goods"}
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("how", "left"), [(signal.SIGTERM, 0), (signal.SIGKILL, 1)], ids=["SIGTERM", "SIGKILL"])
def test_ended_process_leaves_nothing_that_the_next_one_does_not_remove(
    tmp_path: Path, how: signal.Signals, left: int
) -> None:
    process, partial = start(tmp_path / "crate")
    process.send_signal(how)
    process.communicate()
    assert process.returncode == (128 + how if how is signal.SIGTERM else -how)
    assert contents(tmp_path) == {partial.parent.name} if left else not contents(tmp_path)
    write(tmp_path / "crate")
    assert contents(tmp_path) == {"crate"}


def test_partial_folder_of_this_process_is_left_alone(tmp_path: Path) -> None:
    with new(tmp_path / "crate") as folder:
        clear(tmp_path / "crate")
        assert folder.path.is_dir()
        folder.commit()


def test_process_ids_that_are_the_same_stop_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In containers on one volume every writer may have the same one.
    monkeypatch.setattr(os, "getpid", lambda: 7)
    process, _ = start(tmp_path / "crate")
    try:
        with new(tmp_path / "crate") as folder, workspace(tmp_path / "crate") as third:
            (folder.path / "label").write_text("second")
            third.new.write_text("third")
            assert len(contents(tmp_path)) == 3
            folder.commit()
        assert contents(tmp_path / "crate") == {"label"}
    finally:
        process.kill()
        process.communicate()


def test_the_later_of_two_writers_is_refused_and_the_first_one_s_folder_stays(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists; give --force"), new(tmp_path / "crate") as folder:
        write(tmp_path / "crate", "first")
        folder.commit()
    assert (tmp_path / "crate" / "label").read_text() == "first"


def test_a_folder_that_appears_between_the_renames_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "crate")
    rename = os.rename

    def disturbed(source: Path, target: Path) -> None:
        rename(source, target)
        if source.name == "crate":
            monkeypatch.undo()
            write(tmp_path / "crate", "first")

    monkeypatch.setattr(os, "rename", disturbed)
    with pytest.raises(UsageError, match="someone else wrote it meanwhile"):
        write(tmp_path / "crate", "second", force=True)
    assert (tmp_path / "crate" / "label").read_text() == "first"
    assert contents(tmp_path) == {"crate"}


def test_workspace_that_was_removed_before_its_lock_was_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, tries = workspaces._held, []

    def late(lock: int) -> bool | None:
        if not tries:
            tries.append(lock)
            clear(tmp_path / "page")  # another writer, between our opening of the lock and our holding it
        return held(lock)

    monkeypatch.setattr(workspaces, "_held", late)
    write_text(tmp_path / "page", "text", "page")
    assert contents(tmp_path) == {"page"}


def test_where_there_are_no_locks_nothing_is_taken_for_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspaces, "_held", lambda lock: None)
    (tmp_path / f".page.{DEAD}.partial").mkdir()
    (tmp_path / f".page.{DEAD}.partial" / "lock").touch()
    write_text(tmp_path / "page", "text", "page")
    assert contents(tmp_path) == {"page", f".page.{DEAD}.partial"}


@pytest.mark.parametrize(("exists", "label"), [(False, "aside"), (True, "old")])
def test_replacement_that_was_cut_off_is_undone_or_finished(tmp_path: Path, exists: bool, label: str) -> None:
    write(tmp_path / f".crate.{DEAD}.partial" / "old-crate", "aside")
    if exists:
        write(tmp_path / "aside")
        (tmp_path / "aside").rename(tmp_path / "crate")
    clear(tmp_path / "crate")
    assert contents(tmp_path) == {"crate"}
    assert (tmp_path / "crate" / "label").read_text() == label


def test_a_file_replaces_what_was_there_and_what_dead_processes_left(tmp_path: Path) -> None:
    (tmp_path / f".page.{DEAD}.partial").mkdir()
    (tmp_path / f".page.{DEAD}.partial" / "new-page").write_text("half")
    write_text(tmp_path / "page", "old", "page")
    write_text(tmp_path / "page", "ä new one", "page")
    assert (tmp_path / "page").read_bytes() == "ä new one".encode()
    assert contents(tmp_path) == {"page"}
    with pytest.raises(UsageError, match=r"page .*nowhere.page: cannot be written \(No such file"):
        write_text(tmp_path / "nowhere" / "page", "text", "page")


def test_name_that_only_looks_like_a_leftover_is_kept(tmp_path: Path) -> None:
    kept = {f".newer.{DEAD}.partial", f".new.5.{DEAD}.partial", ".new.x.partial", f"new.{DEAD}.partial"}
    for name in kept | {f".new.{DEAD}.partial"}:
        (tmp_path / name).mkdir()
    clear(tmp_path / "new")
    assert contents(tmp_path) == kept


# --- a full disk


def fill_with_bytes(folder: Path) -> None:
    (folder / "model.bin").write_bytes(bytes(2 << 20))


def fill_with_numpy(folder: Path) -> None:
    np.save(folder / "big.npy", np.zeros(1 << 18))


def fill_with_openvino(folder: Path) -> None:
    import openvino
    from openvino import opset13

    weights = np.random.default_rng(0).random((1, 1 << 19), dtype=np.float32)
    parameter = opset13.parameter(weights.shape, np.float32)
    model = openvino.Model([opset13.add(parameter, opset13.constant(weights))], [parameter])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


@pytest.mark.parametrize("work", [fill_with_bytes, fill_with_numpy, fill_with_openvino])
def test_full_disk_is_one_line(small_disk: Path, work: Callable[[Path], None]) -> None:
    with (
        pytest.raises(CrateError, match=r"^disk full while writing .*crate: need more than .* are free.*elsewhere$"),
        new(small_disk / "crate") as folder,
    ):
        work(folder.path)
    assert contents(small_disk) == set()


def test_file_size_limit_is_one_line_too(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        with pytest.raises(CrateError, match="disk full"), new(tmp_path / "crate") as folder:
            fill_with_bytes(folder.path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == set()
