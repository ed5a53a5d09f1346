"""Damage files by seed and read them: `python tests/fuzz/run.py --seconds 3600`, or `--reader NAME --seed N` for one.

A case is held when the file is read or refused in one line, within 5 s, by a process that stays below 1 GB. Whatever
else happens is printed with its reader and seed. A reader runs in a process of its own, started again after a crash.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mutate import mutate
from readers import READERS, Reader, damaged_zip, refusals

from edgepath.machine.progress import forget_peak, peak_bytes

SECONDS, BYTES = 5, 1 << 30


class Hang(BaseException):
    """A case took too long."""


def _hang(*_: object) -> None:
    raise Hang


def case(folder: Path, reader: Reader, seeds: dict[str, bytes], seed: int) -> str:
    """Run a case; return what went wrong, "" for nothing."""
    name = sorted(seeds)[seed % len(seeds)]
    raw = seeds[name]
    raw = damaged_zip(raw, seed) if raw[:2] == b"PK" and seed % 3 else mutate(raw, seed)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of this process alone: others may keep the machine busy
    signal.alarm(12 * SECONDS)
    try:
        for line in refusals(folder, reader, name, raw):
            if len(line) > 2500 or not line.isprintable():
                return f"a line of {len(line)} letters: {line[:80]!a}"
    except Hang:
        return f"more than {SECONDS} s"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:120]!a} at {Path(last.filename).name}:{last.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return ""


def work(name: str, first: int, seconds: float, count: int, others: int = 0) -> None:
    """Run cases of one reader from a seed on, in this process; print what went wrong, and how far it came.

    `others` are the bytes that earlier readers left in this process: their imports.
    """
    for kind in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(kind, _hang)
    reader = next(one for one in READERS if one.name == name)
    seeds, end, seed = reader.seeds(), time.monotonic() + seconds, first
    progress = sys.stdout
    with tempfile.TemporaryDirectory(prefix="edgepath-fuzz-") as folder:
        for seed_name, raw in seeds.items():  # imports what it takes
            list(refusals(Path(folder), reader, seed_name, raw))
        while time.monotonic() < end and seed < first + count:
            print(json.dumps({"at": seed}), file=progress, flush=True)
            if wrong := case(Path(folder), reader, seeds, seed):
                print(json.dumps({"seed": seed, "wrong": wrong}), file=progress, flush=True)
            seed += 1
            if (peak := peak_bytes() - others) > BYTES:
                print(json.dumps({"seed": seed - 1, "wrong": f"{peak} bytes"}), file=progress, flush=True)
                break
    print(json.dumps({"next": seed}), file=progress, flush=True)


def fuzz(name: str, first: int, seconds: float, count: int = 1 << 60) -> dict[str, Any]:
    """Run cases of a reader in other processes; return how many there were, and all that went wrong."""
    end, seed, wrong = time.monotonic() + seconds, first, []
    while (left := end - time.monotonic()) > 0 and seed < first + count:
        command = [sys.executable, __file__, "--work", name, str(seed), str(left), str(first + count - seed)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        wrong += [line for line in lines if "wrong" in line]
        if lines and "next" in lines[-1]:
            seed = lines[-1]["next"]
        else:
            at = next((line["at"] for line in reversed(lines) if "at" in line), None)
            wrong.append({"seed": at, "wrong": f"the process ended with {done.returncode}: {done.stderr[-300:]!a}"})
            if at is None:
                break
            seed = at + 1
    return {"reader": name, "cases": seed - first, "wrong": wrong}


def main() -> int:
    """Run the command; exit status 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all readers together")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--count", type=int, default=1 << 60, help="cases a reader at most")
    parser.add_argument("--here", action="store_true", help="all in this process: the first crash is the last case")
    parser.add_argument("--reader", action="append", choices=[one.name for one in READERS])
    options = parser.parse_args()
    readers = [one for one in READERS if one.name in (options.reader or [one.name])]
    failed, total, second = 0, 0, options.seconds / sum(one.share for one in readers)
    for name, seconds in ((one.name, one.share * second) for one in readers):
        if options.here:
            forget_peak()
            work(name, options.seed, seconds, options.count, peak_bytes())
            continue
        found = fuzz(name, options.seed, seconds, options.count)
        print(json.dumps(found), flush=True)
        failed, total = failed + len(found["wrong"]), total + found["cases"]
    if options.here:
        return 0
    print(json.dumps({"cases": total, "wrong": failed}), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(main())
