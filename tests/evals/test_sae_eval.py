"""Scoring an SAE: laws at both ends (perfect, useless), and what must not count."""

from __future__ import annotations

import inspect
import json
import math

import pytest
import torch
from torch.nn import functional

from saesteer.errors import DataError, DimensionError
from saesteer.evals.rows import token_rows
from saesteer.evals.sae_eval import evaluate_rows, evaluate_sae
from saesteer.models import Model, Site, as_model, layout_of, record
from saesteer.saes import SAE

D_MODEL, SITE = 16, Site(1, "resid_post")
TEXTS = ["the cat sat on the mat and looked at the sea", "a dog", "every ship has a captain"]
EXACT = 2e-5  # fp32 rounding of a tiny model's losses, in nats


def tokenizer(bos: bool):
    """One token per lower-case letter; BOS in front of every text if asked for."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {c: i for i, c in enumerate(["<s>", "<u>", *"abcdefghijklmnopqrstuvwxyz "])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<u>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", pad_token="<u>")


def tiny(bos: bool = False) -> Model:
    """A random three-layer Llama whose losses react to its second layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=D_MODEL,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    hf = LlamaForCausalLM(config).eval()
    return Model(hf, tokenizer(bos), "tiny", layout_of(hf))


@pytest.fixture
def model() -> Model:
    """Without BOS."""
    return tiny()


def sae_of(w_enc: torch.Tensor, w_dec: torch.Tensor, **changes) -> SAE:
    """A threshold-form SAE at the site, with zero biases and thresholds unless given."""
    d_model, d_sae = w_enc.shape
    fields = {
        "b_enc": torch.zeros(d_sae),
        "b_dec": torch.zeros(d_model),
        "threshold": torch.zeros(d_sae),
        "site": SITE,
    }
    return SAE(w_enc=w_enc, w_dec=w_dec, **{**fields, **changes})


def perfect() -> SAE:
    """Rebuilds everything: every direction has a latent of each sign."""
    eye = torch.eye(D_MODEL)
    return sae_of(torch.cat([eye, -eye], 1), torch.cat([eye, -eye]))


def useless(**changes) -> SAE:
    """Never fires, so it always returns b_dec."""
    return sae_of(
        torch.zeros(D_MODEL, 4),
        torch.zeros(4, D_MODEL),
        **{"apply_b_dec_to_input": False, **changes},
    )


def rough() -> SAE:
    """Rebuilds some of it."""
    rng = torch.Generator().manual_seed(5)
    w_enc = torch.randn(D_MODEL, 40, generator=rng) / 4
    return sae_of(w_enc, w_enc.T * 0.4, threshold=torch.full((40,), 0.1))


def site_rows(model: Model, text: str) -> torch.Tensor:
    """Activations of one text at the site, [pos, d_model]."""
    return record(model, model.tokenize(text), [SITE])[SITE][0]


def test_a_perfect_sae_costs_nothing(model):
    scores = evaluate_sae(model, perfect(), TEXTS)
    assert scores.fvu < 1e-10
    assert scores.fvu_per_token < 1e-10
    assert abs(scores.delta_ce) < EXACT
    assert abs(scores.kl) < EXACT
    assert scores.ce_recovered == pytest.approx(1, abs=1e-3)
    assert scores.ce_recovered_mean == pytest.approx(1, abs=1e-3)
    assert scores.l0 == D_MODEL


def test_a_mean_that_an_sae_does_not_see_is_no_error(tiny_model):
    model = tiny_model("gpt2")
    centring = torch.eye(model.d_model) - 1 / model.d_model
    weights = torch.cat([centring, -centring])
    scores = evaluate_sae(model, sae_of(weights.T, weights, centred=True), ["the rain in spain"])
    assert scores.fvu < 1e-10
    assert abs(scores.delta_ce) < EXACT


def test_an_sae_that_returns_zero_is_zero_ablation(model):
    scores = evaluate_sae(model, useless(), TEXTS)
    assert scores.ce_recovered == 0
    assert scores.kl > 0.01
    assert (scores.l0, scores.never_fired) == (0, 1)


