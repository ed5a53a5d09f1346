"""What became of slides."""

from __future__ import annotations

from ...slides.results import SlidesResult
from ..table import Table, table


def slide_table(result: SlidesResult) -> Table:
    """Return a row a slide."""
    compared = any(slide["cosine_mean"] is not None for slide in result["slides"])
    rows = []
    for slide in result["slides"]:
        remarks = "; ".join(filter(None, [slide["message"], *slide["cautions"]]))
        mpp = "-" if slide["mpp"] is None else f"{slide['mpp']:.4g}"
        apart = ["-" if slide[key] is None else f"{1 - (slide[key] or 0):.2e}" for key in ("cosine_mean", "cosine_min")]
        figures = [str(slide["tiles"]), str(slide["bad"]), mpp, f"{slide['seconds']:.1f}"]
        rows.append([slide["id"], slide["state"], *figures, *(apart if compared else []), remarks])
    measured = ["1 - cosine", "worst"] if compared else []
    header = ["slide", "", "tiles", "bad", "um per pixel", "seconds", *measured]
    if not any(row[-1] for row in rows):
        return table(header, [row[:-1] for row in rows])
    return table([*header, "what to know"], rows)
