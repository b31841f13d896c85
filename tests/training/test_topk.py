"""The sparse step against the same loss written densely and left to autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from saesteer.training.step import TopKModule, sae_loss, select

D_MODEL, D_SAE, BATCH, K = 24, 80, 32, 5
NAMES = ("w_enc", "b_enc", "w_dec", "b_dec")
KINDS = ("batchtopk", "topk")


@pytest.fixture
def module() -> TopKModule:
    """A module away from its starting point: untied, with biases and a scale."""
    module = TopKModule(D_MODEL, D_SAE, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter, size in zip(module.parameters(), (0.3, 0.3, 0.2, 0.5), strict=True):
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        module.input_scale.fill_(0.4)
    return module


@pytest.fixture
def batch() -> torch.Tensor:
    return 3 * torch.randn(BATCH, D_MODEL, generator=torch.Generator().manual_seed(2)) + 1


def keep_largest(pre, k, kind):
    """What survives, densely: the k largest of each row, or k per row of the whole batch."""
    latents = pre.relu()
    if kind == "topk":
        floor = latents.topk(k, -1).values[:, -1:]
    else:
        floor = latents.flatten().topk(k * len(pre)).values[-1]
    return latents * (latents >= floor)


def dense_loss(module, batch, kind, k=K, dead=None, aux_k=6, coefficient=0.25):
    """The published loss, term by term, on dense matrices.

    Gao et al. 2024 for TopK and AuxK, Bussmann et al. 2024 for BatchTopK.
    """
    x = batch * module.input_scale
    pre = (x - module.b_dec) @ module.w_enc.t() + module.b_enc
    latents = keep_largest(pre, k, kind)
    recon = latents @ module.w_dec + module.b_dec
    fvu = (x - recon).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    if dead is None:
        return fvu, fvu, torch.zeros(()), latents
    error = (x - recon).detach()
    dead_pre = ((x - module.b_dec.detach()) @ module.w_enc.t() + module.b_enc)[:, dead]
    aux_latents = keep_largest(dead_pre, min(aux_k, len(dead)), "topk")
    aux = (error - aux_latents @ module.w_dec[dead]).pow(2).sum() / error.pow(2).sum()
    return fvu + coefficient * aux, fvu, aux, latents


def gradients(loss, module):
    module.zero_grad()
    loss.backward()
    return {name: getattr(module, name).grad.clone() for name in NAMES}


def sparse_loss(module, batch, kind, dead=None, dtype=torch.float32, k=K):
    return sae_loss(
        module, batch, k=k, kind=kind, dead=dead, aux_k=6, aux_coefficient=0.25, dtype=dtype
    )


DEAD = {"none dead": None, "a few dead": [3, 17, 40, 41], "many dead": list(range(0, 60, 2))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dead", DEAD.values(), ids=DEAD.keys())
@pytest.mark.parametrize("threshold", [0.0, 0.5, 100.0], ids=["none yet", "low", "too high"])
def test_loss_and_gradients_equal_dense_autograd(module, batch, kind, dead, threshold):
    dead = None if dead is None else torch.tensor(dead)
    module.threshold.fill_(threshold)
    loss, fvu, aux, latents = dense_loss(module, batch, kind, dead=dead)
    expected = gradients(loss, module)
    result, active, values = sparse_loss(module, batch, kind, dead)
    got = gradients(result.loss, module)
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert result.fvu.item() == pytest.approx(fvu.item(), rel=1e-5)
    assert result.aux.item() == pytest.approx(aux.item(), rel=1e-5)
    assert result.l0.item() == pytest.approx((latents > 0).sum().item() / BATCH)
    assert result.threshold.item() == pytest.approx(latents[latents > 0].min().item(), rel=1e-5)
    for name in NAMES:
        assert expected[name].norm() > 0
        difference = (got[name] - expected[name]).norm() / expected[name].norm()
        assert difference <= 1e-5, name
    dense = torch.zeros(BATCH, D_SAE).index_put_((active.rows, active.features), values)
    assert (dense - latents).abs().max() <= 1e-5 * latents.max()


@pytest.mark.parametrize("kind", KINDS)
def test_latents_cut_at_zero_carry_no_gradient(module, batch, kind):
    with torch.no_grad():
        module.b_enc.sub_(6.0)
    loss, *_, latents = dense_loss(module, batch, kind, k=20)
    assert (latents > 0).sum() < 20 * BATCH, "every latent kept is positive: nothing is cut"
    expected = gradients(loss, module)
    result, _, values = sparse_loss(module, batch, kind, k=20)
    got = gradients(result.loss, module)
    assert (values == 0).any()
    assert result.l0.item() == pytest.approx((latents > 0).sum().item() / BATCH)
    for name in NAMES:
        difference = (got[name] - expected[name]).norm() / expected[name].norm()
        assert difference <= 1e-5, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_bf16_encoder_only_finds_the_candidates(module, batch, kind):
    exact, active, values = sparse_loss(module, batch, kind)
    rough, rough_active, rough_values = sparse_loss(module, batch, kind, dtype=torch.bfloat16)
    assert rough.fvu.item() == pytest.approx(exact.fvu.item(), rel=0.02)
    ours = {(r, f): v for r, f, v in zip(*map_lists(active, values), strict=True)}
    theirs = {(r, f): v for r, f, v in zip(*map_lists(rough_active, rough_values), strict=True)}
    shared = ours.keys() & theirs.keys()
    assert len(shared) >= 0.95 * len(ours)
    assert all(theirs[key] == pytest.approx(ours[key], rel=1e-5, abs=1e-6) for key in shared)


def map_lists(active, values):
    return active.rows.tolist(), active.features.tolist(), values.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_survive_as_asked_for(module, batch, kind):
    active, values = select(batch * module.input_scale, module, K, kind, torch.float32)
    counts = torch.bincount(active.rows, minlength=BATCH)
    assert counts.sum() == K * BATCH
    assert (counts == K).all() if kind == "topk" else len(counts.unique()) > 1
    ends = torch.cat([active.starts[1:], torch.tensor([len(values)])])
    assert torch.equal(ends - active.starts, counts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_the_same_bits_every_time(module, batch, kind):
    dead = torch.arange(0, 60, 2)
    runs = [gradients(sparse_loss(module, batch, kind, dead)[0].loss, module) for _ in range(4)]
    for other in runs[1:]:
        assert all(torch.equal(runs[0][name], other[name]) for name in NAMES)


def test_gradients_also_flow_at_step_one_of_a_fresh_module(batch):
    module = TopKModule(D_MODEL, D_SAE, seed=0)
    module.initialise(batch)
    loss, *_ = dense_loss(module, batch, "batchtopk")
    expected = gradients(loss, module)
    got = gradients(sparse_loss(module, batch, "batchtopk")[0].loss, module)
    for name in NAMES:
        assert (got[name] - expected[name]).norm() <= 1e-5 * expected[name].norm()


def test_initialise_brings_inputs_to_mean_square_one(batch):
    module = TopKModule(D_MODEL, D_SAE, seed=0)
    module.initialise(batch)
    scaled = batch * module.input_scale
    assert scaled.pow(2).mean().item() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(module.b_dec.data, scaled.mean(0))


def test_decoder_rows_start_and_stay_at_unit_norm(module):
    fresh = TopKModule(D_MODEL, D_SAE, seed=0)
    torch.testing.assert_close(fresh.w_dec.norm(dim=-1), torch.ones(D_SAE))
    assert torch.equal(fresh.w_dec, fresh.w_enc)
    assert fresh.w_dec.data_ptr() != fresh.w_enc.data_ptr()
    module.normalise_decoder()
    torch.testing.assert_close(module.w_dec.norm(dim=-1), torch.ones(D_SAE))


def test_the_decoders_gradient_is_made_orthogonal_to_it(module):
    module.normalise_decoder()
    module.w_dec.grad = torch.randn(D_SAE, D_MODEL)
    before = module.w_dec.grad.clone()
    module.project_decoder_gradient()
    along = (module.w_dec.grad * module.w_dec).sum(-1)
    assert along.abs().max() < 1e-5
    parallel = (before - module.w_dec.grad).detach()
    assert F.cosine_similarity(parallel, module.w_dec.detach()).abs().min() > 0.999


def test_the_seed_is_the_start():
    one, two, other = (TopKModule(D_MODEL, D_SAE, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.w_dec, two.w_dec)
    assert not torch.equal(one.w_dec, other.w_dec)


def test_the_workspace_follows_the_batch(module, batch):
    sparse_loss(module, batch, "topk")
    assert module.workspace(BATCH, torch.float32).shape == (BATCH, D_SAE)
    half, *_ = sparse_loss(module, batch[:10], "topk")
    fresh, *_ = dense_loss(module, batch[:10], "topk")
    assert half.loss.item() == pytest.approx(fresh.item(), rel=1e-5)
    assert module.workspace(10, torch.bfloat16).dtype == torch.bfloat16
