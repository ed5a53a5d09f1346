"""Build this bundle's engine for the GPU of this machine, by Torch-TensorRT: `python3 kit/build.py`.

Needed where the bundle's own engine is for another GPU or another release of TensorRT-RTX. kit/check.py and
kit/runner.py find it. Exit status: 0 there is an engine that fits, 2 it could not be built.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this folder: what was planted beside this file is not to pass for a module of Python's

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
    """Check the bundle in `root`, and build an engine for this machine's GPU where none fits."""
    manifest, _, seen = check.open_bundle(root)
    artifact = root / manifest["artifact"]["file"]
    check.say("building, which takes up to some minutes")
    start = time.perf_counter()
    with check.vendor("cannot build the engine"):
        names = ("runner", "exported", "torchtrt")
        runner, exported, torchtrt = (check.load_kit_module(root, manifest, name) for name in names)
        import tensorrt_rtx_bindings

        runner.require_driver()
        try:
            path = runner.find_engine(tensorrt_rtx_bindings, artifact, cache)
        except OSError:
            plan, program = runner.read_plan(artifact), exported.load_program(artifact)
            engine = torchtrt.convert(program, plan["shapes"]["tiles"], plan["outputs"])
            path = runner.keep(tensorrt_rtx_bindings, artifact, engine, cache)
    check.check_unchanged(root, seen, manifest["artifact"]["file"])
    print(f"TensorRT-RTX {tensorrt_rtx_bindings.__version__}, {time.perf_counter() - start:.0f} s: {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = check.Parser(prog="build.py", description="Build this bundle's engine for this machine's GPU.")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where engines are kept (check.py: --set cache=DIR)")
    try:
        options = parser.parse_args(arguments)
        build(Path(__file__).absolute().parent.parent, options.cache)
    except CannotRun as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
