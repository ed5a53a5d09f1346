"""Heads return cosines; the teacher's are fixed by its tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgepath.distillation.heads import Compare, StudentHead, TeacherHead
from edgepath.errors import UsageError

TOKENS = torch.randn(60, 24, generator=torch.Generator().manual_seed(0)) * 3 + 5


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_student_logits_are_cosines_of_the_projection() -> None:
    torch.manual_seed(0)
    head = StudentHead(24, 32, 8, 10)
    projected = head.mlp(TOKENS).detach().numpy()
    wanted = unit(projected) @ unit(head.prototypes.detach().numpy()).T
    assert np.allclose(head(TOKENS).detach().numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(("bottleneck", "width"), [(8, 8), (256, 24)])
def test_teacher_logits_are_cosines_of_standardised_tokens(bottleneck: int, width: int) -> None:
    head = TeacherHead(24, bottleneck, 10, seed=1)
    head.fit(TOKENS, from_tokens=False, seed=2)
    tokens = TOKENS.numpy().astype(np.float64)
    standard = (tokens - tokens.mean(0)) / tokens.std(0, ddof=1)
    wanted = unit(standard @ head.projection.numpy()) @ head.prototypes.numpy().T
    assert head.prototypes.shape == (10, width)
    assert np.allclose(head(TOKENS).numpy(), wanted, atol=1e-5)


def test_prototypes_from_tokens_are_tokens() -> None:
    head = TeacherHead(24, 8, 10, seed=1)
    head.fit(TOKENS, from_tokens=True, seed=2)
    nearest = head(TOKENS).max(0)
    assert torch.allclose(nearest.values, torch.ones(10), atol=1e-5)
    assert len(set(nearest.indices.tolist())) == 10


def test_more_prototypes_than_tokens_are_refused() -> None:
    with pytest.raises(UsageError, match=r"61 prototypes from 60 tokens; raise heads\.fit_tiles"):
        TeacherHead(24, 8, 61, seed=1).fit(TOKENS, from_tokens=True, seed=2)


def test_the_same_seed_is_the_same_head() -> None:
    one, same, other = (TeacherHead(24, 8, 10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one(TOKENS), same(TOKENS))
    assert not torch.equal(one(TOKENS), other(TOKENS))


def test_comparing_through_the_teachers_head_moves_tokens_only() -> None:
    head = TeacherHead(24, 8, 10, seed=1)
    head.fit(TOKENS, from_tokens=False, seed=2)
    tokens = TOKENS.clone().requires_grad_()
    compare = Compare(head)
    logits = compare(tokens)
    assert torch.equal(logits, head(TOKENS))
    logits[:, 0].sum().backward()
    assert tokens.grad is not None
    assert not list(compare.parameters())
    assert not compare.state_dict()
