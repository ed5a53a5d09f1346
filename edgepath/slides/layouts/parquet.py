"""A table for pandas, polars and DuckDB: `<id>.parquet`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .features import Features


def write(path: Path, features: Features) -> None:
    """Write columns `slide`, `x`, `y` (pixels of the finest level) and `features`, a list of D float32."""
    import pyarrow
    import pyarrow.parquet

    dim = features.embeddings.shape[1]
    flat = pyarrow.array(features.embeddings.astype(np.float32).reshape(-1))
    about = {
        "encoder": features.encoder,
        "tile_size": features.scale.size,
        "mpp": features.scale.mpp,
        "overlap": features.overlap,
    }
    columns = {
        "slide": pyarrow.array([features.id] * len(features.coords), pyarrow.string()),
        "x": pyarrow.array(features.coords[:, 0]),
        "y": pyarrow.array(features.coords[:, 1]),
        "features": pyarrow.FixedSizeListArray.from_arrays(flat, dim),
    }
    table = pyarrow.table(columns).replace_schema_metadata({"edgepath": json.dumps(about)})
    pyarrow.parquet.write_table(table, path, use_dictionary=False)
