"""The sparse step against the same loss written densely and left to autograd."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from saesteer.errors import ConfigError
from saesteer.models import Site
from saesteer.training import select, sparse
from saesteer.training.kernels import Active
from saesteer.training.sparse import TopKSettings
from saesteer.training.topk import TopKCoder

D_MODEL, D_SAE, BATCH, K = 24, 80, 32, 5
NAMES = ("w_enc", "b_enc", "w_dec", "b_dec")
KINDS = ("batchtopk", "topk", "abstopk", "matryoshka")
WIDTHS = (10, 33, D_SAE)


def coder_of(kind="batchtopk", *, k=K, dtype=torch.float32, **changes) -> TopKCoder:
    nested = kind == "matryoshka"
    changes = {"widths": WIDTHS if nested else (), **changes}
    settings = TopKSettings(
        k=k,
        kind="batchtopk" if nested else kind,
        aux_k=6,
        aux_coefficient=0.25,
        dtype=dtype,
        **changes,
    )
    return TopKCoder(D_MODEL, D_SAE, settings, seed=0)


@pytest.fixture
def make():
    """A coder away from its starting point: untied, with biases and a scale."""

    def make(*args, **settings) -> TopKCoder:
        coder = coder_of(*args, **settings)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, size in zip(
                ("w_dec", "w_enc", "b_enc", "b_dec"), (0.3, 0.3, 0.2, 0.5), strict=True
            ):
                parameter = getattr(coder, name)
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
            coder.input_scale.fill_(0.4)
        return coder

    return make


@pytest.fixture
def batch() -> torch.Tensor:
    return 3 * torch.randn(BATCH, D_MODEL, generator=torch.Generator().manual_seed(2)) + 1


def keep_largest(pre, k, kind):
    """What survives, densely: the k largest of each row, or k per row of the whole batch."""
    if kind == "abstopk":
        floor = pre.abs().topk(k, -1).values[:, -1:]
        return pre * (pre.abs() >= floor)
    latents = pre.relu()
    if kind == "topk":
        floor = latents.topk(k, -1).values[:, -1:]
    else:
        floor = latents.flatten().topk(k * len(pre)).values[-1]
    return latents * (latents >= floor)


def dense_loss(coder, batch, kind, k=K, dead=None, aux_k=6, coefficient=0.25):
    """The published loss, term by term, on dense matrices.

    Gao et al. 2024 for TopK and AuxK, Bussmann et al. 2024 for BatchTopK, 2025 for Matryoshka.
    """
    x = batch * coder.input_scale
    pre = (x - coder.b_dec) @ coder.w_enc.t() + coder.b_enc
    latents = keep_largest(pre, k, kind)

    def fvu_of(width):
        recon = latents[:, :width] @ coder.w_dec[:width] + coder.b_dec
        return (x - recon).pow(2).sum() / (x - x.mean(0)).pow(2).sum(), recon

    fvu, recon = fvu_of(D_SAE)
    widths = WIDTHS if kind == "matryoshka" else (D_SAE,)
    loss = torch.stack([fvu_of(width)[0] for width in widths]).mean()
    if dead is None:
        return loss, fvu, torch.zeros(()), latents
    error = (x - recon).detach()
    dead_pre = ((x - coder.b_dec.detach()) @ coder.w_enc.t() + coder.b_enc)[:, dead]
    rowwise = "abstopk" if kind == "abstopk" else "topk"
    aux_latents = keep_largest(dead_pre, min(aux_k, len(dead)), rowwise)
    aux = (error - aux_latents @ coder.w_dec[dead]).pow(2).sum() / error.pow(2).sum()
    return loss + coefficient * aux, fvu, aux, latents


def gradients(loss, coder):
    coder.zero_grad()
    loss.backward()
    return {name: getattr(coder, name).grad.clone() for name in NAMES}


def assert_same_gradients(got, expected):
    for name in NAMES:
        assert expected[name].norm() > 0
        difference = (got[name] - expected[name]).norm() / expected[name].norm()
        assert difference <= 1e-5, name


DEAD = {"none dead": None, "a few dead": [3, 17, 40, 41], "many dead": list(range(0, 60, 2))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dead", DEAD.values(), ids=DEAD.keys())
@pytest.mark.parametrize("threshold", [0.0, 0.5, 100.0], ids=["none yet", "low", "too high"])
def test_loss_and_gradients_equal_dense_autograd(make, batch, kind, dead, threshold):
    coder = make(kind)
    dead = None if dead is None else torch.tensor(dead)
    coder.threshold.fill_(threshold)
    loss, fvu, aux, latents = dense_loss(coder, batch, kind, dead=dead)
    expected = gradients(loss, coder)
    result = coder.loss(batch, dead)
    assert_same_gradients(gradients(result.loss, coder), expected)
    assert result.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert result.fvu.item() == pytest.approx(fvu.item(), rel=1e-5)
    x = batch * coder.input_scale
    recon = latents @ coder.w_dec + coder.b_dec
    each = (x - recon).pow(2).sum(-1) / (x - x.mean(0)).pow(2).sum(-1)
    assert result.fvu_per_token.item() == pytest.approx(each.mean().item(), rel=1e-5)
    assert result.aux.item() == pytest.approx(aux.item(), rel=1e-5)
    assert result.l0.item() == pytest.approx((latents != 0).sum().item() / BATCH)
    smallest = latents.abs()[latents != 0].min().item()
    assert result.threshold.item() == pytest.approx(smallest, rel=1e-5)
    assert torch.equal(result.fires, (latents != 0).sum(0).float())
    active, values = coder.select(batch * coder.input_scale)
    dense = torch.zeros(BATCH, D_SAE).index_put_((active.rows, active.features), values)
    assert (dense - latents).abs().max() <= 1e-5 * latents.abs().max()


@pytest.mark.parametrize("kind", ["batchtopk", "topk", "matryoshka"])
def test_latents_cut_at_zero_carry_no_gradient(make, batch, kind):
    coder = make(kind, k=20)
    with torch.no_grad():
        coder.b_enc.sub_(6.0)
    loss, *_, latents = dense_loss(coder, batch, kind, k=20)
    assert (latents > 0).sum() < 20 * BATCH, "every latent kept is positive: nothing is cut"
    expected = gradients(loss, coder)
    result = coder.loss(batch, None)
    assert (coder.select(batch * coder.input_scale)[1] == 0).any()
    assert_same_gradients(gradients(result.loss, coder), expected)
    assert result.l0.item() == pytest.approx((latents > 0).sum().item() / BATCH)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def nominating(request, monkeypatch):
    """What a CPU is found to be fastest in."""
    nominate_in(monkeypatch, request.param)
    return request.param


def nominate_in(monkeypatch, dtype):
    monkeypatch.setattr(sparse, "fastest_dtype", lambda _: dtype)


def chosen_by(monkeypatch, coder, x):
    """Survivors with rough nominations, and without."""
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        nominate_in(monkeypatch, dtype)
        active, values = coder.select(x)
        found.append((active.rows, active.features, values))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threshold", [0.0, 1.0], ids=["first step", "later"])
def test_a_bf16_encoder_only_nominates(monkeypatch, make, batch, kind, threshold):
    """Nominees are scored again in fp32, so a rough matmul gives the fp32 choice, bit for bit."""
    coder = make(kind)
    coder.threshold.fill_(threshold)
    rough, exact = chosen_by(monkeypatch, coder, batch * coder.input_scale)
    assert all(map(torch.equal, rough, exact))


@pytest.mark.parametrize("kind", ["batchtopk", "topk", "abstopk"])
@pytest.mark.parametrize("threshold", [0.0, 0.5], ids=["first step", "later"])
def test_nominees_are_more_than_are_needed(monkeypatch, kind, threshold):
    """Where thousands of latents lie close together, bf16 alone would choose others."""
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    coder = TopKCoder(64, 2048, TopKSettings(k=24, kind=kind), seed=0)
    coder.threshold.fill_(threshold)
    rough, exact = chosen_by(monkeypatch, coder, x)
    assert all(map(torch.equal, rough, exact))


def close_together(kind):
    """Latents nearer to each other than bf16 can tell, in the second half of the rows."""
    generator = torch.Generator().manual_seed(0)
    coder = TopKCoder(64, 2048, TopKSettings(k=24, kind=kind), seed=0)
    common = torch.randn(64, generator=generator)
    with torch.no_grad():
        coder.w_enc.copy_(common + 1e-3 * torch.randn(2048, 64, generator=generator))
    return coder, common + 0.1 * torch.randn(64, 64, generator=generator)


@pytest.mark.parametrize(
    ("kind", "share"),
    [("topk", 0.0), ("abstopk", 0.0), ("batchtopk", 0.0), ("batchtopk", 0.999)],
    ids=["topk", "abstopk", "first step", "threshold just too high"],
)
def test_where_bf16_can_not_tell_the_choice_is_made_in_fp32(monkeypatch, kind, share):
    coder, x = close_together(kind)
    x[0] = 0.0  # a row without length hides no other
    cut = coder.select(x)[1].abs().min()
    coder.threshold.copy_(share * cut / select._FLOOR_SHARE)  # the floor lies right below the cut
    rough, exact = chosen_by(monkeypatch, coder, x)
    assert all(map(torch.equal, rough, exact))


def test_rows_are_chosen_again_only_where_bf16_can_not_tell(monkeypatch):
    coder, close = close_together("topk")
    close[:, 0], apart = 0.0, torch.zeros_like(close)
    apart[:, 0] = 10.0
    with torch.no_grad():
        coder.w_enc[:, 0] = 1.02 ** torch.arange(-1948.0, 100.0)  # each 2 % above the one before
    again, doubts = [], select._unsure
    nominate_in(monkeypatch, torch.bfloat16)
    monkeypatch.setattr(select, "_unsure", lambda *args: again.append(doubts(*args)) or again[-1])
    coder.select(torch.cat([apart, close]))
    (rows,) = again
    assert rows.tolist() == list(range(64, 128))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 99.0])  # none yet, one that serves, one too high
def test_a_batch_is_not_chosen_again_where_bf16_can_tell(monkeypatch, threshold):
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    coder = TopKCoder(64, 2048, TopKSettings(k=24), seed=0)
    coder.threshold.fill_(threshold)
    asked, dense = [], coder._dense
    nominate_in(monkeypatch, torch.bfloat16)
    monkeypatch.setattr(coder, "_dense", lambda x, dtype: asked.append(dtype) or dense(x, dtype))
    coder.select(x)
    assert set(asked) == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["topk", "abstopk"])
def test_blocks_of_rows_choose_as_all_rows_together(monkeypatch, kind, nominating):
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    coder = TopKCoder(64, 2048, TopKSettings(k=24, kind=kind), seed=0)
    whole, values = coder.select(x)
    monkeypatch.setattr(sparse, "BLOCK", 100)
    blocks, found = coder.select(x)
    assert torch.equal(blocks.starts, whole.starts)
    assert torch.equal(blocks.features, whole.features)
    assert torch.equal(found, values)
    assert coder.workspace(56, nominating).dtype == nominating


@pytest.mark.usefixtures("nominating")
@pytest.mark.parametrize("threshold", [0.0, 0.5, 99.0])  # none yet, one that serves, one too high
def test_a_batch_chosen_in_blocks_and_parts(monkeypatch, threshold):
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    coder = TopKCoder(64, 2048, TopKSettings(k=24), seed=0)
    coder.threshold.fill_(threshold)
    with torch.no_grad():
        latents = keep_largest((x - coder.b_dec) @ coder.w_enc.t() + coder.b_enc, 24, "batchtopk")
    expected = {(row, feature) for row, feature in latents.nonzero().tolist()}
    monkeypatch.setattr(sparse, "BLOCK", 100)
    monkeypatch.setattr(select, "_PART", 30_000)
    found, values = coder.select(x)
    assert set_of(found, values).keys() == expected
    assert found.starts.tolist() == torch.searchsorted(found.rows, torch.arange(256)).tolist()


def test_as_many_survive_where_all_are_equal(monkeypatch):
    monkeypatch.setattr(sparse, "BLOCK", 3)
    coder = TopKCoder(4, 16, TopKSettings(k=2), seed=0)
    coder.b_enc.data.fill_(1.0)
    active, values = coder.select(torch.zeros(8, 4))
    assert values.tolist() == [1.0] * 16
    assert len(set_of(active, values)) == 16


def test_a_feature_at_an_edge_belongs_to_the_next_level():
    features = torch.tensor([0, 9, 10, 32, 33, 79, 10])
    active = Active.of(torch.tensor([0, 0, 0, 0, 0, 0, 1]), features, 3)
    nested = active.nested(torch.tensor(WIDTHS))
    assert nested.bags.tolist() == [0, 0, 1, 1, 2, 2, 4]
    assert nested.rows.tolist() == active.rows.tolist()
    assert nested.starts.tolist() == [0, 2, 4, 6, 6, 7, 7, 7, 7]


def set_of(active, values):
    entries = zip(active.rows.tolist(), active.features.tolist(), values.tolist(), strict=True)
    return {(row, feature): value for row, feature, value in entries}


@pytest.mark.parametrize("kind", ["batchtopk", "topk", "abstopk"])
def test_as_many_survive_as_asked_for(make, batch, kind):
    coder = make(kind)
    active, values = coder.select(batch * coder.input_scale)
    counts = torch.bincount(active.rows, minlength=BATCH)
    assert counts.sum() == K * BATCH
    assert len(counts.unique()) > 1 if kind == "batchtopk" else (counts == K).all()
    ends = torch.cat([active.starts[1:], torch.tensor([len(values)])])
    assert torch.equal(ends - active.starts, counts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_the_same_bits_every_time(make, batch, kind):
    coder, dead = make(kind), torch.arange(0, 60, 2)
    runs = [gradients(coder.loss(batch, dead).loss, coder) for _ in range(4)]
    for other in runs[1:]:
        assert all(torch.equal(runs[0][name], other[name]) for name in NAMES)


def test_gradients_also_flow_at_step_one_of_a_fresh_coder(batch):
    coder = coder_of()
    coder.initialise(batch)
    loss, *_ = dense_loss(coder, batch, "batchtopk")
    expected = gradients(loss, coder)
    assert_same_gradients(gradients(coder.loss(batch, None).loss, coder), expected)


def test_a_single_width_is_batchtopk(make, batch):
    plain, nested = make("batchtopk"), make("batchtopk", widths=(D_SAE,))
    assert torch.equal(plain.loss(batch, None).loss, nested.loss(batch, None).loss)


def test_initialise_brings_inputs_to_mean_square_one(batch):
    coder = coder_of()
    coder.initialise(batch)
    scaled = batch * coder.input_scale
    assert scaled.pow(2).mean().item() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(coder.b_dec.data, scaled.mean(0))


def test_decoder_rows_start_and_stay_at_unit_norm(make, batch):
    fresh = coder_of()
    torch.testing.assert_close(fresh.w_dec.norm(dim=-1), torch.ones(D_SAE))
    assert torch.equal(fresh.w_dec, fresh.w_enc)
    assert fresh.w_dec.data_ptr() != fresh.w_enc.data_ptr()
    coder = make()
    coder.after_update(coder.loss(batch, None))
    torch.testing.assert_close(coder.w_dec.norm(dim=-1), torch.ones(D_SAE))


def test_the_decoders_gradient_is_made_orthogonal_to_it():
    coder = coder_of()
    coder.w_dec.grad = torch.randn(D_SAE, D_MODEL)
    before = coder.w_dec.grad.clone()
    coder.before_update()
    along = (coder.w_dec.grad * coder.w_dec).sum(-1)
    assert along.abs().max() < 1e-5
    parallel = (before - coder.w_dec.grad).detach()
    assert F.cosine_similarity(parallel, coder.w_dec.detach()).abs().min() > 0.999


def test_the_running_threshold_follows_the_smallest_survivor(make, batch):
    coder = make(threshold_rate=0.25)
    first = coder.loss(batch, None)
    coder.after_update(first)
    assert coder.threshold.item() == pytest.approx(first.threshold.item())
    second = coder.loss(2 * batch, None)
    coder.after_update(second)
    expected = 0.75 * first.threshold + 0.25 * second.threshold
    assert coder.threshold.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_seed_is_the_start():
    settings = TopKSettings(k=K)
    one, two, other = (TopKCoder(D_MODEL, D_SAE, settings, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.w_dec, two.w_dec)
    assert not torch.equal(one.w_dec, other.w_dec)


def test_the_workspace_follows_the_batch(make, batch):
    coder = make("topk")
    coder.loss(batch, None)
    assert coder.workspace(BATCH, torch.float32).shape == (BATCH, D_SAE)
    half = coder.loss(batch[:10], None)
    fresh, *_ = dense_loss(coder, batch[:10], "topk")
    assert half.loss.item() == pytest.approx(fresh.item(), rel=1e-5)
    assert coder.workspace(10, torch.bfloat16).dtype == torch.bfloat16


def test_nominations_follow_the_weights(make, batch):
    """What is kept from step to step is memory alone."""
    coder = make("topk")
    for _ in range(2):
        with torch.no_grad():
            coder.w_enc.mul_(-2.0)
            ((_, rough),) = coder._dense(batch, torch.bfloat16)
        expected = batch @ coder.w_enc.t() + coder.b_enc
        torch.testing.assert_close(rough.float(), expected, rtol=0.1, atol=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_ships_rebuilds_like_the_step(make, batch, kind):
    """Row-wise kinds exactly; threshold kinds at the batch's own threshold."""
    coder = make(kind)
    result = coder.loss(batch, None)
    with torch.no_grad():
        coder.threshold.copy_(result.threshold * 0.999)
    sae = coder.to_sae([Site(1, "resid_post")], "tiny")
    error = (batch - sae(batch)).pow(2).sum() / (batch - batch.mean(0)).pow(2).sum()
    assert error.item() == pytest.approx(result.fvu.item(), rel=1e-4)
    assert (sae.encode(batch) > 0).sum() / BATCH == pytest.approx(result.l0.item())


