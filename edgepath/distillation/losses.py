"""Targets from the teacher's logits, and the two cross-entropies; across processes, a step's batch counts as one.

Formulas of DINO (arXiv 2104.14294, eq. 1-4), iBOT (arXiv 2111.07832, eq. 2) and DINOv2 (arXiv 2304.07193, section 4:
Sinkhorn-Knopp centering in three iterations, after SwAV, arXiv 2006.09882).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .processes import sum_over_processes


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int) -> Tensor:
    """Turn logits (N, K) into targets (N, K): rows sum to 1, and every prototype gets about the same share of all rows.

    Q = exp(logits / temperature); each iteration scales Q's prototypes, then its samples, to equal sums.
    """
    shares = ((logits.float() - 1) / temperature).exp()  # cosines are at most 1; a common factor changes no target
    rows = sum_over_processes(torch.tensor(float(len(shares)), device=shares.device))
    tiny = torch.finfo(shares.dtype).tiny
    for _ in range(iterations):
        shares = shares / sum_over_processes(shares.sum(0)).clamp_min(tiny) / shares.shape[1]
        shares = shares / shares.sum(1, keepdim=True).clamp_min(tiny) / rows
    return shares * rows


class MeanCenter(nn.Module):
    """DINO's centering: softmax((logits - center) / temperature), where the center follows the mean of the logits."""

    center: Tensor

    def __init__(self, prototypes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """Return targets (N, K) by the center so far, then move the center."""
        logits = logits.float()
        targets = ((logits - self.center) / temperature).softmax(1)
        rows = sum_over_processes(torch.tensor(float(len(logits)), device=logits.device))
        mean = sum_over_processes(logits.sum(0)) / rows
        self.center.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
        return targets


def dino_loss(targets: Tensor, logits: Tensor, temperature: float, *, same_view: bool = False) -> Tensor:
    """Return the mean cross-entropy between the teacher's views (T, N, K) and the student's (S, N, K), T <= S.

    The student's first T views are the teacher's; pairs of one view are left out unless `same_view`.
    """
    log_probabilities = (logits.float() / temperature).log_softmax(-1)
    pairs = -torch.einsum("tnk,snk->ts", targets, log_probabilities) / targets.shape[1]
    if same_view:
        return pairs.mean()
    keep = ~torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs[keep].mean()


def ibot_loss(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy over patch tokens (N, K) of the same crop; every token counts, none is masked."""
    return -(targets * (logits.float() / temperature).log_softmax(-1)).sum(-1).mean()
