"""Toxification reversal, refusal cliff heads, binding IDs, Command-V and the world-model edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from donor import donor
from torch import Tensor
from torch.nn import functional

from saesteer import steer
from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, ContrastError, PlanError, SiteError
from saesteer.features import pooled_activations
from saesteer.methods import BindingIDs, CommandV, RefusalCliff, ToxificationReversal, WorldModel
from saesteer.methods.command_v import converter
from saesteer.methods.directions import logistic_direction, read_sides
from saesteer.methods.refusal_cliff import contributions
from saesteer.models import Model, Site, record
from saesteer.steer import Plan, PromptCondition
from saesteer.steer.pasted import Pasted
from saesteer.steer.reversal import Reversal
from saesteer.steer.schedule import ReadingSchedule

SITE = Site.parse("resid_post.2")
D_HEAD = 8


def act(plan: Plan, index: int = 0) -> Any:
    return plan.edits[index].intervention


def test_reversal_is_the_papers_formula_at_the_old_norm() -> None:
    vector, negative, z = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    moved = []
    for head in range(2):
        alike = float(functional.cosine_similarity(z[head], negative[head], dim=0))
        scale = (1 + float(vector[head].norm())) ** 0.4 * (1 + max(alike, 0.0)) ** 0.6
        moved.append(z[head] - scale * vector[head])
    whole = torch.cat(moved)
    expected = whole * z.norm() / whole.norm()
    found = z.flatten() + Reversal(Site(0, "head_out"), vector, negative).delta(z.view(1, 1, 6))
    assert torch.allclose(found.flatten(), expected, atol=1e-5)


@pytest.mark.parametrize("against", ["", "say aaa"])
def test_the_pull_is_what_the_prefix_does_to_the_texts(
    model: Model, letters: Contrast, against: str
) -> None:
    plan = ToxificationReversal("say zzz", against=against, n_texts=2).fit(model, letters)
    assert [str(e.intervention.site) for e in plan.edits] == [f"head_out.{i}" for i in range(4)]
    train = letters.split("train")
    read = [*train.positives[:2], *train.negatives[:2]]
    site = Site(2, "head_out")
    with_it, without = (
        pooled_activations(model, [replace(e, prompt=prefix) for e in read], [site])[site].mean(0)
        for prefix in ("say zzz", against)
    )
    assert torch.allclose(act(plan, 2).vector.flatten(), with_it - without, atol=1e-4)
    end = record(model, model.tokenize("say zzz"), [site])[site][0, -1]
    assert torch.allclose(act(plan, 2).negative.flatten(), end, atol=1e-4)


def test_prefixes_are_quoted_from_the_side_that_goes_and_from_the_other(
    model: Model, letters: Contrast
) -> None:
    train = letters.split("train")
    gone, kept = ToxificationReversal().words(letters)
    assert gone == "".join(f"{e.text}\n" for e in train.negatives[:3])
    assert kept == "".join(f"{e.text}\n" for e in train.positives[:3])
    assert ToxificationReversal(remove="positives").words(letters) == (kept, gone)
    assert ToxificationReversal("bad", against="").words(letters) == ("bad", "")
    with pytest.raises(ContrastError, match="the prefix '' changes nothing over ''"):
        ToxificationReversal("", against="").fit(model, letters)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_silencing_a_head_takes_its_contribution_off_the_probe(
    tiny_model: Any, letters: Contrast, arch: str
) -> None:
    """Between attention and the MLP of its own layer a head's effect on the probe is direct."""
    model, place = tiny_model(arch), Site(3, "resid_mid")
    train = letters.split("train")
    weight, _ = logistic_direction(read_sides(model, train, [place], "last")[place])
    found = contributions(model, letters, weight, place)
    assert found.shape == (4, 4)

    def score() -> float:
        rows = pooled_activations(model, train.positives, [place], "last")[place]
        return float((rows @ weight).mean())

    before = score()
    for head in range(4):
        factors = torch.ones(4, D_HEAD)
        factors[head] = 0
        silenced = steer.affine("head_out.3", factors.flatten(), torch.zeros(32))
        with Plan(silenced, where=steer.all(special=True)).on(model):
            assert before - score() == pytest.approx(float(found[3, head]), rel=1e-2, abs=1e-3)


