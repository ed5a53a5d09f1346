"""Build the TensorRT engine of this bundle ahead of its first use, on the Jetson that runs it: `python3 kit/build.py`.

Prints the `trtexec` line that does the same, then where the engine lies. kit/check.py and kit/runner.py find it there.
Exit status: 0 the engine is there, 2 it could not be built.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this folder: what was planted beside this file is not to pass for a module of Python's

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


def _sibling() -> Any:
    """Run check.py beside this file as a module: without its folder on the path, and without bytecode."""
    path = Path(__file__).with_name("check.py")
    module = ModuleType("check")
    module.__file__ = str(path)
    sys.modules["check"] = module
    exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
    return module


check = _sibling()
CannotRun = check.CannotRun


def build(root: Path, cache: Path | None) -> None:
    """Check the bundle in `root`, print its plan for the TensorRT installed here, and build the engine if need be."""
    manifest, _, seen = check.open_bundle(root)
    artifact = root / manifest["artifact"]["file"]
    with check.vendor("cannot build the engine"):
        runner = check.load_kit_module(root, manifest, "runner")
        import tensorrt

        runner.require_capability(artifact)
        plan = runner.pick_plan(runner.read_plans(artifact)["plans"], tensorrt.__version__)
        path = runner.engine_file(artifact, tensorrt.__version__, runner.gpu(), cache)
    print(f"TensorRT {tensorrt.__version__}: plan for {plan['release']} ({plan['runtime']})")
    print(_trtexec(plan["trtexec"], artifact, path), flush=True)
    if path.exists():
        print(f"already built: {path}")
        return
    check.say("building, which takes minutes")
    start = time.perf_counter()
    with check.vendor("cannot build the engine"):
        runner.prepare(tensorrt, artifact, cache=cache)
    check.check_unchanged(root, seen, manifest["artifact"]["file"])
    print(f"built in {time.perf_counter() - start:.0f} s: {path}")


def _trtexec(command: str, artifact: Path, engine: Path) -> str:
    """Return the plan's command with real paths: run as it stands in the bundle, it would leave its engine there."""
    real = {"--onnx=model.onnx": f"--onnx={artifact}", "--saveEngine=model.engine": f"--saveEngine={engine}"}
    return shlex.join(real.get(word, word) for word in command.split())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = check.Parser(prog="build.py", description="Build this bundle's TensorRT engine on this Jetson.")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where engines are kept (check.py: --set cache=DIR)")
    try:
        build(Path(__file__).absolute().parent.parent, parser.parse_args(arguments).cache)
    except CannotRun as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
