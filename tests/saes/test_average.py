"""The mean of SAEs of one start: exact on its tensors, and nothing else is averaged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from saesteer.errors import DataError, DimensionError, SaeError
from saesteer.models.sites import Site
from saesteer.saes import SAE, average_saes

D_MODEL, D_SAE = 8, 24


def trained(seed: int = 0, spread: float = 0.0, **more: Any) -> SAE:
    """Random directions of norm 2, the same for every seed but for noise of size `spread`."""
    start, rng = (torch.Generator().manual_seed(s) for s in (99, seed))

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=start) + spread * torch.randn(shape, generator=rng)

    w_dec = 2 * torch.nn.functional.normalize(drawn(D_SAE, D_MODEL), dim=-1)
    parts = {"w_dec": w_dec, "w_enc": w_dec.t().contiguous() / 4, "b_enc": drawn(D_SAE)}
    parts |= {"b_dec": drawn(D_MODEL), "threshold": drawn(D_SAE).abs() + 0.1}
    return SAE(**{**parts, "site": Site(2, "resid_post"), "name": f"run{seed}", **more})


def test_the_mean_of_one_sae_with_itself_is_that_sae():
    sae = trained()
    mean = average_saes([sae, sae, sae], [1.0, 2.0, 3.0])
    rows = torch.randn(50, D_MODEL)
    torch.testing.assert_close(mean.encode(rows), sae.encode(rows))
    torch.testing.assert_close(mean(rows), sae(rows))


def test_it_is_the_mean_of_the_weights_with_decoder_norms_kept():
    a, b = trained(1, 0.2), trained(2, 0.2)
    mean = average_saes([a, b], [3.0, 1.0])
    torch.testing.assert_close(mean.w_dec.norm(dim=-1), torch.full((D_SAE,), 2.0))
    w_dec = 0.75 * a.w_dec + 0.25 * b.w_dec
    assert (w_dec.norm(dim=-1) < 1.999).all()  # so keeping norms is something to do
    grown = mean.w_dec[:, :1] / w_dec[:, :1]
    torch.testing.assert_close(mean.w_dec, w_dec * grown)
    torch.testing.assert_close(mean.w_enc, (0.75 * a.w_enc + 0.25 * b.w_enc) / grown.t())
    cut = 0.75 * a.threshold + 0.25 * b.threshold
    torch.testing.assert_close(mean.threshold, cut / grown[:, 0])
    rows = torch.randn(40, D_MODEL)  # scaled alike, both read and write what the plain mean does
    plain = replace(
        a,
        w_dec=w_dec,
        **{k: 0.75 * getattr(a, k) + 0.25 * getattr(b, k) for k in ("w_enc", "b_enc", "b_dec")},
        threshold=cut,
    )
    torch.testing.assert_close(mean(rows), plain(rows))


def test_with_activations_it_has_the_mean_l0_of_its_runs():
    runs, resid = [trained(seed, 0.3) for seed in (1, 2, 3)], 4 * torch.randn(3, 700, D_MODEL)

    def l0(sae: SAE) -> float:
        return float((sae.encode(resid) > 0).sum(-1).float().mean())

    wanted = 0.5 * l0(runs[0]) + 0.25 * l0(runs[1]) + 0.25 * l0(runs[2])
    plain = average_saes(runs, [2.0, 1.0, 1.0])
    mean = average_saes(runs, [2.0, 1.0, 1.0], resid)
    assert abs(l0(plain) - wanted) > 0.01
    assert l0(mean) == pytest.approx(wanted, abs=0.001)
    factor = mean.threshold / plain.threshold
    torch.testing.assert_close(factor, factor[:1].expand(D_SAE))
    torch.testing.assert_close(mean.w_enc, plain.w_enc)


def test_without_thresholds_activations_change_nothing():
    rows = torch.randn(90, D_MODEL)
    for kind in ({"threshold": torch.zeros(D_SAE), "activation": "relu"},
                 {"activation": "topk", "k": 4}):  # fmt: skip
        runs = [trained(seed, 0.2, **kind) for seed in (1, 2)]
        mean = average_saes(runs, resid=rows)
        assert mean.threshold.equal(average_saes(runs).threshold)


def test_activations_must_fit():
    runs = [trained(1), trained(2)]
    with pytest.raises(DimensionError):
        average_saes(runs, resid=torch.randn(9, D_MODEL + 1))
    with pytest.raises(DataError, match="0 tokens on which nothing fires"):
        average_saes(runs, resid=torch.zeros(0, D_MODEL))


def test_noise_of_single_runs_averages_out():
    truth, runs = trained(), [trained(seed, 0.3) for seed in range(1, 9)]

    def off(sae: SAE) -> float:
        return float((sae.w_dec - truth.w_dec).norm())

    assert off(average_saes(runs)) < 0.6 * min(map(off, runs))


def test_metadata_keeps_what_all_agree_on():
    a, b = (trained(metadata={"k": 32, "seed": seed, "of": [1]}) for seed in (1, 2))
    assert average_saes([a, b]).metadata == {"k": 32, "of": [1]}


def test_dtype_is_the_first_ones():
    a, b = trained(1, 0.1), trained(2, 0.1)
    assert average_saes([a.to(dtype="bfloat16"), b]).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"site": Site(3, "resid_post")}, "differ in site"),
        ({"model_name": "other"}, "differ in model_name"),
        ({"activation": "topk", "k": 4}, "differ in activation"),
        ({"apply_b_dec_to_input": False}, "differ in apply_b_dec_to_input"),
        ({"w_dec": torch.randn(D_SAE, D_MODEL)}, "are other features"),
        ({"w_dec": torch.full((D_SAE, D_MODEL), float("nan"))}, "are other features"),
    ],
)
def test_what_is_not_alike_is_refused(more: dict[str, Any], reason: str):
    with pytest.raises(SaeError, match=reason):
        average_saes([trained(), trained(1, **more)])


def test_shapes_and_weights_are_checked():
    sae = trained()
    names = ("w_enc", "b_enc", "threshold")
    twice = {name: torch.cat([getattr(sae, name)] * 2, -1) for name in names}
    wide = replace(sae, **twice, w_dec=torch.cat([sae.w_dec] * 2))
    with pytest.raises(SaeError, match="is 8 x 24 and .* is 8 x 48"):
        average_saes([sae, wide])
    with pytest.raises(SaeError, match="two SAEs or more; 1 given"):
        average_saes([sae])
    for weights in ([1.0], [1.0, 0.0], [1.0, float("nan")], [float("inf"), 1.0]):
        with pytest.raises(SaeError, match="2 SAEs take 2 weights above 0"):
            average_saes([sae, sae], weights)