def test_the_heads_that_pull_down_most_are_silenced(model: Model, letters: Contrast) -> None:
    place = Site(3, "resid_post")
    weight, _ = logistic_direction(
        read_sides(model, letters.split("train"), [place], "last")[place]
    )
    found = contributions(model, letters, weight, place)
    silenced = torch.zeros(4, 4, dtype=torch.bool)
    for edit in RefusalCliff(top_k=3).fit(model, letters).edits:
        one: Any = edit.intervention
        silenced[one.site.layer] = (one.weight.view(4, D_HEAD) == 0).all(-1)
        assert set(one.weight.tolist()) <= {0.0, 1.0}
    assert int(silenced.sum()) == 3
    assert float(found[silenced].max()) < min(0.0, float(found[~silenced].min()))
    many = RefusalCliff(top_k=16).fit(model, letters)
    n_silent = sum(int((act(many, i).weight == 0).sum()) for i in range(len(many.edits)))
    assert n_silent == D_HEAD * int((found < 0).sum())


def test_the_cliff_is_the_probe_token_by_token(model: Model, letters: Contrast) -> None:
    held = letters.split("validation").positives
    found = RefusalCliff().cliff(model, letters, SITE)
    assert [len(each) for each in found] == [
        len(model.tokenizer(e.text, add_special_tokens=False)["input_ids"]) for e in held
    ]
    assert all(float(each[-1]) > 0.5 for each in found)
    with pytest.raises(ConfigError, match="RefusalCliff: top_k is 0, expected 1 or more"):
        RefusalCliff(top_k=0).fit(model, letters)


@pytest.mark.parametrize("of", ["entity", "attribute"])
def test_binding_vectors_are_what_the_second_place_adds(
    model: Model, letters: Contrast, of: Any
) -> None:
    method = BindingIDs(of=of, n_contexts=5, swap=("q", "w"))
    contexts = method.contexts()
    slots = (0, 2) if of == "entity" else (1, 3)
    assert sorted(c[slots[0]] for c in contexts) == sorted(c[slots[1]] for c in contexts)
    rows: list[list[Tensor]] = [[], []]
    for context in contexts:
        before = ["Here is what we know: ", " lives in ", ", and ", " lives in ", "."]
        for side, slot in enumerate(slots):
            prompt = (
                "".join(p + w for p, w in zip(before, context[:slot], strict=False)) + before[slot]
            )
            ids = [model.tokenizer(t)["input_ids"] for t in (prompt.rstrip(), f" {context[slot]}")]
            n_word = len(ids[1])
            batch = model.tokenize(prompt + context[slot])
            rows[side].append(record(model, batch, [SITE])[SITE][0, -n_word:].mean(0))
    expected = torch.stack(rows[1]).mean(0) - torch.stack(rows[0]).mean(0)
    plan = method.fit(model, letters, SITE)
    assert torch.allclose(act(plan, 0).vector, expected, atol=1e-3)
    assert torch.equal(act(plan, 0).vector, -act(plan, 1).vector)


def test_words_are_swapped_where_they_first_occur(model: Model, letters: Contrast) -> None:
    plan = BindingIDs(swap=("q", "w"), n_contexts=2).fit(model, letters, SITE)
    with plan.on(model) as trace:
        model.generate("a q b w c q d w", max_new_tokens=2)
    ids = model.tokenize("a q b w c q d w").input_ids[0].tolist()
    text = [model.tokenizer.decode([i]).strip() for i in ids]
    touched = trace.passes[0].touched[SITE][0].tolist()
    assert [t for t, on in zip(text, touched, strict=True) if on] == ["q", "w"]
    assert touched[text.index("q")]
    assert touched[text.index("w")]
    sites = [str(e.intervention.site) for e in BindingIDs(n_contexts=2).fit(model, letters).edits]
    assert sites == ["resid_post.3", "resid_post.3"]
    two = BindingIDs(n_contexts=2, layers=[0, 3]).fit(model, letters, "mlp_out.2")
    assert [str(e.intervention.site) for e in two.edits[::2]] == ["mlp_out.0", "mlp_out.3"]
    for settings in ({"template": "{} and {}"}, {"entities": ["Ann"]}):
        with pytest.raises(ConfigError, match=r"needs four \{\}, and two words or more"):
            BindingIDs(**settings).fit(model, letters)


