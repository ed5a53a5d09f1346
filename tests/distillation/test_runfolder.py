"""A run's log goes on where a version with fewer columns began it."""

from __future__ import annotations

import math
from pathlib import Path

from edgepath.distillation.runfolder import COLUMNS, LOG, Log, read_log


def test_a_log_without_a_column_goes_on(tmp_path: Path) -> None:
    known = [column for column in COLUMNS if column != "peak_gb"]
    rows = [",".join(known), ",".join("1" for _ in known), ",".join("2" for _ in known)]
    (tmp_path / LOG).write_text("\n".join(rows) + "\n")
    log = Log(tmp_path, step=1)
    log.add(dict.fromkeys(COLUMNS, 2.5))
    first, second = read_log(tmp_path)
    assert math.isnan(first["peak_gb"])
    assert first["loss"] == 1
    assert second["peak_gb"] == 2.5
