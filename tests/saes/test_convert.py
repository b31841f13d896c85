"""TopK as a threshold: the mean L0 stays, and the price in FVU is reported."""

from __future__ import annotations

import pytest
import torch

from saesteer.errors import DataError
from saesteer.saes import to_threshold


def test_the_threshold_keeps_the_mean_l0(random_sae, resid):
    sae = random_sae("topk")
    converted, report = to_threshold(sae, resid)
    l0 = (converted.encode(resid) > 0).float().sum(-1).mean()
    assert report.l0_before == pytest.approx(5.0, abs=0.2)
    assert report.l0_after == pytest.approx(report.l0_before, abs=1e-6)
    assert report.l0_after == pytest.approx(float(l0), abs=1e-6)


def test_the_result_can_be_sliced_and_remembers_where_it_comes_from(random_sae, resid):
    converted, _ = to_threshold(random_sae("topk"), resid)
    assert (converted.activation, converted.k) == ("jumprelu", None)
    assert converted.slice([1]).read(resid).shape == (3, 20, 1)
    assert converted.metadata["converted_from"] == "topk, k = 5"


def test_the_report_is_of_the_sample(random_sae, resid):
    sae = random_sae("topk")
    converted, report = to_threshold(sae, resid)
    rows = resid.flatten(0, 1)
    spread = (rows - rows.mean(0)).square().sum()
    for one, fvu in ((sae, report.fvu_before), (converted, report.fvu_after)):
        assert fvu == pytest.approx(float((rows - one(rows)).square().sum() / spread), rel=1e-4)


def test_membership_is_not_reproduced_so_the_report_matters(random_sae, resid):
    sae = random_sae("topk")
    converted, report = to_threshold(sae, resid)
    assert not torch.equal(converted.encode(resid) > 0, sae.encode(resid) > 0)
    assert report.fvu_after != report.fvu_before


def test_outlier_tokens_do_not_move_the_threshold(random_sae, resid):
    sae = random_sae("topk")
    spiked = torch.cat([resid.flatten(0, 1), torch.full((2, 16), 1e4)])
    plain, _ = to_threshold(sae, resid)
    assert torch.equal(to_threshold(sae, spiked)[0].threshold, plain.threshold)


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_a_threshold_form_comes_back_as_it_is(random_sae, resid, activation):
    sae = random_sae(activation)
    converted, report = to_threshold(sae, resid)
    assert converted is sae
    assert (report.fvu_after, report.l0_after) == (report.fvu_before, report.l0_before)


def test_one_token_is_not_a_sample(random_sae, resid):
    with pytest.raises(DataError, match="can't be fitted to 1 tokens"):
        to_threshold(random_sae("topk"), resid[0, :1])
