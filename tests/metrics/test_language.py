"""Cross entropy, KL and perplexity against their definitions, with padding on either side."""

from __future__ import annotations

import math

import pytest
import torch

from saesteer.errors import DataError
from saesteer.metrics import perplexity, token_ce, token_kl
from saesteer.metrics.language import mean_kl

VOCAB = 11


@pytest.fixture
def batch():
    """Logits, ids and a mask: one full row, one padded right, one padded left."""
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 6, VOCAB, generator=rng) * 3
    ids = torch.randint(VOCAB, (3, 6), generator=rng)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [0] * 2 + [1] * 4]).bool()
    return logits, ids, mask


def test_ce_is_minus_the_log_probability_of_the_next_token(batch):
    logits, ids, mask = batch
    log_p = logits.log_softmax(-1)
    expected = [
        -log_p[row, t, ids[row, t + 1]]
        for row in range(3)
        for t in range(5)
        if mask[row, t] and mask[row, t + 1]
    ]
    ce = token_ce(logits, ids, mask)
    assert ce.shape == (5 + 3 + 3,)
    torch.testing.assert_close(ce, torch.stack(expected))


def test_what_stands_in_padding_does_not_matter(batch):
    logits, ids, mask = batch
    before = token_ce(logits, ids, mask), token_kl(logits, logits * 2, mask)
    ids, logits = ids.clone(), logits.clone()
    ids[~mask], logits[~mask] = 0, 1e4
    assert torch.equal(token_ce(logits, ids, mask), before[0])
    assert torch.equal(token_kl(logits, logits * 2, mask), before[1])


def test_a_mask_of_zeros_and_ones_is_a_mask(batch):
    logits, ids, mask = batch
    ones = mask.long()
    assert torch.equal(token_ce(logits, ids, ones), token_ce(logits, ids, mask))
    other = logits.flip(-1)
    assert torch.equal(token_kl(logits, other, ones), token_kl(logits, other, mask))


def test_uniform_logits_cost_the_log_of_the_vocabulary(batch):
    _, ids, mask = batch
    ce = token_ce(torch.zeros(3, 6, VOCAB), ids, mask)
    torch.testing.assert_close(ce, torch.full((11,), math.log(VOCAB)))
    assert perplexity(ce) == pytest.approx(VOCAB, rel=1e-6)


def test_kl_is_the_definition_and_not_symmetric(batch):
    logits, _, mask = batch
    other = logits.flip(-1)
    p, q = logits.softmax(-1), other.softmax(-1)
    expected = (p * (p / q).log()).sum(-1)[mask]
    torch.testing.assert_close(token_kl(logits, other, mask), expected, atol=1e-4, rtol=1e-4)
    cold = logits / 4
    assert not torch.allclose(token_kl(logits, cold, mask), token_kl(cold, logits, mask))


def test_kl_with_itself_is_zero_and_a_shift_changes_nothing(batch):
    logits, _, mask = batch
    assert not token_kl(logits, logits, mask).any()
    assert token_kl(logits + 7, logits, mask).abs().max() < 1e-5


def test_half_precision_logits_are_scored_in_fp32(batch):
    logits, ids, mask = batch
    rough = logits.bfloat16()
    for score in (lambda p: token_ce(p, ids, mask), lambda p: token_kl(p, p.flip(-1), mask)):
        torch.testing.assert_close(score(rough), score(rough.float()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_kl_of_many_tokens_has_the_value_and_slope_of_token_kl(dtype):
    generator = torch.Generator().manual_seed(3)
    clean, changed = (torch.randn(5, 13, 31, generator=generator).to(dtype) for _ in range(2))
    mask = torch.ones(5, 13, dtype=torch.bool)
    slopes = []
    for score in (lambda q: token_kl(clean, q, mask).mean(), lambda q: mean_kl(clean, q)):
        logits = changed.clone().requires_grad_()
        value = score(logits)
        (3 * value).backward()
        slopes.append((value.detach(), logits.grad))
    rounding = {"atol": 1e-6, "rtol": 1e-5 if dtype == torch.float32 else 1e-2}
    torch.testing.assert_close(*slopes, **rounding)


def test_the_mean_kl_moves_what_is_changed_alone():
    clean, changed = torch.randn(2, 3, 7, requires_grad=True), torch.randn(2, 3, 7)
    mean_kl(clean, changed.requires_grad_()).backward()
    assert clean.grad is None
    assert changed.grad is not None


def test_perplexity_needs_tokens_and_may_overflow():
    with pytest.raises(DataError, match="no tokens"):
        perplexity(torch.zeros(0))
    assert perplexity(torch.tensor([1e4])) == math.inf