def test_begins_from_a_trained_sae_with_the_same_latents(make, batch):
    trained = make().to_sae([Site.parse("resid_post.0")], "tiny")
    coder = TopKCoder(D_MODEL, D_SAE + 16, TopKSettings(k=K), seed=3)
    coder.begin_from(trained)
    coder.initialise(batch)
    again = coder.to_sae([Site.parse("resid_post.0")], "tiny")
    torch.testing.assert_close(coder.w_dec.norm(dim=-1), torch.ones(D_SAE + 16))
    pre, decoder = again.pre(batch)[:, :D_SAE], again.w_dec[:D_SAE]
    scale = trained.w_dec.norm(dim=-1) / decoder.norm(dim=-1)
    torch.testing.assert_close(pre, trained.pre(batch) * scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoder * scale[:, None], trained.w_dec, rtol=1e-4, atol=1e-5)
    assert again.pre(batch)[:, D_SAE:].std() < 0.5 * pre.std()


def test_latents_keep_thresholds_of_their_own(make, batch):
    cuts = torch.linspace(0.5, 2.0, D_SAE)
    trained = make().to_sae([Site.parse("resid_post.0")], "tiny")
    trained = replace(trained, threshold=cuts / trained.w_dec.norm(dim=-1))
    active = trained.encode(batch) > 0
    k = int(active.sum() / len(batch))
    coder = TopKCoder(D_MODEL, D_SAE + 16, TopKSettings(k=k), seed=3)
    coder.begin_from(trained)
    coder.initialise(batch)
    coder.b_enc.data[D_SAE:] = -1e3  # the new ones stay out
    again = coder.to_sae([Site.parse("resid_post.0")], "tiny")
    assert torch.equal(again.encode(batch)[:, :D_SAE] > 0, active)
    torch.testing.assert_close(again(batch), trained(batch), rtol=1e-4, atol=1e-4)
    chosen, _ = coder.select(coder.split(batch)[0])
    on = torch.zeros_like(active).index_put_((chosen.rows, chosen.features), torch.tensor(True))
    assert not (on & ~active).any()  # those nearest to their own thresholds go first
    assert active.sum() - on.sum() < len(batch)
    result = coder.loss(batch, None)
    result.loss.backward()
    coder.before_update()
    grad, row = coder.w_dec.grad, coder.w_dec.detach()
    along = (grad * row).sum(-1) / row.norm(dim=-1)
    assert along.abs().max() < 1e-5 * grad.norm(dim=-1).max()
    with torch.no_grad():
        coder.w_dec.mul_(3.0)
    coder.after_update(result)
    moved = coder.to_sae([Site.parse("resid_post.0")], "tiny")
    torch.testing.assert_close(moved.w_dec, again.w_dec)
    torch.testing.assert_close(
        moved.threshold[:D_SAE] / moved.threshold[0], again.threshold[:D_SAE] / again.threshold[0]
    )


