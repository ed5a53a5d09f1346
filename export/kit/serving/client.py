"""Embeds tiles on a model server that speaks the Open Inference Protocol (KServe v2) over HTTP.

OpenVINO Model Server, Triton and others do. `Runner` stands in for the one of `kit/runner.py`, so that `kit/check.py
--server URL` judges what the server computes. It takes NumPy and the standard library only.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np


class Runner:
    """Embeds tiles on a server: `uint8 (N, S, S, 3) -> float32 (N, D)`. Threads may call it at the same time.

    `url` is the server's address; `model` what it calls the model, by default as the bundle's folder is called.
    `timeout` is how many seconds an answer may take. Raises OSError in one line for a server that is not there, does
    not know the model or refuses the tiles.
    """

    def __init__(
        self, artifact: Path, *, url: str = "http://localhost:8000", model: str = "", timeout: int = 60
    ) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise OSError(f"{url} is no address of a server; give one such as http://localhost:8000")
        name = model or Path(artifact).absolute().parent.name
        self._model, self._timeout = f"{url.rstrip('/')}/v2/models/{urllib.parse.quote(name, safe='')}", timeout
        about = self._ask(self._model, None)
        parts = [name, *(str(about[key]) for key in ("platform", "versions") if about.get(key))]
        self.runtime = f"a model server ({', '.join(parts)})"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3 or not len(tiles):
            raise ValueError(
                f"tiles are {tiles.dtype} {tiles.shape}; uint8 (N, S, S, 3) with N of at least 1 is needed"
            )
        pixels = {"name": "tiles", "datatype": "UINT8", "shape": list(tiles.shape), "data": tiles.ravel().tolist()}
        answer = self._ask(f"{self._model}/infer", {"inputs": [pixels], "outputs": [{"name": "embedding"}]})
        try:
            (embedding,) = [output for output in answer["outputs"] if output["name"] == "embedding"]
            return np.array(embedding["data"], np.float32).reshape(embedding["shape"])
        except (KeyError, TypeError, ValueError):
            raise OSError(f"{self._model} answers without `embedding`; serve this bundle's artifact") from None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _ask(self, url: str, content: dict[str, Any] | None) -> dict[str, Any]:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            body = error.read(500).decode("utf-8", "replace").strip()
            raise OSError(f"{url} answers {error.code} {error.reason}: {' '.join(body.split())[:200]}") from None
        except (OSError, ValueError) as error:
            raise OSError(f"{url} gives no answer ({getattr(error, 'reason', error)}); is the server up?") from None