def test_what_is_pasted_is_the_donors_change_in_the_recipients_space() -> None:
    """Two models whose spaces are linear images of each other agree to rounding."""
    generator = torch.Generator().manual_seed(0)
    theirs = torch.randn(60, 12, generator=generator)
    image = torch.randn(12, 20, generator=generator)
    ours = theirs @ image
    inner = steer.affine("resid_post.1", torch.randn(12, 12, generator=generator), theirs[0])
    pasted = Pasted(SITE, converter(ours, theirs, 1e-3), converter(theirs, ours, 1e-3), inner)
    found = pasted.delta(ours[None])[0]
    assert pasted.width == 20
    assert torch.allclose(found, inner.delta(theirs[None])[0] @ image, rtol=1e-2, atol=1e-2)


def test_a_model_may_paste_to_itself(model: Model, letters: Contrast) -> None:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    plan = Plan(steer.Edit(steer.add(SITE, vector), steer.all(), strength=0.5), strength=3.0)
    prompts = [f"{a}{b} {b}{a} {a}" for a in "abcdefghij" for b in "klmnopqr"]
    pasted = CommandV(model, plan, prompts, cutoff=1e-6).fit(model, letters)
    assert pasted.strength == 3.0
    assert (pasted.edits[0].strength, pasted.edits[0].where) == (0.5, steer.all())
    delta = act(pasted).delta(torch.zeros(1, 1, 32))[0, 0]
    assert torch.allclose(delta, vector, atol=1e-2)


def test_layers_go_by_depth_and_the_donor_is_not_needed_again(
    model: Model, letters: Contrast, tmp_path: Path
) -> None:
    giver, plan = donor()
    words = [e.text.split() for e in letters.split("train").examples]
    prompts = list(dict.fromkeys(" ".join(w[: i + 1]) for w in words for i in range(len(w))))
    pasted = CommandV(giver, plan).fit(model, letters)
    assert str(act(pasted).site) == "resid_post.2"
    theirs = pooled_activations(giver, prompts, ["resid_post.1"], "last")[
        Site.parse("resid_post.1")
    ]
    ours = pooled_activations(model, prompts, [SITE], "last")[SITE]
    back = torch.linalg.pinv(theirs.double(), rtol=1e-2) @ ours.double()
    expected = act(plan).vector.double() @ back
    assert torch.allclose(act(pasted).delta(ours[None])[0, 0].double(), expected, rtol=1e-2)
    plan.save(tmp_path / "donors", giver)
    named = CommandV(giver, str(tmp_path / "donors")).fit(model, letters)
    assert torch.equal(act(named).back, act(pasted).back)


@dataclass(frozen=True, eq=False)
class Reads(ReadingSchedule):
    """A schedule that asks for activations of the donor."""

    @property
    def sites(self) -> tuple[Site, ...]:
        return (Site(0, "resid_post"),)

    def factor(self, readings: Mapping[Site, Tensor], memo: dict[Any, Any]) -> Tensor:
        raise NotImplementedError


EDIT = donor()[1].edits[0]
UNPASTED = {
    "gated": [replace(EDIT, gate=PromptCondition(Site(0, "resid_post"), torch.ones(24), 0.1))],
    "read": [replace(EDIT, schedule=Reads())],
    "dialled": [replace(EDIT, schedule=steer.dial("alpha"))],
    "asked": [EDIT, steer.PromptEdit(prefix="please ")],
    "stopped": [EDIT, steer.Stop()],
    "weighed": [EDIT, steer.WeightEdit("transformer.wpe.weight", torch.zeros(128, 24))],
}