@pytest.mark.parametrize("apart", [False, True], ids=["one threshold", "one for each latent"])
def test_new_latents_are_quiet_beside_low_thresholds(make, batch, apart):
    """Gated and JumpReLU SAEs often have thresholds far below what an activation is."""
    cuts = torch.linspace(0.01, 0.09, D_SAE) if apart else torch.full((D_SAE,), 0.05)
    trained = make().to_sae([Site.parse("resid_post.0")], "tiny")
    trained = replace(trained, threshold=cuts / trained.w_dec.norm(dim=-1))
    k = int((trained.encode(batch) > 0).sum() / len(batch))
    coder = TopKCoder(D_MODEL, 2 * D_SAE, TopKSettings(k=k), seed=3)
    coder.begin_from(trained)
    coder.initialise(batch)
    new = coder.to_sae([Site.parse("resid_post.0")], "tiny").encode(batch)[:, D_SAE:]
    assert (new > 0).sum() < 0.01 * new.numel()
    chosen, _ = coder.select(coder.split(batch)[0])
    assert (chosen.features >= D_SAE).sum() < 0.02 * len(chosen.features)
    pre = coder.split(batch)[0] @ coder.w_enc[D_SAE:].t()
    assert (pre > 0).any(0).all()  # random and not nothing, so that AuxK has what to bring in


