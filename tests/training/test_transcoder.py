"""A transcoder's step against dense autograd, what it learns, and its files in sae-lens."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch.nn import functional as F

from saesteer.models import Site, record
from saesteer.saes import Transcoder, load_transcoder
from saesteer.training.learner import Learner
from saesteer.training.sparse import TopKSettings
from saesteer.training.transcoder import SparseTranscoder

D_IN, D_OUT, D_SAE, BATCH, K = 20, 28, 80, 32, 5
WIDTHS = (10, 33, D_SAE)
PAIR = {"site": "mlp_in.1", "target": "mlp_out.1"}


@pytest.fixture
def make():
    """A transcoder away from its starting point, with other scales on both sides."""

    def make(*, skip=False, nested=()) -> SparseTranscoder:
        settings = TopKSettings(k=K, widths=nested, aux_k=6, aux_coefficient=0.25)
        coder = SparseTranscoder((D_IN, D_OUT), D_SAE, settings, skip=skip, seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in coder.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            coder.input_scale.fill_(0.4)
            coder.output_scale.fill_(2.5)
        return coder

    return make


@pytest.fixture
def batch() -> torch.Tensor:
    return 2 * torch.randn(BATCH, D_IN + D_OUT, generator=torch.Generator().manual_seed(2)) + 1


def dense_loss(coder, batch, nested=(), dead=None):
    """Squared error at the target over its variance, and AuxK, on dense matrices."""
    x, y = batch[:, :D_IN] * 0.4, batch[:, D_IN:] * 2.5
    pre = (x - coder.b_in) @ coder.w_enc.t() + coder.b_enc
    latents = pre.relu()
    latents = latents * (latents >= latents.flatten().topk(K * len(x)).values[-1])
    base = coder.b_dec
    if coder.w_skip is not None:
        base = base + (x - coder.b_in) @ coder.w_skip.t()
    recons = [latents[:, :w] @ coder.w_dec[:w] + base for w in nested or (D_SAE,)]
    spread = (y - y.mean(0)).pow(2).sum()
    loss = torch.stack([(y - recon).pow(2).sum() / spread for recon in recons]).mean()
    if dead is None:
        return loss
    error = (y - recons[-1]).detach()
    dead_pre = ((x - coder.b_in.detach()) @ coder.w_enc.t() + coder.b_enc)[:, dead]
    kept = dead_pre.relu() * (dead_pre >= dead_pre.topk(6, -1).values[:, -1:])
    return loss + 0.25 * (error - kept @ coder.w_dec[dead]).pow(2).sum() / error.pow(2).sum()


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("nested", [(), WIDTHS], ids=["batchtopk", "matryoshka"])
@pytest.mark.parametrize("dead", [None, list(range(0, 60, 2))], ids=["none dead", "many dead"])
def test_loss_and_gradients_equal_dense_autograd(make, batch, skip, nested, dead):
    coder = make(skip=skip, nested=nested)
    expected = dense_loss(coder, batch, nested, dead)
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in coder.named_parameters()}
    coder.zero_grad()
    result = coder.loss(batch, None if dead is None else torch.tensor(dead))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert gradients.keys() >= {"w_enc", "w_dec", "b_enc", "b_dec", "b_in"}
    for name, parameter in coder.named_parameters():
        assert gradients[name].norm() > 0
        difference = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
        assert difference <= 1e-5, name


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_what_ships_rebuilds_like_the_step(make, batch, skip):
    coder = make(skip=skip)
    result = coder.loss(batch, None)
    with torch.no_grad():
        coder.threshold.copy_(result.threshold * (1 - 1e-5))
    shipped = coder.to_sae([Site(1, "mlp_in"), Site(1, "mlp_out")], "tiny")
    x, y = batch.split((D_IN, D_OUT), dim=-1)
    error = (y - shipped(x)).pow(2).sum() / (y - y.mean(0)).pow(2).sum()
    assert error.item() == pytest.approx(result.fvu.item(), rel=1e-4)
    assert (shipped.encode(x) > 0).sum() / BATCH == pytest.approx(result.l0.item())


def synthetic(n, seed, linear=0.0):
    """Some of 24 features fire; each has one direction in the input and another in the output."""
    fixed = torch.Generator().manual_seed(99)
    reads = F.normalize(torch.randn(24, D_IN, generator=fixed), dim=-1)
    writes = F.normalize(torch.randn(24, D_OUT, generator=fixed), dim=-1)
    mixing = torch.randn(D_IN, D_OUT, generator=fixed) / D_IN**0.5
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(n, 24, generator=generator) < 0.08
    codes = on * (1 + torch.rand(n, 24, generator=generator))
    x = codes @ reads
    noise = linear * torch.randn(n, D_IN, generator=generator)
    return torch.cat([5 * (x + noise), 0.1 * (codes @ writes + noise @ mixing)], dim=-1)


def trained(config, batches, widths=(D_IN, D_OUT)):
    learner = Learner.create(config, widths, "cpu")
    results = [learner.step(batch) for batch in batches]
    return learner, results


def test_it_finds_the_features_that_carry_one_site_to_the_other(settings):
    config = settings(**PAIR, k=2, d_sae=48, lr=2e-2, n_tokens=150 * 64)
    learner, results = trained(config, (synthetic(256, seed) for seed in range(150)))
    assert results[0].fvu > 0.8
    assert results[-1].fvu < 0.2
    shipped, held_out = learner.to_sae("tiny"), synthetic(2000, seed=1234)
    x, y = held_out.split((D_IN, D_OUT), dim=-1)
    assert (y - shipped(x)).pow(2).sum() / (y - y.mean(0)).pow(2).sum() < 0.25


def test_the_skip_connection_takes_what_is_linear(settings):
    fvus = {}
    for skip in (False, True):
        config = settings(**PAIR, skip=skip, k=2, d_sae=48, lr=2e-2, n_tokens=150 * 64)
        _, results = trained(config, (synthetic(256, seed, linear=1.0) for seed in range(150)))
        fvus[skip] = results[-1].fvu.item()
    assert fvus[True] < 0.5 * fvus[False]


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("arch", ["batchtopk", "matryoshka"])
def test_a_run_loads_here_and_in_sae_lens_with_equal_outputs(
    run, settings, model, tmp_path, arch, skip
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE

        run(settings(**PAIR, skip=skip, arch=arch), tmp_path / "t")
        theirs = SAE.load_from_disk(tmp_path / "t")
    ours = load_transcoder(tmp_path / "t")
    assert isinstance(ours, Transcoder)
    assert (str(ours.site), str(ours.target)) == ("mlp_in.1", "mlp_out.1")
    batch = model.tokenize("the quick brown fox over the lazy dog in the rain")
    acts = record(model, batch, [ours.site, ours.target])
    x, y = acts[ours.site][0], acts[ours.target][0]
    with torch.no_grad():
        torch.testing.assert_close(theirs.encode(x), ours.encode(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs(x), ours(x), atol=1e-5, rtol=1e-5)
    assert 0 < (ours.encode(x) > 0).float().mean() < 1
    assert (y - ours(x)).pow(2).sum() < (y - y.mean(0)).pow(2).sum()
    assert (ours.w_skip is not None) == skip
    metadata = json.loads((tmp_path / "t" / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.1.mlp.hook_in"
    assert metadata["hook_name_out"] == "blocks.1.hook_mlp_out"
    assert metadata["n_tokens"] == 30 * 64


def test_sites_of_other_widths_make_a_transcoder(run, settings, tmp_path):
    out = run(settings(site="resid_mid.1", target="neurons.2", n_tokens=10 * 64), tmp_path / "t")
    shipped = load_transcoder(out)
    assert (shipped.w_enc.shape, shipped.w_dec.shape) == ((32, 64), (64, 64))
