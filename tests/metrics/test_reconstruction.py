"""Unexplained variance: the definition in one line each, and exactness over batches."""

from __future__ import annotations

import inspect

import pytest
import torch

from saesteer.errors import DataError, DimensionError
from saesteer.metrics import ReconstructionSums, density_of

D_SAE = 6


@pytest.fixture
def sample():
    """Activations far from zero, a reconstruction, latents and a mask, for 40 tokens."""
    rng = torch.Generator().manual_seed(0)
    resid = torch.randn(4, 10, 8, generator=rng) + 50
    recon = resid + torch.randn(4, 10, 8, generator=rng) / 3
    latents = torch.randn(4, 10, D_SAE, generator=rng).relu()
    latents[..., 5] = 0
    keep = torch.rand(4, 10, generator=rng) > 0.3
    return resid, recon, latents, keep


def test_scores_are_the_definitions(sample):
    resid, recon, latents, keep = sample
    sums = ReconstructionSums(D_SAE)
    sums.add(resid, recon, latents, keep)
    h, estimate, z = (t[keep].double() for t in (resid, recon, latents))
    error, spread = (h - estimate).square().sum(-1), (h - h.mean(0)).square().sum(-1)
    scores = sums.scores()
    assert scores.fvu == pytest.approx(float(error.sum() / spread.sum()), rel=1e-5)
    assert scores.fvu_per_token == pytest.approx(float((error / spread).mean()), rel=1e-5)
    assert scores.l0 == pytest.approx(float((z > 0).sum(-1).double().mean()))
    assert scores.never_fired == pytest.approx(1 / 6)
    assert scores.density == density_of((z > 0).sum(0), len(z))
    assert scores.n_tokens == int(keep.sum())
    torch.testing.assert_close(sums.mean(), h.mean(0).float())


def test_a_mask_of_zeros_and_ones_is_a_mask(sample):
    resid, recon, latents, keep = sample
    plain, ones = ReconstructionSums(D_SAE), ReconstructionSums(D_SAE)
    plain.add(resid, recon, latents, keep)
    ones.add(resid, recon, latents, keep.long())
    assert ones.scores() == plain.scores()


def test_batches_make_no_difference(sample):
    resid, recon, latents, keep = sample
    whole, parts = ReconstructionSums(D_SAE), ReconstructionSums(D_SAE)
    whole.add(resid, recon, latents, keep)
    for row in (2, 0, 3, 1):
        parts.add(resid[row], recon[row], latents[row], keep[row])
    wanted, got = dict(vars(whole.scores())), dict(vars(parts.scores()))
    assert got.pop("density") == wanted.pop("density")
    assert got == pytest.approx(wanted, rel=1e-6)


def test_a_perfect_reconstruction_scores_zero_and_the_mean_scores_one(sample):
    resid, _, latents, _ = sample
    perfect, mean = ReconstructionSums(D_SAE), ReconstructionSums(D_SAE)
    perfect.add(resid, resid, latents)
    mean.add(resid, resid.flatten(0, 1).mean(0).expand_as(resid), latents)
    assert (perfect.scores().fvu, perfect.scores().fvu_per_token) == (0, 0)
    assert mean.scores().fvu == pytest.approx(1, rel=1e-5)
    assert mean.scores().fvu_per_token == pytest.approx(1, rel=1e-5)


def test_tokens_left_out_leave_no_trace(sample):
    resid, recon, latents, keep = sample
    clean, spiked = ReconstructionSums(D_SAE), ReconstructionSums(D_SAE)
    clean.add(resid, recon, latents, keep)
    resid, latents = resid.clone(), latents.clone()
    resid[~keep], latents[~keep] = 1e6, 1.0
    spiked.add(resid, recon, latents, keep)
    assert spiked.scores() == clean.scores()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("recon", (4, 9, 8)),
        ("latents", (4, 10, D_SAE + 1)),
        ("latents", (4, 9, D_SAE)),
        ("keep", (4,)),
        ("resid", (4, 10, 7)),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_whole(sample, name, shape):
    sums = ReconstructionSums(D_SAE)
    sums.add(*sample)
    before = sums.scores()
    batch = dict(zip(("resid", "recon", "latents", "keep"), sample, strict=True))
    batch[name] = torch.ones(shape)
    add = inspect.unwrap(ReconstructionSums.add)  # without the tests' own check of types
    with pytest.raises(DimensionError, match=rf"{name} has shape \({shape[0]},"):
        add(sums, **batch)
    assert sums.scores() == before


def test_no_tokens_is_an_error():
    sums = ReconstructionSums(D_SAE)
    sums.add(torch.ones(3, 8), torch.ones(3, 8), torch.zeros(3, D_SAE), torch.zeros(3).bool())
    with pytest.raises(DataError, match="no tokens to score"):
        sums.scores()


@pytest.mark.parametrize("n", [1, 5])
def test_tokens_without_variance_are_an_error(n):
    sums = ReconstructionSums(D_SAE)
    sums.add(torch.ones(n, 8), torch.zeros(n, 8), torch.zeros(n, D_SAE))
    with pytest.raises(DataError, match=f"{n} tokens without variance"):
        sums.scores()
