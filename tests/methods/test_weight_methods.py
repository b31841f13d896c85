"""CASAL, ROME and EigenShift: what they change in the weights, and that it does what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError, ContrastError, SiteError
from saesteer.features import pooled_activations
from saesteer.methods import CASAL, ROME, EigenShift, difference_in_means
from saesteer.methods.facts import asked_after, next_token
from saesteer.methods.projections import projection
from saesteer.methods.scoring import log_likelihood, teacher_forced
from saesteer.models import Model, Site
from saesteer.steer import Plan

SITE = Site.parse("resid_post.1")


@pytest.mark.parametrize("arch", ["llama", "gpt2", "neox", "gemma3"])
@pytest.mark.parametrize("part", ["mlp", "attention"])
def test_a_projections_change_acts_as_the_layer_that_it_stands_for(
    tiny_model: Any, arch: str, part: Any
) -> None:
    model = tiny_model(arch)
    writes = projection(model, 1, part)
    draw = torch.Generator().manual_seed(0)
    n_out, n_in = writes.weight.shape
    left, right = torch.randn(n_out, 2, generator=draw), torch.randn(2, n_in, generator=draw)
    batch = model.tokenize(["some words", "x"])
    for change, whole in ((writes.change(left, right), left @ right), (writes.change(left @ right),
                                                                       left @ right)):  # fmt: skip
        with torch.no_grad(), writes.adding(lambda x, y, w=whole: y + x @ w.T):
            expected = model.forward(batch)
        with torch.no_grad(), Plan(change).on(model):
            found = model.forward(batch)
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("part", ["mlp", "attention"])
def test_casal_bakes_the_vector_into_held_out_texts(
    model: Model, letters: Contrast, part: Any
) -> None:
    plan = CASAL(n_steps=150, lr=2e-2, part=part).fit(model, letters, SITE)
    vector = difference_in_means(model, letters, SITE)
    held = letters.split("test").examples
    plain = pooled_activations(model, held, [SITE])[SITE]
    with plan.on(model):
        moved = pooled_activations(model, held, [SITE])[SITE] - plain
    along = moved @ vector / vector.square().sum()
    assert 0.5 < float(along.mean()) < 1.5


def test_casal_leaves_alone_what_its_condition_does_not_name(
    model: Model, letters: Contrast
) -> None:
    plan = CASAL(condition=letters, n_steps=150, lr=2e-2).fit(model, letters, SITE)
    vector = difference_in_means(model, letters, SITE)
    along = {}
    for label, texts in (
        (1, letters.split("test").positives),
        (0, letters.split("test").negatives),
    ):
        plain = pooled_activations(model, texts, [SITE])[SITE]
        with plan.on(model):
            moved = pooled_activations(model, texts, [SITE])[SITE] - plain
        along[label] = float((moved @ vector / vector.square().sum()).mean())
    assert along[1] > 0.5
    assert abs(along[0]) < 0.3


def test_casals_loss_starts_at_one_and_falls(model: Model, letters: Contrast) -> None:
    learner = CASAL(n_steps=30, lr=2e-2).learner(model, letters, SITE)
    losses = [float(learner.step(learner.turn()).loss.detach()) for _ in range(30)]
    assert losses[0] == pytest.approx(1.0, abs=1e-4)
    assert losses[-1] < 0.5


def test_casal_teaches_blocks_that_have_what_it_needs(tiny_model: Any, letters: Contrast) -> None:
    with pytest.raises(SiteError, match=r"got mlp_out.1, expected resid_post.1"):
        CASAL(n_steps=1).fit(tiny_model("llama"), letters, "mlp_out.1")
    with pytest.raises(SiteError, match="fused parameters"):
        CASAL(n_steps=1).fit(tiny_model("mixtral"), letters, SITE)


def facts() -> Contrast:
    """Prompts about several subjects, each with the ending to come and another."""
    rows = [
        Example(text, label, pair=name, prompt=f"now {name} is")
        for name in ("bob", "eve", "kim", "ann")
        for text, label in ((" red", 1), (" blue", 0))
    ]
    return Contrast(tuple(rows), name="facts")


def told(model: Model, plan: Plan | None, prompt: str, text: str) -> float:
    """Log likelihood of an ending, nats a token."""
    texts = teacher_forced(model, [Example(text, 1, prompt=prompt)])
    with torch.no_grad():
        if plan is None:
            return float(log_likelihood(model, texts))
        with plan.on(model):
            return float(log_likelihood(model, texts))


def test_rome_rewrites_one_fact(model: Model) -> None:
    free = ROME(subject="bob", n_prefixes=2, decay=0.0, kl_weight=0.0)
    plan = free.fit(model, facts(), SITE)
    before, after = (told(model, p, "now bob is", " red") for p in (None, plan))
    assert after > before + 0.1
    others = [told(model, plan, f"now {n} is", " red") - told(model, None, f"now {n} is", " red")
              for n in ("eve", "kim", "ann")]  # fmt: skip
    assert max(others) < 0.7 * (after - before)


def test_romes_change_sends_the_key_to_the_new_value(model: Model) -> None:
    learner = ROME(subject="bob", n_prefixes=2).learner(model, facts(), SITE)
    for _ in range(5):
        learner.step(learner.turn())
    fitting: Any = learner.fitting
    (edit,) = learner.plan().weight_edits
    added = edit.added(torch.device("cpu"))
    assert torch.linalg.matrix_rank(added) == 1
    assert torch.allclose(added @ fitting._key, fitting.delta.detach(), rtol=1e-3, atol=1e-4)
    weight = fitting._projection.weight
    assert torch.allclose(weight @ fitting._key, fitting._value, rtol=1e-3, atol=1e-3)
    rows = fitting._second.double()
    expected = torch.linalg.inv(rows) @ fitting._key.double()
    cosine = torch.cosine_similarity(edit.right[0].double(), expected, dim=0)
    assert float(cosine) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("text", [" red", "red"])
@pytest.mark.parametrize(("subject", "ends"), [("bob", "bob"), (None, "now bob is")])
def test_rome_reads_the_subjects_last_token(
    model: Model, text: str, subject: str | None, ends: str
) -> None:
    """Also where a line break parts prompt and text, which is no part of either."""
    fact = replace(facts().positives[0], text=text)
    asked = asked_after(model, fact, ["", "a b. "], subject)
    for row in range(2):
        at = int(asked.at[row].argmax())
        ids = asked.texts.tokens.input_ids[row]
        assert model.tokenizer.decode(ids[: at + 1]).endswith(ends)
        assert int(asked.at[row].sum()) == 1


def test_romes_drift_is_read_behind_the_subject_whatever_the_text(model: Model) -> None:
    found = [
        next_token(model, asked_after(model, Example(text, 1, prompt="now bob"), [""], None))
        for text in (" red", "red")
    ]
    logits = model.forward(model.tokenize("now bob"))[0, -1]
    for each in found:
        assert torch.allclose(each, logits.log_softmax(-1), atol=1e-4)


def test_rome_refuses_facts_that_are_not_there(model: Model) -> None:
    with pytest.raises(ContrastError, match="facts: 'tom' is not in 'now bob is'"):
        ROME(subject="tom").fit(model, facts(), SITE)
    with pytest.raises(ContrastError, match="fact 9 is none of 4 positives"):
        ROME(fact=9).fit(model, facts(), SITE)


def test_eigenshift_damps_components_and_leaves_the_others(model: Model, letters: Contrast) -> None:
    (edit,) = EigenShift(n_components=3, damping=0.25).fit(model, letters).weight_edits
    weight = model.layout.unembed.weight.detach()
    changed = weight + edit.added(torch.device("cpu"))
    left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
    now = torch.stack([left[:, i] @ changed @ right[i] for i in range(len(sizes))])
    ratio = now / sizes
    assert sorted(ratio.tolist())[:3] == pytest.approx([0.25] * 3, abs=1e-3)
    assert sorted(ratio.tolist())[3:] == pytest.approx([1.0] * (len(sizes) - 3), abs=1e-3)


@pytest.mark.parametrize("remove", ["negatives", "positives"])
def test_eigenshift_takes_the_components_that_the_unwanted_texts_are_made_along(
    model: Model, letters: Contrast, remove: Any
) -> None:
    (edit,) = EigenShift(n_components=4, remove=remove).fit(model, letters).weight_edits
    weight = model.layout.unembed.weight.detach()
    right = torch.linalg.svd(weight, full_matrices=False).Vh
    sizes = {}
    for label in (1, 0):
        rows = []
        for text in (e for e in letters.split("train").examples if e.label == label):
            ids = teacher_forced(model, [text]).tokens.input_ids
            states = model.layout.base(input_ids=ids)[0][0, :-1].detach()
            rows.append((states @ right.T).abs().mean(0))
        sizes[label] = torch.stack(rows)
    unwanted, kept = (0, 1) if remove == "negatives" else (1, 0)
    spread = torch.cat([sizes[1], sizes[0]]).std(0, correction=0)
    score = (sizes[unwanted].mean(0) - sizes[kept].mean(0)) / spread
    chosen = score.topk(4).indices
    basis = edit.right
    assert basis is not None
    assert torch.allclose((basis @ right[chosen].T).abs().sum(0), torch.ones(4), atol=1e-3)


def test_eigenshift_leaves_a_tied_embedding_alone(tiny_model: Any, letters: Contrast) -> None:
    model = tiny_model("gpt2")
    embedding = model.hf.get_input_embeddings().weight
    assert model.layout.unembed.weight is embedding
    before = embedding.clone()
    with EigenShift().fit(model, letters).on(model):
        assert torch.equal(model.hf.get_input_embeddings().weight, before)
        assert not torch.equal(model.layout.unembed.weight, before)
    assert model.layout.unembed.weight is embedding


def test_eigenshift_refuses_what_does_not_damp(model: Model, letters: Contrast) -> None:
    with pytest.raises(ConfigError, match=r"damping is 1.0, expected 0 to below 1"):
        EigenShift(damping=1.0)
    unknown = (replace(e, text="éü"[e.label]) for e in letters.examples)
    same = Contrast(tuple(unknown), name="same")
    with pytest.raises(ContrastError, match="same: no component goes with its negatives"):
        EigenShift().fit(model, same)
