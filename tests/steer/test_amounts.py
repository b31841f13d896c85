"""Strengths in latent units and in multiples of maximum activations."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from saesteer import steer
from saesteer.errors import DataError, PlanError, SaeError
from saesteer.features import max_activations, read_activations
from saesteer.models import Model
from saesteer.saes import SAE
from saesteer.steer.amounts import amounts

TEXTS = ["the rain in the town", "and the sea"]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def sae(tiny_sae: Callable[..., SAE], model: Model) -> SAE:
    return tiny_sae(model, "resid_post.1")


def test_maximum_activations_are_those_over_all_tokens(model: Model, sae: SAE) -> None:
    rows = torch.cat(read_activations(model, TEXTS, sae.site, drop_outliers=True))
    expected = sae.encode(rows).amax(0)
    found = max_activations(model, sae, TEXTS)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert (found > 0).any()
    assert (found == 0).any()


@pytest.mark.parametrize("make", [steer.clamp, steer.feature_add, steer.feature_shift])
def test_a_unit_multiplies_each_features_value(model: Model, sae: SAE, make: Callable) -> None:
    peaks = max_activations(model, sae, TEXTS)
    pair = peaks.argsort(descending=True)[:2].tolist()
    resid = torch.randn(1, 4, sae.d_model)
    plain = make(sae, pair, [float(2.0 * peaks[f]) for f in pair])
    for unit in (peaks, peaks[pair].tolist()):
        assert torch.equal(make(sae, pair, 2.0, unit=unit).delta(resid), plain.delta(resid))


def test_a_unit_that_can_t_be_one_is_refused(sae: SAE) -> None:
    with pytest.raises(PlanError, match="the unit of feature 3 is 0, expected its maximum"):
        steer.clamp(sae, 3, 1.0, unit=torch.zeros(sae.d_sae))
    with pytest.raises(PlanError, match=r"unit has shape \[5\], expected \[96\]"):
        steer.clamp(sae, 3, 1.0, unit=torch.ones(5))
    with pytest.raises(PlanError, match="2 units for 1 features"):
        steer.feature_add(sae, 3, 1.0, unit=[1.0, 2.0])
    with pytest.raises(PlanError, match="the unit of feature 3 is nan"):
        steer.feature_shift(sae, 3, 1.0, unit=float("nan"))


def test_maxima_need_texts(model: Model, sae: SAE) -> None:
    with pytest.raises(DataError, match="max_activations: no texts"):
        max_activations(model, sae, [])


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), torch.tensor(3.0), [3, np.int64(3)]])
def test_a_number_is_one_for_all_whatever_library_it_is_of(sae: SAE, value: Any) -> None:
    assert steer.clamp(sae, [1, 2], value).value.tolist() == [3.0, 3.0]


def test_a_text_is_no_value(sae: SAE) -> None:
    with pytest.raises(PlanError, match="clamp: values are the text '66'; give numbers"):
        inspect.unwrap(amounts)("66", 1.0, (1, 2), sae.d_sae, "clamp")


def test_the_name_of_an_sae_is_none() -> None:
    edits = (steer.clamp, steer.scale, steer.feature_add, steer.feature_shift)
    asked = [(inspect.unwrap(edit), (3, 1.0)) for edit in edits]
    asked += [(inspect.unwrap(steer.ablate), (3,)), (inspect.unwrap(steer.replace), ())]
    for edit, rest in asked:
        with pytest.raises(SaeError, match=r"a str is no SAE; .*load_sae\('a/b'\)"):
            edit("a/b", *rest)
