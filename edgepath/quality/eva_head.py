"""The linear head of kaiko-eva's protocol on frozen embeddings, with scikit-learn's `fit` and `predict_proba`.

One linear layer, cross-entropy, AdamW at 3e-4, batches of 256, 12,500 steps, and the weights that were best on tiles
not trained on (eva's configuration of its vision classification tasks; there the validation split is the dataset's,
here a fifth of the tiles of every class).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 12_500
BATCH = 256
LEARNING_RATE = 3e-4
EVERY = 250
"""Steps between two looks at the tiles that are not trained on."""


class EvaHead:
    """A linear classifier; `fit` takes embeddings float32 (N, D) and labels (N)."""

    classes_: np.ndarray

    def __init__(self, *, steps: int = STEPS, seed: int = 0) -> None:
        self.steps, self.seed = steps, seed

    def fit(self, embeddings: np.ndarray, labels: np.ndarray) -> EvaHead:
        """Train the head, and keep the weights of the best balanced accuracy on a fifth of the tiles."""
        generator = torch.Generator().manual_seed(self.seed)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        values, truth = torch.from_numpy(np.asarray(embeddings, np.float32)), torch.from_numpy(numbers)
        kept_out = self._kept_out(truth, generator)
        train, known = torch.nonzero(~kept_out)[:, 0], torch.nonzero(kept_out)[:, 0]
        head = torch.nn.Linear(values.shape[1], len(self.classes_))
        with torch.no_grad():
            head.weight.uniform_(-1, 1, generator=generator).mul_(values.shape[1] ** -0.5)
            head.bias.zero_()
        optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE)
        best = -1.0
        for step in range(1, self.steps + 1):
            rows = train[torch.randint(len(train), (min(BATCH, len(train)),), generator=generator)]
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(head(values[rows]), truth[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % EVERY == 0 or step == self.steps:
                # Without any tile to choose by, the last weights are the best there are.
                score = _balanced(head(values[known]).argmax(1), truth[known]) if len(known) else float(step)
                if score >= best:  # of equal ones the later: few tiles are soon all right
                    best, self._weight, self._bias = score, head.weight.detach().clone(), head.bias.detach().clone()
        return self

    def predict_proba(self, embeddings: np.ndarray) -> np.ndarray:
        """Return each class's share, float (N, classes)."""
        logits = F.linear(torch.from_numpy(np.asarray(embeddings, np.float32)), self._weight, self._bias)
        shares: np.ndarray = logits.double().softmax(1).numpy()
        return shares

    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the label of the largest share (N)."""
        found: np.ndarray = self.classes_[self.predict_proba(embeddings).argmax(1)]
        return found

    @staticmethod
    def _kept_out(truth: Tensor, generator: torch.Generator) -> Tensor:
        """Choose a fifth of every class, one tile at least where that leaves another."""
        chosen = torch.zeros(len(truth), dtype=torch.bool)
        for number in set(truth.tolist()):
            of = torch.nonzero(truth == number)[:, 0]
            order = torch.randperm(len(of), generator=generator)
            chosen[of[order[: max(min(1, len(of) - 1), len(of) // 5)]]] = True
        return chosen


def _balanced(predicted: Tensor, truth: Tensor) -> float:
    return float(torch.stack([(predicted[truth == n] == n).float().mean() for n in set(truth.tolist())]).mean())