def test_an_sae_that_returns_the_mean_is_mean_ablation(model):
    rows = torch.cat([site_rows(model, text) for text in TEXTS])
    scores = evaluate_sae(model, useless(b_dec=rows.mean(0)), TEXTS)
    assert scores.fvu == pytest.approx(1, rel=1e-4)
    assert scores.fvu_per_token == pytest.approx(1, rel=1e-4)
    assert scores.ce_recovered_mean == pytest.approx(0, abs=1e-3)


def test_losses_are_those_of_a_hand_made_forward(model):
    sae, text = rough(), TEXTS[0]
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    block = model.hf.model.layers[1]

    def log_p(hook=None):
        handle = block.register_forward_hook(hook) if hook else None
        with torch.no_grad():
            out = model.hf(input_ids=ids).logits[0].log_softmax(-1)
        if handle:
            handle.remove()
        return out

    clean, inside = log_p(), log_p(lambda _m, _i, out: sae(out))
    zero = log_p(lambda _m, _i, out: torch.zeros_like(out))
    ce = [float(functional.nll_loss(lp[:-1], ids[0, 1:])) for lp in (clean, inside, zero)]
    kl = float((inside.exp() * (inside - clean)).sum(-1).mean())
    scores = evaluate_sae(model, sae, [text])
    assert scores.ce_clean == pytest.approx(ce[0], abs=EXACT)
    assert scores.delta_ce == pytest.approx(ce[1] - ce[0], abs=EXACT)
    assert scores.kl == pytest.approx(kl, abs=EXACT)
    assert scores.ce_recovered == pytest.approx((ce[2] - ce[1]) / (ce[2] - ce[0]), abs=1e-3)
    assert 0.05 < scores.fvu < 1.5
    assert abs(scores.delta_ce) > 0.01


def test_batches_and_padding_make_no_difference(model):
    alone, together = (
        evaluate_sae(model, rough(), TEXTS, context=20, batch_size=size).to_dict()
        for size in (1, 4)
    )
    assert alone.pop("density") == together.pop("density")
    assert alone == pytest.approx(together, abs=1e-4)


def with_outlier(model: Model) -> torch.Tensor:
    """Make the letter z massive; returns its activation at the site."""
    model.hf.model.embed_tokens.weight.data[model.tokenizer("z")["input_ids"][0]] *= 300
    return site_rows(model, "az")[1]


def test_outlier_tokens_are_neither_scored_nor_replaced(model):
    outlier = with_outlier(model)
    direction = outlier / outlier.norm()
    base = perfect()
    spoiled = sae_of(
        torch.cat([base.w_enc, direction[:, None]], 1),
        torch.cat([base.w_dec, torch.full((1, D_MODEL), 5.0)]),
        threshold=torch.cat([base.threshold, outlier.norm()[None] / 3]),
    )
    texts = ["the cat sat on zthe matz"]
    assert (spoiled(outlier) - outlier).norm() > outlier.norm()
    scores = evaluate_sae(model, spoiled, texts)
    assert scores.fvu < 1e-8
    assert abs(scores.delta_ce) < EXACT
    assert scores.n_tokens == len(texts[0]) - 2
    assert scores.outlier_fraction == pytest.approx(2 / len(texts[0]))
    assert evaluate_sae(model, useless(), texts).ce_recovered == 0


def test_without_a_limit_no_token_is_an_outlier(model):
    with_outlier(model)
    rows = token_rows(model, ["the cat sat on zthe matz"], 100, 50)
    scores = evaluate_rows(model, useless(), rows, outlier_factor=math.inf)
    assert (scores.outlier_fraction, scores.n_tokens) == (0, 24)
    assert evaluate_rows(model, useless(), rows).n_tokens == 22


def test_density_is_over_the_scored_tokens(model):
    scores = evaluate_sae(model, rough(), TEXTS)
    latents = torch.cat([rough().encode(site_rows(model, text)) for text in TEXTS])
    frequency = (latents > 0).double().mean(0)
    density = scores.density
    assert scores.outlier_fraction == 0
    assert density.never_fired == int((frequency == 0).sum()) == scores.never_fired * 40
    assert density.dense_fraction == pytest.approx(float((frequency > 0.1).double().mean()))
    assert sum(density.counts[-4:]) == int((frequency > 0.1).sum())


