"""Thresholds of their own: no kind of text above the L0 asked for, at less error than one cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saesteer.errors import DataError, DimensionError, SaeError
from saesteer.models.sites import Site
from saesteer.saes import SAE, level, level_thresholds

D_SAE, N = 64, 4000
"""As many latents as dimensions, so that every one is its own axis and worth its square."""
RATES = {"busy": (0.6, 0.3), "plain": (0.2, 0.3)}
"""How often a latent of the first and of the second half is on, by kind of text."""


def axes(threshold: float = 0.5) -> SAE:
    """One latent a dimension."""
    eye, none = torch.eye(D_SAE), torch.zeros(D_SAE)
    return SAE(
        w_enc=eye,
        b_enc=none,
        w_dec=eye,
        b_dec=none,
        threshold=torch.full((D_SAE,), threshold),
        site=Site(2, "resid_post"),
    )


@pytest.fixture(scope="module")
def kinds() -> dict[str, torch.Tensor]:
    """Activations whose values are exponential, scattered with noise below the threshold."""
    rng = torch.Generator().manual_seed(0)

    def drawn(rates: tuple[float, float]) -> torch.Tensor:
        rate = torch.tensor(rates).repeat_interleave(D_SAE // 2)
        on = torch.rand(N, D_SAE, generator=rng) < rate
        size = torch.empty(N, D_SAE).exponential_(generator=rng)
        return on * (size + 0.2) + 0.05 * torch.randn(N, D_SAE, generator=rng)

    return {name: drawn(rates) for name, rates in RATES.items()}


def l0(sae: SAE, rows: torch.Tensor) -> float:
    return float((sae.encode(rows) > 0).sum(-1).float().mean())


def fvu(sae: SAE, rows: torch.Tensor) -> float:
    error, spread = (rows - sae(rows)).square().sum(-1), (rows - rows.mean(0)).square().sum(-1)
    return float((error / spread).mean())


def test_no_kind_exceeds_what_is_asked_for(kinds):
    sae, asked = axes(), 18.0
    assert l0(sae, kinds["busy"]) > 20 > asked > l0(sae, kinds["plain"])
    levelled, figures = level_thresholds(sae, kinds, asked)
    for name, rows in kinds.items():
        assert l0(levelled, rows) <= 1.02 * asked
        row = figures[name]
        assert row.l0_before == pytest.approx(l0(sae, rows), abs=1e-4)
        assert row.l0_after == pytest.approx(l0(levelled, rows), abs=1e-4)
        assert row.fvu_before == pytest.approx(fvu(sae, rows), rel=1e-3)
        assert row.fvu_after == pytest.approx(fvu(levelled, rows), rel=1e-3)


def test_it_costs_less_than_one_cut_for_all(kinds):
    sae, asked = axes(), 18.0
    levelled, _ = level_thresholds(sae, kinds, asked)
    cuts = [axes(0.5 + step / 100) for step in range(60)]
    one = next(cut for cut in cuts if l0(cut, kinds["busy"]) <= l0(levelled, kinds["busy"]))
    assert fvu(levelled, kinds["plain"]) < 0.9 * fvu(one, kinds["plain"])
    raised, left = levelled.threshold.split(D_SAE // 2)
    assert raised.min() > left.max()  # the latents that the busy kind has more often pay


def test_where_there_is_room_it_is_used(kinds):
    sae = axes(0.9)
    levelled, _ = level_thresholds(sae, {"plain": kinds["plain"]}, 1.2 * l0(sae, kinds["plain"]))
    assert l0(levelled, kinds["plain"]) == pytest.approx(1.2 * l0(sae, kinds["plain"]), rel=0.02)
    assert fvu(levelled, kinds["plain"]) < fvu(sae, kinds["plain"])


def test_by_default_the_mean_of_the_kinds_is_kept(kinds):
    sae = axes()
    mean = sum(l0(sae, rows) for rows in kinds.values()) / 2
    levelled, _ = level_thresholds(sae, kinds)
    assert max(l0(levelled, rows) for rows in kinds.values()) == pytest.approx(mean, rel=0.02)


def test_only_thresholds_change_and_outliers_have_no_say(kinds):
    sae = axes()
    spiked = {name: torch.cat([rows, rows[:9] * 1e4]) for name, rows in kinds.items()}
    levelled, _ = level_thresholds(sae, kinds, 18.0)
    assert torch.equal(level_thresholds(sae, spiked, 18.0)[0].threshold, levelled.threshold)
    assert replace(levelled, threshold=sae.threshold).fingerprint() == sae.fingerprint()
    assert set((levelled.threshold / sae.threshold > 0).tolist()) == {True}


def test_thresholds_stay_where_and_as_wide_as_the_sae_is(kinds):
    rough = {name: rows.bfloat16() for name, rows in kinds.items()}
    levelled, _ = level_thresholds(axes().to(dtype=torch.bfloat16), rough, 18.0)
    assert levelled.threshold.dtype == torch.bfloat16
    assert max(l0(levelled, rows) for rows in rough.values()) <= 1.05 * 18.0


def test_every_token_is_told(kinds):
    told = []
    level_thresholds(axes(), kinds, 18.0, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (2 * N, 2 * N)


def test_an_activation_is_worth_its_share_of_its_own_tokens_variance(random_sae, monkeypatch):
    """One latent of one token at a time, switched by hand, in a text whose norms vary tenfold."""
    sae = random_sae(b_dec=torch.zeros(16))
    sizes = torch.logspace(0, 1, 30)[:, None]
    rows = sizes * torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(
        level, "_steadied", lambda counts, worth, _: level._Seen(counts, counts, worth)
    )
    (counts,), _, worth = level._look(sae, {"text": rows}, None)
    pre, on = sae.pre(rows), sae.encode(rows)
    seen = pre > level._LOWEST * sae.threshold
    assert torch.equal(counts.sum(-1), seen.sum(0).float())
    variance, expected = (rows - rows.mean(0)).square().sum(-1), torch.zeros(sae.d_sae)
    for row, latent in seen.nonzero().tolist():
        errors = []
        for value in (0.0, pre[row, latent]):
            latents = on[row].clone()
            latents[latent] = value
            errors.append((rows[row] - sae.decode(latents)).square().sum())
        expected[latent] += (errors[0] - errors[1]) / variance[row]
    torch.testing.assert_close(worth.sum(-1), expected, rtol=1e-3, atol=1e-3)


def test_little_that_was_seen_is_drawn_to_the_average():
    """Two kinds of 100 and 300 tokens; one latent fired 0 and 40 times, another never."""
    counts = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[30.0, 10.0], [0.0, 0.0]]])
    worth = torch.tensor([[60.0, 40.0], [0.0, 0.0]])
    few = level._FEW
    seen = level._steadied(counts, worth, torch.tensor([100.0, 300.0]))
    rate = torch.tensor([30.0, 10.0]) / 400
    torch.testing.assert_close(seen.rate[0, 0], few / (10 + few) * rate)
    torch.testing.assert_close(seen.rate[1, 0], (40 + few) / (30 + few) * rate)
    assert not seen.rate[:, 1].any()
    usual = torch.tensor([60.0 / 30, 40.0 / 10])
    torch.testing.assert_close(seen.worth[0], usual)
    torch.testing.assert_close(seen.worth[1], usual)


def test_what_cant_be_levelled(kinds, random_sae, resid):
    with pytest.raises(DataError, match=r"l0 = 2 is out of reach.*leave \d"):
        level_thresholds(axes(), kinds, 2.0)
    with pytest.raises(DataError, match="l0 = 0 can't be asked for"):
        level_thresholds(axes(), kinds, 0.0)
    for activation, name in (("topk", "TopK"), ("relu", "ReLU")):
        with pytest.raises(SaeError, match=f"has no thresholds to level: it is a {name}"):
            level_thresholds(random_sae(activation), {"a": resid})
    with pytest.raises(DataError, match="a: 1 tokens can't level"):
        level_thresholds(axes(), {"a": kinds["busy"][:1]})
    with pytest.raises(DataError, match="at least one kind"):
        level_thresholds(axes(), {})
    with pytest.raises(DimensionError):
        level_thresholds(axes(), {"a": resid})
