"""Make a page that embeds tiles in a browser: `python3 kit/web/prepare.py OUT`, from the bundle's folder.

The bundle stays as it was hashed; the page, the artifact and the golden tiles go to OUT, a new folder. It takes Python
3.10 and NumPy.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

BUNDLE = Path(__file__).absolute().parent.parent.parent
PAGE = ("index.html", "embedding.mjs", "check.mjs", "package.json")


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: prepare.py OUT (a new folder outside the bundle)", file=sys.stderr)
        return 2
    out = Path(arguments[0])
    if out.exists() or out.absolute().is_relative_to(BUNDLE):
        print(f"prepare.py: {out} is there, or lies in the bundle; give a new folder outside it", file=sys.stderr)
        return 2
    manifest = json.loads((BUNDLE / "bundle.json").read_text(encoding="utf-8"))
    out.mkdir(parents=True)
    for name in PAGE:
        shutil.copyfile(Path(__file__).with_name(name), out / name)
    shutil.copyfile(BUNDLE / manifest["artifact"]["file"], out / "model.onnx")
    for name in ("tiles", "program", "reference"):
        with np.load(BUNDLE / f"golden/{name}.npz") as golden:
            golden["tiles" if name == "tiles" else "embeddings"].tofile(out / f"{name}.bin")
    facts = {"name": manifest["name"], "keys": manifest["held_out"]["keys"], **manifest["contract"]}
    facts |= {
        "noise_floor": manifest["drift"]["noise_floor"]["cosine_mean"],
        "required": manifest["recipe"]["accept"]["cosine_mean"],
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {out}; next, there: npm install, then: python3 -m http.server, and open http://localhost:8000")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