def test_bos_stands_in_front_of_every_row_and_is_not_scored():
    model = tiny(bos=True)
    rows = token_rows(model, [TEXTS[0]], 1000, context=9)
    assert all(row[0] == 0 and len(row) <= 9 and 0 not in row[1:] for row in rows)
    assert sum(len(row) - 1 for row in rows) == len(TEXTS[0])
    spy = evaluate_sae(model, perfect(), [TEXTS[0]], context=9)
    assert spy.n_tokens + round(spy.outlier_fraction * len(TEXTS[0])) == len(TEXTS[0])


def test_rows_never_span_texts_and_stop_at_the_limit(model):
    rows = token_rows(model, ["aaaa", "bbbbbbb", "cccc"], 13, context=5)
    letters = ["".join(model.tokenizer.convert_ids_to_tokens(row)) for row in rows]
    assert letters == ["aaaa", "bbbbb", "bb", "cc"]


def test_reading_stops_when_there_is_enough(model):
    def endless():
        while True:
            yield "abcdefgh"

    assert evaluate_sae(model, rough(), endless(), max_tokens=30, context=8).n_tokens <= 30


def test_training_statistics_win_over_what_a_short_text_shows(model):
    plain = evaluate_sae(model, rough(), TEXTS[1:2])
    assert plain.dead_fraction == plain.never_fired > 0
    told = evaluate_sae(model, useless(metadata={"dead_fraction": 0.001}), TEXTS)
    assert (told.dead_fraction, told.never_fired) == (0.001, 1)


def test_the_model_is_left_as_it_was(model):
    ids = model.tokenize(TEXTS[0]).input_ids
    before = model.hf(input_ids=ids).logits
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]
    evaluate_sae(model, rough(), TEXTS)
    with pytest.raises(RuntimeError, match="stop here"):
        evaluate_sae(model, rough(), TEXTS, progress=fail)
    assert torch.equal(model.hf(input_ids=ids).logits, before)
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]


def fail(_done: int, _total: int) -> None:
    """A progress bar that breaks."""
    raise RuntimeError("stop here")


def test_progress_counts_to_its_end(model):
    seen = []
    evaluate_sae(model, rough(), TEXTS, batch_size=2, progress=lambda *at: seen.append(at))
    assert seen == [(1, 2), (2, 2)]


def test_a_bare_module_is_taken_too(model):
    model.hf.__dict__["_saesteer_model"] = model
    assert as_model(model.hf) is model
    assert evaluate_sae(model.hf, rough(), TEXTS) == evaluate_sae(model, rough(), TEXTS)


def test_the_scores_are_json_with_the_promised_keys(model):
    scores = evaluate_sae(model, rough(), TEXTS)
    promised = (
        "fvu fvu_per_token l0 delta_ce ce_recovered ce_recovered_mean kl dead_fraction n_tokens"
    )
    assert set(promised.split()) <= set(json.loads(json.dumps(scores.to_dict(), allow_nan=False)))
    broken = type(scores)(**{**vars(scores), "ce_recovered": math.nan})
    assert broken.to_dict()["ce_recovered"] is None


@pytest.mark.parametrize("texts", [[], [""], ["a", "b"]])
def test_text_without_tokens_is_refused(model, texts):
    with pytest.raises(DataError, match="no tokens to score"):
        evaluate_sae(model, rough(), texts)


def test_a_context_that_can_predict_nothing_is_refused(model):
    with pytest.raises(DataError, match="context 1 leaves nothing to predict"):
        evaluate_sae(model, rough(), TEXTS, context=1)


def test_an_sae_of_another_width_is_refused(model):
    with pytest.raises(DimensionError, match="width 8, but tiny has width 16"):
        evaluate_sae(model, sae_of(torch.zeros(8, 4), torch.zeros(4, 8)), TEXTS)


def test_one_text_is_read_as_one(tiny_model):
    model = tiny_model("llama")
    rows = inspect.unwrap(token_rows)(model, "the rain in the town", 100, 16)
    assert rows == token_rows(model, ["the rain in the town"], 100, 16)
