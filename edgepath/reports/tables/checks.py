"""What `compare`, `debug`, `lint` and `search` found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...checks.candidate import FIGURES, Point, missed
from ...checks.lint import Finding
from ...checks.results import Comparison, Debugging
from ...searching import Searched
from ..table import Table, table


def pair_table(result: Comparison) -> Table:
    """Return a row a pair of bundles."""
    rows = []
    for pair in result["pairs"]:
        cosines = [f"{value:.6f}" for value in (pair["cosine_mean"], pair["cosine_p01"], pair["cosine_min"])]
        overlap = f"{pair['neighbour_overlap']:.3f}" if pair["neighbours"] == 10 else "-"
        rows.append([*pair["of"], *cosines, f"{pair['twins']:.3f}", overlap])
    return table(["bundle", "and", "cosine mean", "1 %", "min", "finds itself", "top-10"], rows)


def layer_table(result: Debugging) -> Table:
    """Return a row a layer, the noisiest first; in the order they run in where nothing is quantized."""
    header = ["layer", "output SQNR", "largest input", "median channel", "outlier channels"]
    header += ["integers differ", "output error", "kernels' error"]
    rows = sorted(result["layers"], key=lambda row: math.inf if row["sqnr_db"] is None else row["sqnr_db"])
    return table(
        header,
        [
            [
                row["layer"].removeprefix("vit."),
                _db(row["sqnr_db"]),
                f"{row['input_max']:.3g}",
                f"{row['input_median_channel']:.3g}",
                f"{row['outlier_channels']} of {row['channels']}",
                *_proof_cells(row["proof"]),
            ]
            for row in rows
        ],
    )


def block_table(result: Debugging) -> Table:
    """Return a row a transformer block."""
    rows = [
        [
            str(row["block"]),
            _db(row["sqnr_db"]),
            "-" if row["cls_cosine"] is None else f"{1 - row['cls_cosine']:.2e}",
            f"{row['max']:.3g}",
            f"{row['fp16_headroom']:.3g} x",
            row["nearest"].removeprefix("vit."),
        ]
        for row in result["blocks"]
    ]
    return table(
        ["after block", "SQNR", "1 - cosine of class token", "largest", "FP16 headroom", "largest value inside"], rows
    )


def finding_table(findings: Sequence[Finding]) -> Table:
    """Return a row a finding."""
    rows = [[f.level, f"{f.rule} [{f.source}]", f.node, f.found, f.remedy] for f in findings]
    return table(["", "rule", "node", "found", "what to do"], rows)


def point_table(result: Searched) -> Table:
    """Return a row a candidate that a search measured."""
    rows = []
    for point in result["points"]:
        short = missed(point, result["required"])
        figures = [f"{point[key]:.6f}" for key in FIGURES]
        met = "met" if point["artifact"] else "met by the program"
        verdict = f"missed: {', '.join(short)}" if short else met
        rows.append([str(point["kept"]), f"{point['int8_share']:.1%}", *figures, *_ran_cells(point), verdict])
    figures = [text for of in ("program", "artifact") for text in (f"drift of the {of}: cosine mean", "1 %")]
    return table(["kept in floating point", "multiply-adds in INT8", *figures, "budget"], rows)


def _ran_cells(point: Point) -> list[str]:
    if (ran := point["artifact"]) is None:
        return ["not built"] * 2
    return ["not finite" if (cosine := ran[key]) is None else f"{cosine:.6f}" for key in FIGURES]


def _proof_cells(proof: Mapping[str, float] | None) -> list[str]:
    """Say what the artifact's own layer made of the program's input; steps are the smallest change of an output."""
    if proof is None:
        return ["-"] * 3
    wrong = f", {proof['unexplained']} wrong" if proof["unexplained"] else ""
    errors = [f"{proof[key]:.2g} steps" for key in ("error_steps", "kernel_error_steps")]
    return [f"{proof['differ']} of {proof['integers']}{wrong}", *errors]


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"