@pytest.mark.parametrize("name", UNPASTED)
def test_plans_of_more_than_edits_by_position_are_refused(
    model: Model, letters: Contrast, name: str
) -> None:
    """What reads the donor, or needs a part that can't go along, would be lost in silence."""
    giver, _ = donor()
    with pytest.raises(PlanError, match=f"Command-V: {name} can't be pasted"):
        CommandV(giver, Plan(*UNPASTED[name], name=name)).fit(model, letters)


def test_schedules_by_position_go_along(model: Model, letters: Contrast) -> None:
    giver, plan = donor()
    waning = Plan(replace(plan.edits[0], schedule=steer.decay(3)))
    assert CommandV(giver, waning).fit(model, letters).edits[0].schedule == steer.decay(3)


def test_a_donors_scaled_vector_brings_its_typical_norm(model: Model, letters: Contrast) -> None:
    giver, _ = donor()
    scaled = Plan(steer.add_scaled("resid_post.1", torch.ones(24)))
    inner = act(CommandV(giver, scaled).fit(model, letters)).inner
    assert inner.typical_norm > 0


def test_steps_stop_when_the_probe_says_so(model: Model, letters: Contrast) -> None:
    plan = WorldModel(n_steps=200, step=0.02, confidence=0.8).fit(model, letters, SITE)
    edit = act(plan)
    sides = read_sides(model, letters.split("train"), [SITE], "mean")[SITE]
    rows = torch.cat([sides.negative, sides.positive])[None]
    before = edit.probe.logit(rows).sigmoid()[0]
    delta = edit.delta(rows)[0]
    after = edit.probe.logit(rows[0] + delta).sigmoid()
    assert bool((before[: len(sides.negative)] < 0.5).all())
    assert bool((after >= 0.8 - 1e-4).all())
    assert not delta[before > 0.8].any()
    assert bool((after[before < 0.5] < 0.95).all())


def test_without_a_goal_all_steps_are_taken(model: Model, letters: Contrast) -> None:
    edit = act(WorldModel(n_steps=3, step=0.1).fit(model, letters, SITE))
    rows = read_sides(model, letters.split("train"), [SITE], "mean")[SITE].positive
    assert bool((edit.probe.logit(rows) > 0).all())
    moved = rows
    for _ in range(3):
        moved = moved + edit.step * functional.normalize(edit.probe.gradient(moved), dim=-1)
    assert torch.allclose(edit.delta(rows[None])[0], moved - rows, atol=1e-4)
    assert edit.describe() == "step 3 times up a probe"


def test_one_step_follows_the_gradient_for_a_share_of_the_norm(
    model: Model, letters: Contrast
) -> None:
    edit = act(WorldModel(n_steps=1, step=0.1).fit(model, letters, SITE))
    sides = read_sides(model, letters.split("train"), [SITE], "mean")[SITE]
    h = sides.negative.clone().requires_grad_()
    edit.probe.logit(h).sum().backward()
    rms = sides.rows.square().sum(-1).mean().sqrt()
    expected = 0.1 * rms * functional.normalize(h.grad, dim=-1)
    assert torch.allclose(edit.delta(sides.negative[None])[0], expected, rtol=1e-3, atol=1e-4)


def test_each_layer_has_its_own_probe_and_settings_are_checked(
    model: Model, letters: Contrast
) -> None:
    plan = WorldModel(layers=[1, 2], n_hidden=4).fit(model, letters)
    assert [str(e.intervention.site) for e in plan.edits] == ["resid_post.1", "resid_post.2"]
    assert not torch.equal(act(plan, 0).probe.centre, act(plan, 1).probe.centre)
    with pytest.raises(ConfigError, match="expected between 0 and 1, and above 0"):
        WorldModel(confidence=1.0).fit(model, letters)
    with pytest.raises(ConfigError, match="step is 0.0, expected a number above 0"):
        WorldModel(step=0.0)
    for kind in (RefusalCliff, ToxificationReversal, BindingIDs, WorldModel):
        with pytest.raises(SiteError, match="layer 40 does not exist"):
            kind().fit(model, letters, "resid_post.40")
