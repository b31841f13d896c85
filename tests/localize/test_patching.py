"""Patching against full runs, and its estimates against its derivative."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import GlmConfig, GlmForCausalLM, GPTBigCodeConfig, GPTBigCodeForCausalLM

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import DataError, ModelError, SiteError
from saesteer.localize import ActivationPatching, AtPStar, AttributionPatching, RelP
from saesteer.localize.attribution import gradients
from saesteer.localize.pairs import prompt_pairs, run
from saesteer.localize.relevance import propagation_rules
from saesteer.localize.slopes import slopes_at
from saesteer.models import Model, Site, TokenBatch, as_model, record

ARCHES = ("llama", "gpt2", "neox")


@pytest.fixture(scope="module", params=ARCHES)
def model(request: pytest.FixtureRequest, tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def llama(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


def test_patching_everything_reproduces_the_clean_run_exactly(
    model: Model, swaps: Contrast
) -> None:
    ranked = ActivationPatching(by="site").rank(model, swaps)
    assert len(ranked) == model.n_layers
    assert all(place.score == pytest.approx(1.0, abs=1e-4) for place in ranked.places)
    pair = prompt_pairs(model, swaps)[0]
    site = Site(0, "resid_post")
    with torch.no_grad():
        clean = run(model, pair.clean)
        donor = record(model, pair.clean, [site])[site]
        assert torch.equal(run(model, pair.corrupted, [(site, lambda _: donor)]), clean)


def test_before_the_swapped_token_there_is_nothing_to_restore(
    model: Model, swaps: Contrast
) -> None:
    one = Contrast(swaps.examples[2:], "one")
    (pair,) = prompt_pairs(model, one)
    differs = (pair.clean.input_ids != pair.corrupted.input_ids)[0].nonzero().flatten().tolist()
    (swapped,) = [index - pair.n_tokens for index in differs]
    ranked = ActivationPatching().rank(model, one)
    for layer in range(model.n_layers):
        for position in range(-pair.n_tokens, swapped):
            assert ranked.score(f"resid_post.{layer}@{position}") == pytest.approx(0.0, abs=1e-4)
    last = model.n_layers - 1
    assert ranked.score(f"resid_post.{last}@-1") == pytest.approx(1.0, abs=1e-4)
    assert abs(ranked[0].score) >= abs(ranked[-1].score)


@torch.no_grad()
def test_a_heads_score_is_that_of_a_run_with_its_columns_swapped(
    llama: Model, swaps: Contrast
) -> None:
    one = Contrast(swaps.examples[:2], "one")
    (pair,) = prompt_pairs(llama, one)
    site, head = Site(1, "head_out"), Site(1, "head_out", 2)
    columns = slice(2 * llama.layout.d_head, 3 * llama.layout.d_head)
    clean = record(llama, pair.clean, [site])[site]

    def swap(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[:, -3, columns] = clean[:, -3, columns]
        return z

    low, high = (float(pair.metric(run(llama, b))) for b in (pair.corrupted, pair.clean))
    got = float(pair.metric(run(llama, pair.corrupted, [(site, swap)])))
    ranked = ActivationPatching(kinds=("head_out",)).rank(llama, one)
    assert ranked.score(f"{head}@-3") == pytest.approx((got - low) / (high - low), abs=1e-5)
    assert len(ranked) == llama.n_layers * llama.layout.n_heads * pair.n_tokens


def test_noising_is_denoising_with_the_runs_exchanged(llama: Model, swaps: Contrast) -> None:
    flipped = Contrast(tuple(replace(e, label=1 - e.label) for e in swaps.examples), "flipped")
    lost = ActivationPatching(kinds=("mlp_out",), noising=True).rank(llama, swaps)
    restored = ActivationPatching(kinds=("mlp_out",)).rank(llama, flipped)
    assert {str(p): pytest.approx(p.score, abs=1e-5) for p in lost.places} == {
        str(p): p.score for p in restored.places
    }


@pytest.mark.parametrize("kind", ["resid_post", "mlp_out", "neurons"])
def test_attribution_is_the_derivative_of_patching(
    model: Model, swaps: Contrast, kind: str
) -> None:
    pair = prompt_pairs(model, swaps)[0]
    ranked = AttributionPatching(kinds=(kind,)).rank(model, Contrast(swaps.examples[:2], "one"))
    site, step = Site(1, kind), 1e-3
    with torch.no_grad():
        clean = record(model, pair.clean, [site])[site]
        corrupted = record(model, pair.corrupted, [site])[site]
        whole = float(pair.metric(run(model, pair.clean)) - pair.metric(run(model, pair.corrupted)))
        for position in range(-pair.n_tokens, 0):

            def nudged(by: float, position: int = position) -> float:
                def change(h: torch.Tensor) -> torch.Tensor:
                    h = h.clone()
                    h[:, position] += by * (clean - corrupted)[:, position]
                    return h

                return float(pair.metric(run(model, pair.corrupted, [(site, change)])))

            slope = (nudged(step) - nudged(-step)) / (2 * step) / whole
            assert ranked.score(f"{site}@{position}") == pytest.approx(slope, abs=0.02, rel=0.02)


def test_units_and_positions_share_out_the_sites_score(llama: Model, swaps: Contrast) -> None:
    parts = {
        by: AttributionPatching(kinds=("neurons",), by=by).rank(llama, swaps)
        for by in ("site", "unit")
    }
    for layer in range(llama.n_layers):
        units = [p.score for p in parts["unit"].places if p.site.layer == layer]
        assert len(units) == 64
        assert sum(units) == pytest.approx(parts["site"].score(f"neurons.{layer}"), abs=1e-4)


def test_grad_drop_by_hand(llama: Model, swaps: Contrast) -> None:
    one = Contrast(swaps.examples[:2], "one")
    (pair,) = prompt_pairs(llama, one)
    site = Site(1, "attn_out")
    change = record(llama, pair.clean, [site])[site] - record(llama, pair.corrupted, [site])[site]
    sizes = []
    for dropped in range(llama.n_layers):
        block = llama.layout.blocks[dropped]
        cut = [
            block.self_attn.register_forward_hook(lambda _m, _a, o: (o[0].detach(), *o[1:])),  # type: ignore[union-attr]
            block.mlp.register_forward_hook(lambda _m, _a, o: o.detach()),  # type: ignore[union-attr]
        ]
        grad = gradients(llama, pair, pair.corrupted, [site])[site]
        for handle in cut:
            handle.remove()
        sizes.append(abs(float((change[0, -1] * grad[-1]).sum())))
    with torch.no_grad():
        whole = float(pair.metric(run(llama, pair.clean)) - pair.metric(run(llama, pair.corrupted)))
    expected = sum(size for layer, size in enumerate(sizes) if layer != 1) / 3 / abs(whole)
    got = AtPStar(kinds=("attn_out",)).rank(llama, one).score(f"{site}@-1")
    assert got == pytest.approx(expected, rel=1e-3)
    assert got > 0


def test_behind_the_last_layer_nothing_can_be_dropped(llama: Model, pair_of: Callable) -> None:
    """There a mean over dropped layers is the plain estimate, whose paths are all direct."""
    one = Contrast(tuple(pair_of(0, ("a b c d e", "a q c d e"), (" x", " z"))), "one")
    plain, dropped = (
        method(by="site").rank(llama, one).score(f"resid_post.{llama.n_layers - 1}")
        for method in (AttributionPatching, AtPStar)
    )
    assert dropped == pytest.approx(abs(plain), rel=1e-4)


def test_relevance_is_conserved_from_layer_to_layer(llama: Model, swaps: Contrast) -> None:
    """No bias anywhere in this model, so coefficients times activations sum to the metric."""
    pair = prompt_pairs(llama, swaps)[0]
    sites = [Site(layer, "resid_pre") for layer in range(llama.n_layers)]
    held = record(llama, pair.clean, sites)
    with torch.no_grad():
        plain = run(llama, pair.clean)
    with propagation_rules(llama):
        coefficients = gradients(llama, pair, pair.clean, sites)
        with torch.no_grad():
            assert torch.equal(run(llama, pair.clean), plain)
    metric = float(pair.metric(plain))
    slopes = gradients(llama, pair, pair.clean, sites)
    for site in sites:
        assert float((held[site][0] * coefficients[site]).sum()) == pytest.approx(metric, rel=1e-3)
    assert float((held[sites[0]][0] * slopes[sites[0]]).sum()) != pytest.approx(metric, rel=0.1)


def test_relevance_is_conserved_through_a_gate_and_values_in_one_matrix() -> None:
    torch.manual_seed(0)
    width = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
    hf = GlmForCausalLM(GlmConfig(vocab_size=64, pad_token_id=0, **width, **heads)).eval()
    for parameter in hf.parameters():
        parameter.data *= 4 if parameter.ndim > 1 else 1
    glm, ids = as_model(hf), torch.tensor([[5, 9, 33, 2, 17]])
    batch = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    sites = [Site(layer, "resid_pre") for layer in range(3)]
    held = record(glm, batch, sites)
    with propagation_rules(glm):
        coefficients = slopes_at(glm, sites, lambda: run(glm, batch)[0, 3])
    with torch.no_grad():
        logit = float(run(glm, batch)[0, 3])
    for site in sites:
        assert float((held[site] * coefficients[site]).sum()) == pytest.approx(logit, rel=1e-3)


def test_a_c_attn_of_another_order_than_that_of_gpt2_is_refused() -> None:
    config = GPTBigCodeConfig(vocab_size=64, n_embd=32, n_layer=1, n_head=4, n_positions=64)
    model = as_model(GPTBigCodeForCausalLM(config))
    with pytest.raises(ModelError, match="can't be held"), propagation_rules(model):
        pass


def test_relp_ranks_and_leaves_nothing_behind(model: Model, swaps: Contrast) -> None:
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    ranked = RelP().rank(model, swaps)
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    assert before == after
    assert all(p.grad is None for p in model.hf.parameters())
    last = model.n_layers - 1
    assert ranked.score(f"resid_post.{last}@-1") != 0
    assert ranked.score(f"resid_post.{last}@-3") == 0
    assert json.loads(json.dumps(ranked.to_dict()))["places"][0]["place"] == str(ranked[0])
    assert str(ranked.top(1)).startswith("RelP: ")


def test_errors(
    llama: Model,
    tiny_model: Callable[[str], Model],
    letters_only: Contrast,
    pair_of: Callable[..., list[Example]],
) -> None:
    with pytest.raises(DataError, match="pair 0 has no prompts; patching needs"):
        ActivationPatching().rank(llama, letters_only)
    longer = Contrast(tuple(pair_of(3, ("a b", "a b c d"), (" x", " z"))), "longer")
    with pytest.raises(DataError, match="longer: pair 3 has prompts of 5 and 9 tokens"):
        AttributionPatching().rank(llama, longer)
    same = Contrast(tuple(pair_of(3, ("a b", "a c"), ("x", "x y"))), "same")
    with pytest.raises(DataError, match="same: pair 3 has answers that don't differ"):
        RelP().rank(llama, same)
    once = Contrast(tuple(pair_of(3, ("a b", "a b"), (" x", " z"))), "once")
    with pytest.raises(DataError, match="the same prompt twice"):
        AtPStar().rank(llama, once)
    swap = Contrast(tuple(pair_of(3, ("a b", "a c"), (" x", " z"))), "swap")
    with pytest.raises(SiteError, match="is not a site"):
        ActivationPatching(kinds=("resid",)).rank(llama, swap)
    with pytest.raises(SiteError, match="experts of"):
        RelP().rank(tiny_model("mixtral"), swap)


@pytest.fixture
def letters_only() -> Contrast:
    return Contrast.from_texts(["aa ee"], ["zz xx"])
