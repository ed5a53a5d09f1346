"""Tokens -> prototype logits: the student's head is DINO's and trained, the teacher's is fixed.

DINOv2 distils through the heads its teacher was trained with. Those of pathology's models are not published, so the
teacher's head here is ours: tokens are standardised, projected at random (Johnson-Lindenstrauss) to as many numbers as
DINO's bottleneck has, and compared with prototypes by cosine. Without the standardisation, the few directions that all
of a ViT's tokens share would decide every comparison.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError


class StudentHead(nn.Module):
    """DINO's projection head: three linears with GELU, L2 norm, then cosines with unit prototypes (N, K)."""

    def __init__(self, dim: int, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        widths = (dim, hidden, hidden, bottleneck)
        linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.mlp = nn.Sequential(linears[0], nn.GELU(), linears[1], nn.GELU(), linears[2])
        for linear in linears:
            # DINO's 0.02 for its 2048 inputs; at other widths the same spread of what comes out
            nn.init.trunc_normal_(linear.weight, std=linear.in_features**-0.5)
            nn.init.zeros_(linear.bias)
        # DINO's weight norm with its gain held at 1: only the direction of a prototype counts.
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, K) of tokens (N, D)."""
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.prototypes, dim=-1))


class TeacherHead(nn.Module):
    """Fixed prototypes over a teacher's standardised tokens; `fit` it before use."""

    mean: Tensor
    spread: Tensor
    projection: Tensor
    prototypes: Tensor

    def __init__(self, dim: int, bottleneck: int, prototypes: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        width = min(dim, bottleneck)
        projection = torch.eye(dim) if width == dim else torch.randn(dim, width, generator=generator) / width**0.5
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))
        self.register_buffer("projection", projection)
        drawn = torch.randn(prototypes, width, generator=generator)
        self.register_buffer("prototypes", F.normalize(drawn, dim=-1))

    @torch.no_grad()
    def fit(self, tokens: Tensor, from_tokens: bool, seed: int) -> None:
        """Take mean and spread from tokens (N, D), and with `from_tokens` the prototypes too: N tokens drawn once each.

        Raises UsageError where there are fewer tokens than prototypes.
        """
        tokens = tokens.float()
        self.mean.copy_(tokens.mean(0))
        self.spread.copy_(tokens.std(0).clamp_min(1e-6))
        if not from_tokens:
            return
        count = len(self.prototypes)
        if len(tokens) < count:
            raise UsageError(
                f"heads: {count} prototypes from {len(tokens)} tokens; raise heads.fit_tiles, ask for fewer, "
                'or set heads.teacher_prototypes = "random"'
            )
        drawn = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))[:count]
        self.prototypes.copy_(self._project(tokens[drawn.to(tokens.device)]))

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, K), cosines, of tokens (N, D)."""
        return self.compare(tokens)

    def compare(self, tokens: Tensor) -> Tensor:
        """Return the same, with gradients: for a student that shares its teacher's head."""
        return F.linear(self._project(tokens.float()), self.prototypes)

    def _project(self, tokens: Tensor) -> Tensor:
        return F.normalize((tokens - self.mean) / self.spread @ self.projection, dim=-1)


class Compare(nn.Module):
    """A student's tokens before its teacher's fixed head: no parameters, and gradients for the tokens.

    A student of its teacher's width then learns the tokens themselves, not what some head makes of them (the teacher's
    classifier reused: Chen et al., arXiv 2203.14001).
    """

    def __init__(self, head: TeacherHead) -> None:
        super().__init__()
        self._head = (head,)  # in a tuple, so that it stays the teacher's: no part of the student's state

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (N, K), cosines, of tokens (N, D)."""
        return self._head[0].compare(tokens)