@pytest.mark.parametrize("more", [0, 16])
def test_abstopk_begins_from_abstopk_without_its_mirrors(make, batch, more):
    first = make("abstopk")
    first.w_dec.data = F.normalize(first.w_dec.data, dim=-1)
    trained = first.to_sae([Site.parse("resid_post.0")], "tiny")
    coder = TopKCoder(D_MODEL, D_SAE + more, TopKSettings(k=K, kind="abstopk"), seed=3)
    coder.begin_from(trained)
    coder.initialise(batch)
    coder.w_enc.data[D_SAE:] = 0  # the new ones stay out
    coder.b_enc.data[D_SAE:] = 0
    again = coder.to_sae([Site.parse("resid_post.0")], "tiny")
    assert (trained.d_sae, again.d_sae) == (2 * D_SAE, 2 * (D_SAE + more))
    torch.testing.assert_close(again(batch), trained(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["topk", "batchtopk"])
def test_mirrors_are_latents_to_other_kinds(make, batch, kind):
    trained = make("abstopk").to_sae([Site.parse("resid_post.0")], "tiny")
    coder = TopKCoder(D_MODEL, 2 * D_SAE, TopKSettings(k=K, kind=kind), seed=3)
    coder.begin_from(trained)
    coder.initialise(batch)
    scale = trained.w_dec.norm(dim=-1) * coder.input_scale
    torch.testing.assert_close(coder.b_enc.data, trained.b_enc * scale, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("d_model", "d_sae"), [(D_MODEL, D_SAE - 1), (D_MODEL + 8, D_SAE)])
def test_refuses_to_begin_from_an_sae_that_does_not_fit(make, d_model, d_sae):
    trained = make().to_sae([Site.parse("resid_post.0")], "tiny")
    coder = TopKCoder(d_model, d_sae, TopKSettings(k=K), seed=3)
    with pytest.raises(ConfigError, match="fit"):
        coder.begin_from(trained)
