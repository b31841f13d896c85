"""Persona vectors, simultaneous steering and G-ACT: their vectors, and who gets which."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError, ContrastError, SiteError
from saesteer.features import pooled_activations
from saesteer.features.activations import text_ids
from saesteer.features.readouts import prompt_projections
from saesteer.methods import GACT, BroadSkills, PersonaVectors, difference_in_means
from saesteer.methods.directions import read_sides, separation
from saesteer.methods.g_act import cluster_probe
from saesteer.models import Model, Site, record
from saesteer.steer import Plan
from saesteer.steer.chosen import AddChosen

SITE = Site.parse("resid_post.1")
TRAIT = PersonaVectors(
    elicit=["say a"], suppress=["say z"], questions=["what now", "and then"], n_tokens=6
)


@pytest.fixture(scope="module")
def spoken() -> Contrast:
    """Responses after prompts that ask for them."""
    rows = [
        Example(f"{c * 3} {i} {c}", label, "train", prompt=f"say {c}")
        for label, c in ((1, "a"), (0, "z"))
        for i in range(6)
    ]
    return Contrast(tuple(rows), name="spoken")


def vector(plan: Plan, index: int = 0) -> Tensor:
    act: Any = plan.edits[index].intervention
    return act.vector


def other() -> Contrast:
    return Contrast.from_texts([f"mm {i} oo" for i in range(10)], [f"qq {i} ww" for i in range(10)])


def test_responses_are_read_after_their_instructions(model: Model, spoken: Contrast) -> None:
    plan = PersonaVectors(dose=None).fit(model, spoken, SITE)
    means = [
        pooled_activations(model, side, [SITE])[SITE].mean(0)
        for side in (spoken.positives, spoken.negatives)
    ]
    assert torch.allclose(vector(plan), means[0] - means[1], atol=1e-4)
    bare = Contrast(tuple(Example(e.text, e.label) for e in spoken.examples))
    assert not torch.allclose(
        vector(PersonaVectors(dose=None).fit(model, bare, SITE)), vector(plan)
    )


def test_the_model_writes_the_responses_itself(model: Model, spoken: Contrast) -> None:
    told = TRAIT.responses(model)
    assert [e.label for e in told.examples] == [1, 1, 0, 0]
    first = told.examples[0]
    assert first.prompt == "<system>say a<eos><user>what now<eos><assistant>"
    assert first.text == model.generate(first.prompt, max_new_tokens=6)
    plan = replace(TRAIT, dose=None).fit(model, spoken, SITE)
    assert torch.allclose(vector(plan), difference_in_means(model, told, SITE))


def test_responses_are_written_behind_one_bos(model: Model) -> None:
    """As in Llama 3 and Gemma: the template writes BOS, and the tokenizer puts one before texts."""
    tokenizer = deepcopy(model.tokenizer)
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    model = replace(model, tokenizer=tokenizer)
    chat = [{"role": "system", "content": "say a"}, {"role": "user", "content": "what now"}]
    first = TRAIT.responses(model).examples[0]
    assert first.prompt == model.render(chat)
    assert first.text == model.generate(chat, max_new_tokens=6)
    assert first.text != model.generate(model.render(chat), max_new_tokens=6)
    asked = model.tokenize(chat).input_ids[0].tolist()
    assert asked.count(1) == 1
    assert text_ids(model, first)[0][: len(asked)] == asked


def test_the_judge_keeps_what_shows_the_trait(model: Model, spoken: Contrast) -> None:
    texts = [e.text for e in TRAIT.responses(model).examples]
    settings = {"elicit": ["say a"], "suppress": ["say z"], "questions": TRAIT.questions}
    scores = iter([0.9, 0.1, 0.2, 0.8])
    kept = PersonaVectors(**settings, n_tokens=6, judge=lambda _: next(scores)).responses(model)
    assert [(e.text, e.label) for e in kept.examples] == [(texts[0], 1), (texts[2], 0)]
    with pytest.raises(ContrastError, match="all 2 examples have label 0"):
        PersonaVectors(**settings, n_tokens=6, judge=lambda _: 0.0).fit(model, spoken)
    with pytest.raises(ConfigError, match="questions need instructions in elicit and suppress"):
        PersonaVectors(questions=["what now"], elicit=["say a"]).fit(model, spoken)


def test_the_monitor_is_the_projection_at_a_prompts_last_token(
    model: Model, spoken: Contrast
) -> None:
    readout = PersonaVectors().monitor(model, spoken, SITE)
    unit = functional.normalize(difference_in_means(model, spoken, SITE), dim=0)
    prompts = ["aaa aa", "zz z zzz and more"]
    expected = [record(model, model.tokenize(p), [SITE])[SITE][0, -1] @ unit for p in prompts]
    assert torch.allclose(prompt_projections(model, readout, prompts), torch.stack(expected))
    with (PersonaVectors().fit(model, spoken, "resid_post.0") * 5.0).on(model, prompt_lengths=1):
        moved = prompt_projections(model, readout, prompts)
    assert not torch.allclose(moved, torch.stack(expected), atol=0.1)


def test_a_monitor_is_a_readout_that_rules_can_use(model: Model, spoken: Contrast) -> None:
    from saesteer.features.concepts import Concept, concept_readers

    readout = PersonaVectors().monitor(model, spoken, SITE)
    (reader,) = concept_readers([Concept("trait", readout, 0.0)])
    rows = torch.randn(1, 3, 32)
    assert torch.allclose(reader.scores(rows)[..., 0], rows @ readout.weight, atol=1e-5)


def loss(model: Model, contrast: Contrast) -> Tensor:
    batch = model.tokenize([e.text for e in contrast.positives])
    logits = model.hf(batch.input_ids, attention_mask=batch.attention_mask.long()).logits
    kept = batch.attention_mask[:, 1:]
    return functional.cross_entropy(logits[:, :-1][kept], batch.input_ids[:, 1:][kept])


def test_preventative_steering_lets_gradients_through(model: Model, spoken: Contrast) -> None:
    """Along a parameter below the edit, the loss changes as its gradient says."""
    weight = model.layout.blocks[0].mlp.down_proj.weight
    plan = PersonaVectors().fit(model, spoken, SITE)
    way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    plain = torch.autograd.grad(loss(model, spoken), weight)[0]
    with plan.on(model, prompt_lengths=1):
        (found,) = torch.autograd.grad(loss(model, spoken), weight)
        step, sides = 1e-3, []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * way
                sides.append(float(loss(model, spoken)))
                weight -= sign * step * way
    slope = (sides[0] - sides[1]) / (2 * step)
    assert float((found * way).sum()) == pytest.approx(slope, rel=0.05)
    assert not torch.allclose(found, plain, rtol=0.1)


def test_behaviours_get_their_own_vectors_at_their_own_layers(
    model: Model, letters: Contrast
) -> None:
    method = BroadSkills([other()], layers=[2, 0], strengths=[1.0, -2.0], dose=None)
    plan = method.fit(model, letters)
    assert [str(e.intervention.site) for e in plan.edits] == ["resid_post.2", "resid_post.0"]
    assert [e.strength for e in plan.edits] == [1.0, -2.0]
    for index, (each, at) in enumerate([(letters, "resid_post.2"), (other(), "resid_post.0")]):
        expected = difference_in_means(model, each, Site.parse(at))
        assert torch.allclose(vector(plan, index), expected, atol=1e-4)


def test_layers_are_those_that_separate_validation_best(model: Model, letters: Contrast) -> None:
    def best(contrast: Contrast, sites: list[Site]) -> Site:
        train, held = (
            read_sides(model, contrast.split(s), sites, "mean") for s in ("train", "validation")
        )
        return max(sites, key=lambda s: separation(held[s], train[s].difference))

    plan = BroadSkills(others=[other()]).fit(model, letters)
    sites = [Site(layer, "resid_post") for layer in range(3)]
    first = best(letters, sites)
    second = best(other(), [s for s in sites if s != first])
    assert [e.intervention.site for e in plan.edits] == [first, second]
    twice = BroadSkills(others=[letters]).fit(model, letters)
    expected = [first, best(letters, [s for s in sites if s != first])]
    assert [e.intervention.site for e in twice.edits] == expected
    given = BroadSkills(others=[other()]).fit(model, letters, "mlp_out.1")
    assert str(given.edits[0].intervention.site) == "mlp_out.1"
    assert given.edits[1].intervention.site.kind == "mlp_out"


def test_bad_behaviours_are_refused(model: Model, letters: Contrast) -> None:
    for settings, message in (
        ({"layers": [1, 2]}, "2 layers for 1 behaviours"),
        ({"strengths": [1, 2]}, "2 strengths for 1 behaviours"),
        ({"others": [other()], "layers": [1, 1]}, r"layers \[1, 1\] has one twice"),
        ({"others": [other()] * 3}, "4 behaviours for 3 layers of tiny-llama"),
    ):
        with pytest.raises(ConfigError, match=message):
            BroadSkills(**settings).fit(model, letters)
    with pytest.raises(SiteError, match="layer 40 does not exist"):
        BroadSkills(layers=[40]).fit(model, letters)


def test_the_probe_picks_each_rows_own_cluster() -> None:
    generator = torch.Generator().manual_seed(0)
    for k in (1, 2, 3):
        labels = torch.arange(30) % k
        rows = 20 * torch.eye(8)[labels] + torch.randn(30, 8, generator=generator)
        vectors = torch.randn(k, 8, generator=generator)
        act = AddChosen(SITE, vectors, *cluster_probe(rows, labels, k))
        assert torch.equal(act.delta(rows[None])[0], vectors[labels])


def test_centroids_are_the_means_of_clustered_differences(model: Model) -> None:
    """Two kinds of pairs, planted: each kind's vector is its own mean difference."""
    pairs = [(f"aa {i}", f"bb {i}") if i % 2 else (f"~ {i} ~", f"; {i} ;") for i in range(8)]
    rows = [
        Example(text, 1 - side, "train", pair=str(i))
        for i, pair in enumerate(pairs)
        for side, text in enumerate(pair)
    ]
    plan = GACT(n_clusters=2, read="last", dose=None).fit(model, Contrast(tuple(rows)), SITE)
    texts = [e.text for e in rows]
    read = pooled_activations(model, texts, [SITE], "last")[SITE]
    differences = read[0::2] - read[1::2]
    kinds = torch.stack([differences[0::2].mean(0), differences[1::2].mean(0)])
    act: Any = plan.edits[0].intervention
    order = torch.cdist(kinds, act.vectors).argmin(1)
    assert sorted(order.tolist()) == [0, 1]
    assert torch.allclose(act.vectors[order], kinds, atol=1e-3)
    chosen = act.delta(read[1::2][None])[0]
    assert torch.allclose(chosen, kinds[torch.arange(8) % 2], atol=1e-3)


def test_too_few_pairs_make_no_clusters(model: Model, letters: Contrast) -> None:
    with pytest.raises(ConfigError, match="6 different pairs at resid_post.1 make no 9 clusters"):
        GACT(n_clusters=9).fit(model, letters, SITE)
    with pytest.raises(ConfigError, match="n_clusters is 0, expected 1 or more"):
        GACT(n_clusters=0)
