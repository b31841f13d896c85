"""sae-lens's own evaluation, run for real, finds the figures that we do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from saesteer.errors import DataError, ModelError
from saesteer.evals.lens_eval import bridge_of, lens_agreement, run_lens_evals
from saesteer.evals.rows import token_rows
from saesteer.evals.sae_eval import evaluate_rows
from saesteer.models import layout_of
from saesteer.saes import shipped_saes

TEXT = ["the rain in the town and the sea in the sun " * 30]
CLOSE = 2e-4
"""Relative; the bridge computes attention in another order."""


@pytest.fixture
def pair(tiny_model, tiny_sae):
    """A model, and an SAE that rebuilds some of what it reads."""
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.2")
    return model, replace(sae, w_dec=sae.w_dec * 0.2)


def test_the_figures_agree(pair):
    seen = []
    found = lens_agreement(
        *pair, TEXT, context=16, max_tokens=300, batch_size=4, progress=lambda *at: seen.append(at)
    )
    assert found.n_tokens % 64 == 0
    assert found.theirs == pytest.approx(found.ours, rel=CLOSE)
    assert 0.1 < found.ours["fvu"] != 1
    assert abs(found.ours["ce_sae"] - found.ours["ce_clean"]) > 0.01
    batches = found.n_tokens // 64
    assert seen == [(n, 3 * batches) for n in range(1, 3 * batches + 1)]


def test_outliers_count_for_sae_lens_and_so_they_do_here(pair):
    model, sae = pair
    rows = [row for row in token_rows(model, TEXT, 300, 16) if len(row) == 16]
    strict = evaluate_rows(model, sae, rows, outlier_factor=1.2)
    assert strict.outlier_fraction > 0
    found = lens_agreement(model, sae, TEXT, context=16, max_tokens=300)
    assert abs(strict.fvu / found.theirs["fvu"] - 1) > 10 * CLOSE


def test_the_model_is_left_as_it_was(pair):
    model, _ = pair
    kinds = [type(module) for module in model.hf.modules()]
    name = model.hf.config._name_or_path
    bridge_of(model)
    assert [type(module) for module in model.hf.modules()] == kinds
    assert model.hf.config._name_or_path == name


def test_text_that_fills_no_row_is_refused(pair):
    with pytest.raises(DataError, match="no text fills a row of 200 tokens"):
        lens_agreement(*pair, ["the rain"], context=200)


def test_a_model_without_a_bridge_is_refused(pair):
    class OddConfig(transformers.LlamaConfig):
        model_type = "odd"

    class OddForCausalLM(transformers.LlamaForCausalLM):
        pass

    model, _ = pair
    settings = {**model.hf.config.to_diff_dict(), "model_type": "odd"}
    hf = OddForCausalLM(OddConfig(**settings))
    with pytest.raises(ModelError, match="can't wrap tiny-llama \\(OddForCausalLM\\)"):
        bridge_of(replace(model, hf=hf, layout=layout_of(hf)))


@pytest.mark.full
@pytest.mark.real
def test_the_shipped_folder_scores_the_same_in_sae_lens(real_model):
    from saesteer.evals.assets import prose
    from saesteer.saes import load_sae

    name, folder = next(iter(shipped_saes().items()))
    rows = [row for row in token_rows(real_model, prose(), 1200, 64) if len(row) == 64][:8]
    theirs = run_lens_evals(bridge_of(real_model), folder, rows, batch_size=4)
    ours = evaluate_rows(real_model, load_sae(name), rows, outlier_factor=torch.inf)
    assert theirs["fvu"] == pytest.approx(ours.fvu, rel=CLOSE)
    assert theirs["l0"] == pytest.approx(ours.l0, rel=CLOSE)
    assert theirs["ce_clean"] == pytest.approx(ours.ce_clean, rel=CLOSE)
    assert theirs["ce_sae"] == pytest.approx(ours.ce_clean + ours.delta_ce, rel=CLOSE)
    assert theirs["ce_recovered"] == pytest.approx(ours.ce_recovered, rel=CLOSE)
