"""A crosscoder's step against dense autograd, the norms it holds, and the features it finds."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn import functional as F

from saesteer.models import Site, record
from saesteer.saes import load_crosscoder
from saesteer.training.crosscoder import SparseCrosscoder
from saesteer.training.learner import Learner
from saesteer.training.sparse import TopKSettings

WIDTHS = {"resid_post.0": 20, "resid_post.1": 20, "neurons.1": 28}
D_IN, D_SAE, BATCH, K = sum(WIDTHS.values()), 90, 32, 5
PREFIXES = (10, 33, D_SAE)


@pytest.fixture
def make():
    """A crosscoder away from its starting point, with another scale at each site."""

    def make(nested=()) -> SparseCrosscoder:
        settings = TopKSettings(k=K, widths=nested, aux_k=6, aux_coefficient=0.25)
        coder = SparseCrosscoder(WIDTHS, D_SAE, settings, seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in coder.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            coder.input_scale.copy_(torch.tensor([0.4, 1.0, 2.5]))
        return coder

    return make


@pytest.fixture
def batch() -> torch.Tensor:
    return 2 * torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(2)) + 1


def mean_norms(w_dec):
    parts = w_dec.split(tuple(WIDTHS.values()), dim=-1)
    return torch.stack([part.norm(dim=-1) for part in parts]).mean(0)


def dense_loss(coder, batch, nested=()):
    """Lindsey et al. 2024's reconstruction, site by site, with BatchTopK for its sparsity."""
    scales = (0.4, 1.0, 2.5)
    names = [p.split(tuple(WIDTHS.values()), -1) for p in (batch, coder.w_enc, coder.w_dec)]
    biases = coder.b_dec.split(tuple(WIDTHS.values()))
    sites = [
        (x * scale, *rest)
        for x, scale, *rest in zip(names[0], scales, *names[1:], biases, strict=True)
    ]
    pre = sum((x - b) @ w_enc.t() for x, w_enc, _, b in sites) + coder.b_enc
    latents = pre.relu()
    latents = latents * (latents >= latents.flatten().topk(K * len(batch)).values[-1])
    spread = sum((x - x.mean(0)).pow(2).sum() for x, *_ in sites)
    each = [
        sum((x - latents[:, :w] @ w_dec[:w] - b).pow(2).sum() for x, _, w_dec, b in sites) / spread
        for w in nested or (D_SAE,)
    ]
    x, _, w_dec, b = sites[2]
    last_site = (x - latents @ w_dec - b).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    return torch.stack(each).mean(), last_site


@pytest.mark.parametrize("nested", [(), PREFIXES], ids=["batchtopk", "matryoshka"])
def test_loss_and_gradients_equal_dense_autograd(make, batch, nested):
    coder = make(nested)
    expected, last_site = dense_loss(coder, batch, nested)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in coder.named_parameters()}
    coder.zero_grad()
    result = coder.loss(batch, None)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert result.extra["fvu/neurons.1"].item() == pytest.approx(last_site.item(), rel=1e-5)
    assert list(result.extra) == [f"fvu/{name}" for name in WIDTHS]
    for name, parameter in coder.named_parameters():
        difference = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
        assert difference <= 1e-5, name


def test_the_mean_of_the_decoders_norms_starts_and_stays_at_one(make, batch):
    fresh = SparseCrosscoder(WIDTHS, D_SAE, TopKSettings(k=K), seed=0)
    torch.testing.assert_close(mean_norms(fresh.w_dec), torch.ones(D_SAE))
    coder = make()
    before = coder.w_dec.detach().clone()
    coder.after_update(coder.loss(batch, None))
    torch.testing.assert_close(mean_norms(coder.w_dec), torch.ones(D_SAE))
    assert F.cosine_similarity(before, coder.w_dec.detach()).min() > 1 - 1e-6


def test_the_gradient_leaves_the_mean_norm_as_it_is(make):
    coder = make()
    coder.constrain()
    gradient = torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(5))

    def growth(direction):
        weight = coder.w_dec.detach().clone().requires_grad_()
        return torch.func.jvp(mean_norms, (weight,), (direction,))[1]

    coder.w_dec.grad = gradient.clone()
    coder.before_update()
    assert growth(gradient).abs().max() > 0.1
    assert growth(coder.w_dec.grad).abs().max() < 1e-5
    kept = F.cosine_similarity(gradient, coder.w_dec.grad)
    assert kept.min() > 0.8, "more was taken than one direction"


