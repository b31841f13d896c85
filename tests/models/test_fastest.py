"""Which dtype is taken where nobody names one."""

from __future__ import annotations

import copy

import pytest
import torch

from saesteer.models import fastest, fastest_dtype, load_model


@pytest.fixture(params=[0.2, 1.1, 50.0])
def half_takes(request, monkeypatch):
    """Seconds that a product in bfloat16 seems to take, of one second in float32."""
    monkeypatch.setattr(
        fastest, "_seconds", lambda a, _: request.param if a.dtype == torch.bfloat16 else 1.0
    )
    fastest._cpu_gains.cache_clear()
    yield request.param
    fastest._cpu_gains.cache_clear()


def test_bfloat16_is_taken_where_it_gains_and_float32_elsewhere(half_takes, tiny_model):
    want = torch.bfloat16 if half_takes < 0.5 else torch.float32
    hf = copy.deepcopy(tiny_model("llama").hf)
    assert fastest_dtype("cpu") == want
    assert load_model(hf, tokenizer=tiny_model("llama").tokenizer, dtype="fastest").dtype == want


def test_products_are_timed():
    few, many = torch.ones(8, 8), torch.ones(1024, 1024)
    assert 0 < fastest._seconds(few, few) < fastest._seconds(many, many) < 10