def test_what_ships_rebuilds_like_the_step(make, batch):
    coder = make()
    result = coder.loss(batch, None)
    with torch.no_grad():
        coder.threshold.copy_(result.threshold * (1 - 1e-5))
    sites = [Site.parse(name) for name in WIDTHS]
    shipped = coder.to_sae(sites, "tiny")
    acts = dict(zip(sites, batch.split(tuple(WIDTHS.values()), dim=-1), strict=True))
    latents = shipped.encode(acts)
    assert (latents > 0).sum() / BATCH == pytest.approx(result.l0.item())
    for site, recon in shipped.decode(latents).items():
        h = acts[site]
        fvu = (h - recon).pow(2).sum() / (h - h.mean(0)).pow(2).sum()
        assert fvu.item() == pytest.approx(result.extra[f"fvu/{site}"].item(), rel=1e-4)


N_SHARED, N_OWN = 12, 6


def synthetic(n, seed):
    """Features shared by two sites of very different scale, and some at one of them alone."""
    fixed, generator = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    n_all = N_SHARED + 2 * N_OWN
    first, second = (F.normalize(torch.randn(n_all, 24, generator=fixed), dim=-1) for _ in "ab")
    first[N_SHARED + N_OWN :] = 0
    second[N_SHARED : N_SHARED + N_OWN] = 0
    on = torch.rand(n, n_all, generator=generator) < 0.08
    codes = on * (1 + torch.rand(n, n_all, generator=generator))
    return torch.cat([codes @ first, 30 * codes @ second], dim=-1), (first, second)


def test_it_finds_shared_features_and_those_of_one_site(settings):
    config = settings(
        site="resid_post.0", sites=["resid_post.1"], k=2, d_sae=48, lr=1e-2, n_tokens=300 * 64
    )
    learner = Learner.create(config, (24, 24), "cpu")
    results = [learner.step(synthetic(256, seed)[0]) for seed in range(300)]
    assert results[-1].fvu < 0.15 < 0.6 < results[0].fvu
    assert max(fvu.item() for fvu in results[-1].extra.values()) < 0.2
    shipped, truth = learner.to_sae("tiny"), synthetic(1, 0)[1]
    shares = shipped.shares()
    best = []
    for index in range(N_SHARED + 2 * N_OWN):
        pairs = list(zip(truth, shipped.w_dec.values(), strict=True))
        alike = sum(F.normalize(w, dim=-1) @ t[index] for t, w in pairs)
        best.append(int(alike.argmax()))
        assert alike[best[-1]] > 0.9 * sum(t[index].norm() for t in truth), index
    at_first = shares[best, 0]
    assert ((at_first > 0.35) & (at_first < 0.65))[:N_SHARED].all()
    assert (at_first > 0.85)[N_SHARED : N_SHARED + N_OWN].all()
    assert (at_first < 0.15)[N_SHARED + N_OWN :].all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(48))


def test_a_run_loads_back_and_sae_lens_refuses_it(run, settings, model, tmp_path, figures_of):
    config = settings(site="resid_post.0", sites=["resid_post.2", "mlp_out.1"])
    out = run(config, tmp_path / "c")
    shipped = load_crosscoder(out)
    assert [str(site) for site in shipped.sites] == ["resid_post.0", "resid_post.2", "mlp_out.1"]
    acts = record(model, model.tokenize("the quick brown fox in the rain"), shipped.sites)
    latents = shipped.encode(acts)
    assert 0 < (latents > 0).float().mean() < 1
    last = figures_of(out)[-1]
    assert {f"fvu/{site}" for site in shipped.sites} <= last.keys()
    for site, recon in shipped.decode(latents).items():
        h = acts[site][0]
        assert (h - recon[0]).pow(2).sum() < (h - h.mean(0)).pow(2).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE

        with pytest.raises((KeyError, ValueError), match="saesteer_crosscoder"):
            SAE.load_from_disk(out)
