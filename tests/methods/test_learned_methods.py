"""Each learned method finds what was planted, and does what its formula says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, SiteError
from saesteer.features import pooled_activations
from saesteer.features.separation import auroc
from saesteer.methods import Controller, LinEAS, LoReFT, RandomDirection, ReFTr1, RePS
from saesteer.methods.learned import shrunk
from saesteer.methods.learning_edits import TakeOut, TopKAdd
from saesteer.methods.scoring import log_likelihood, teacher_forced
from saesteer.methods.transport import wasserstein
from saesteer.models import Model, Site
from saesteer.steer import Plan, generated
from saesteer.steer.norms import typical_norm

SITE = Site.parse("resid_post.1")


def gain(model: Model, plan: Plan, contrast: Contrast) -> float:
    """What a plan adds to the log likelihood of held-out positives, in nats a token."""
    texts = teacher_forced(model, contrast.split("test").positives)
    with torch.no_grad():
        plain = log_likelihood(model, texts).mean()
        with plan.on(model, texts.prompt_lengths):
            return float(log_likelihood(model, texts).mean() - plain)


@pytest.mark.parametrize(
    "method",
    [ReFTr1(n_steps=60, lr=5e-2), LoReFT(n_steps=60, lr=2e-2)],
    ids=lambda m: m.name,
)
def test_held_out_texts_of_the_behaviour_become_likelier(
    model: Model, letters: Contrast, method: Any
) -> None:
    found = gain(model, method.fit(model, letters, SITE), letters)
    nothing = [gain(model, RandomDirection(seed).fit(model, letters, SITE), letters)
               for seed in range(3)]  # fmt: skip
    assert found > 0.1
    assert found > max(nothing)


def margin(model: Model, plan: Plan, contrast: Contrast) -> float:
    """How much likelier a plan makes held-out positives than their counterparts, nats a token."""
    pairs = contrast.split("test").pairs()
    texts = teacher_forced(model, [p for p, _ in pairs] + [q for _, q in pairs])
    with torch.no_grad(), plan.on(model, texts.prompt_lengths):
        found = log_likelihood(model, texts)
    return float((found[: len(pairs)] - found[len(pairs) :]).mean())


def test_reps_prefers_held_out_texts_of_the_behaviour(model: Model, letters: Contrast) -> None:
    plan = RePS(n_steps=40, lr=5e-2).fit(model, letters, SITE)
    vector: Any = plan.edits[0].intervention
    norm = float(vector.vector.norm())
    others = [RandomDirection(seed, norm).fit(model, letters, SITE) for seed in range(5)]
    assert margin(model, plan, letters) > max(margin(model, each, letters) for each in others)


def test_loreft_moves_its_subspace_to_w_h_plus_b_and_nothing_else(
    model: Model, letters: Contrast
) -> None:
    learner = LoReFT(n_ranks=3, n_steps=4).learner(model, letters, SITE)
    learner.step(learner.turn())
    edit: Any = learner.plan().edits[0].intervention
    fitting: Any = learner.fitting
    rows, linear = edit.write, fitting.edits[0].linear
    unit = typical_norm(model, SITE)
    assert torch.allclose(rows @ rows.T, torch.eye(3), atol=1e-5)
    resid = torch.randn(2, 5, model.d_model, generator=torch.Generator().manual_seed(0))
    after = resid + edit.delta(resid)
    wanted = resid @ linear.weight.T + unit * linear.bias
    assert torch.allclose(after @ rows.T, wanted, atol=1e-4)
    rest = torch.eye(model.d_model) - rows.T @ rows
    assert torch.allclose(after @ rest, resid @ rest, atol=1e-4)


def test_a_few_steps_turn_lorefts_subspace(model: Model, letters: Contrast) -> None:
    def rows(n_steps: int) -> torch.Tensor:
        method = LoReFT(n_ranks=1, n_steps=n_steps, lr=1e-2)
        edit: Any = method.fit(model, letters, SITE).edits[0]
        return edit.intervention.write[0]

    assert abs(float(rows(20) @ rows(1))) < 0.97


def test_loreft_acts_at_every_layer_that_it_is_given(model: Model, letters: Contrast) -> None:
    plan = LoReFT(n_steps=1, layers=[0, 2]).fit(model, letters, SITE)
    assert [str(e.intervention.site) for e in plan.edits] == ["resid_post.0", "resid_post.2"]
    with pytest.raises(SiteError, match="layer 9 does not exist"):
        LoReFT(n_steps=1, layers=[9]).fit(model, letters, SITE)


def test_reft_r1_learns_with_the_mean_of_a_texts_largest_latents() -> None:
    unit = functional.normalize(torch.tensor([1.0, 2.0, 2.0]), dim=0)
    resid = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    edited = torch.tensor([[0.0, 1, 1, 1], [1, 1, 0, 0]])
    seen: list[Any] = []
    delta = TopKAdd(SITE, unit, edited, 2, seen).delta(resid)
    for row, places in enumerate(([1, 2, 3], [0, 1])):
        latents = sorted((max(float(resid[row, t] @ unit), 0.0) for t in places), reverse=True)
        size = sum(latents[:2]) / 2
        assert torch.allclose(delta[row], size * unit.expand(4, 3), atol=1e-6)
        assert float(seen[0][0][row]) == pytest.approx(size, abs=1e-6)
        assert float(seen[0][1][row]) == pytest.approx(sum(latents[2:]) / len(places), abs=1e-6)


def test_reft_r1s_vector_is_as_long_as_what_it_added_in_learning(
    model: Model, letters: Contrast
) -> None:
    learner = ReFTr1(n_steps=10, lr=5e-2).learner(model, letters, SITE)
    for _ in range(10):
        learner.step(learner.turn())
    fitting: Any = learner.fitting
    unit = fitting.direction.detach()
    assert float(unit.norm()) == pytest.approx(1.0, abs=1e-5)
    sizes = []
    apart = copy.deepcopy(model.hf)  # transformers leaves hooks of its own behind
    for text in letters.split("train").positives:
        ids = teacher_forced(model, [text]).tokens
        resid = apart(ids.input_ids, output_hidden_states=True).hidden_states[SITE.layer + 1][0]
        latents = functional.relu(resid.detach() @ unit)
        sizes.append(float(latents.topk(min(8, len(latents))).values.mean()))
    vector: Any = learner.plan().edits[0].intervention
    assert torch.allclose(vector.vector, unit * (sum(sizes) / len(sizes)), atol=1e-3)


def test_reft_r1s_direction_detects_what_it_steers_to(model: Model, letters: Contrast) -> None:
    plan = ReFTr1(n_steps=80, lr=5e-2, sparsity=0.0).fit(model, letters, SITE)
    vector: Any = plan.edits[0].intervention
    held = letters.split("test").examples
    rows = pooled_activations(model, held, [SITE], "max")[SITE]
    score = (rows @ functional.normalize(vector.vector, dim=0))[:, None]
    assert float(auroc(score, torch.tensor([e.label == 1 for e in held]))) > 0.5


def test_reps_takes_out_a_direction_only_where_it_points_forward() -> None:
    direction = torch.tensor([0.0, 2.0])
    resid = torch.tensor([[[1.0, 3.0], [1.0, -3.0]]])
    assert TakeOut(SITE, direction).delta(resid).tolist() == [[[0.0, -3.0], [0.0, 0.0]]]


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_reps_loss_is_the_papers(model: Model, letters: Contrast, scale: float) -> None:
    from saesteer.steer.intervention import Add

    learner = RePS(n_steps=3, batch_size=2, doses=[0.2], beta_scale=scale).learner(
        model, letters, SITE
    )
    turn, fitting = learner.turn(), learner.fitting
    found = fitting.loss(turn)
    assert isinstance(fitting._betas, torch.Tensor)
    pairs = letters.split("train").pairs()
    expected = 0.0
    for row in turn.rows:
        texts = teacher_forced(model, pairs[row])
        n = texts.asked.sum(-1)

        def score(edit: Any, texts: Any = texts) -> Any:
            with torch.no_grad(), Plan(edit, where=generated()).on(model, texts.prompt_lengths):
                return log_likelihood(model, texts)

        with torch.no_grad():
            plain = log_likelihood(model, texts) * n
        direction = fitting.direction.detach()
        up, down = score(Add(SITE, fitting._sizes[0] * direction)), score(TakeOut(SITE, direction))
        more = max(scale * float(plain[1] - plain[0]), 1.0) * up[0] - up[1]
        less = max(scale * float(plain[0] - plain[1]), 1.0) * down[1] - down[0]
        expected -= float(functional.logsigmoid(more) + functional.logsigmoid(less)) / 2
    assert float(found.loss.detach()) == pytest.approx(expected, rel=1e-3)


def test_reps_refuses_doses_that_mean_nothing() -> None:
    with pytest.raises(ConfigError, match=r"RePS: doses is \[0.0\], expected numbers above 0"):
        RePS(doses=[0.0])
    with pytest.raises(ConfigError, match=r"RePS: beta_scale is -1.0, expected 0 or more"):
        RePS(beta_scale=-1.0)


def test_lineas_brings_held_out_negatives_nearer_to_the_positives(
    model: Model, letters: Contrast
) -> None:
    plan = LinEAS(n_steps=40, lr=3e-2).fit(model, letters)
    held = letters.split("test").negatives
    targets = letters.split("train").positives
    for site in (Site(1, "mlp_out"), Site(3, "attn_out")):
        target = pooled_activations(model, targets, [site])[site]
        plain = pooled_activations(model, held, [site])[site]
        with plan.on(model):
            mapped = pooled_activations(model, held, [site])[site]
        assert wasserstein(mapped, target) < 0.6 * wasserstein(plain, target)


def test_lineas_loss_looks_behind_the_maps(model: Model, letters: Contrast) -> None:
    learner = LinEAS(n_steps=4, batch_size=50, sparsity=0.0, group_sparsity=0.0).learner(
        model, letters
    )
    for _ in range(2):
        learner.step(learner.turn())
    fitting: Any = learner.fitting
    train = letters.split("train")
    expected = 0.0
    for index, site in enumerate(fitting._sites):
        target = pooled_activations(model, train.positives, [site])[site]
        with learner.plan().on(model):
            before = pooled_activations(model, train.negatives, [site])[site]
        slope, shift = (part.detach() for part in fitting._map(index))
        unit = float(target.var(0, correction=0).mean())
        expected += float(wasserstein(slope * before + shift, target)) / unit
    assert float(fitting.loss(learner.turn()).loss.detach()) == pytest.approx(expected, rel=2e-2)


def test_penalties_leave_coordinates_and_layers_alone(model: Model, letters: Contrast) -> None:
    sparse = LinEAS(n_steps=10, lr=1e-2, sparsity=5.0).fit(model, letters)
    full = LinEAS(n_steps=10, lr=1e-2, sparsity=0.0, group_sparsity=0.0).fit(model, letters)

    def moved(plan: Plan) -> int:
        acts: list[Any] = [edit.intervention for edit in plan.edits]
        return sum(int(((a.weight != 1) | (a.bias != 0)).sum()) for a in acts)

    assert moved(sparse) < 0.9 * moved(full)
    nothing = LinEAS(n_steps=3, lr=1e-2, group_sparsity=1000.0).fit(model, letters)
    assert not nothing.edits


def test_shrinking_is_the_proximal_operator_of_both_norms() -> None:
    values = torch.tensor([3.0, -1.0, 0.2])
    rate = torch.tensor([0.5, 0.5, 0.5])
    assert torch.allclose(shrunk(values, rate, 1.0, 0.0), torch.tensor([2.5, -0.5, 0.0]))
    uneven = torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(shrunk(values, uneven, 1.0, 0.0), torch.tensor([2.0, -1.0, 0.2]))
    kept = torch.tensor([2.5, -0.5, 0.0])
    scale = 1 - 0.5 * 0.6 * 3**0.5 / float(kept.norm())
    assert torch.allclose(shrunk(values, rate, 1.0, 0.6), kept * scale)
    assert not shrunk(values, rate, 1.0, 100.0).any()


def test_the_distance_pairs_in_order() -> None:
    rows, target = torch.tensor([[3.0], [1.0]]), torch.tensor([[2.0], [6.0]])
    assert float(wasserstein(rows, target)) == pytest.approx(((1 - 2) ** 2 + (3 - 6) ** 2) / 2)


def test_the_controller_opens_for_what_should_trigger_it(model: Model, letters: Contrast) -> None:
    plan = Controller(n_steps=120, read="last").fit(model, letters, SITE)
    held = letters.split("test")
    doses = {}
    for label, examples in ((1, held.positives), (0, held.negatives)):
        total = 0.0
        for example in examples:
            with plan.on(model) as trace:
                model.generate(example.text, max_new_tokens=1)
            total += trace.dose()
        doses[label] = total / len(examples)
    assert doses[1] > 4 * doses[0] > 0


def test_the_controllers_layers_add_the_direction_once_at_most(
    model: Model, letters: Contrast
) -> None:
    from saesteer.methods import CAA

    plan = Controller(n_steps=2, dose=None).fit(model, letters, SITE)
    whole: Any = CAA().fit(model, letters, SITE).edits[0].intervention
    acts: list[Any] = [edit.intervention for edit in plan.edits]
    assert [act.site.layer for act in acts] == [1, 2, 3]
    assert torch.allclose(sum(act.vector for act in acts), whole.vector, atol=1e-4)


def test_the_controllers_layers_at_half_weight_make_up_the_dose(
    model: Model, letters: Contrast
) -> None:
    plan = Controller(n_steps=2).fit(model, letters, SITE)
    acts: list[Any] = [edit.intervention for edit in plan.edits]
    shares = [float(act.vector.norm()) / typical_norm(model, act.site) for act in acts]
    assert shares == pytest.approx([2 * 0.5 / 3] * 3, rel=1e-4)


def test_the_controllers_loss_is_its_codes(model: Model, letters: Contrast) -> None:
    learner = Controller(n_steps=2, batch_size=5).learner(model, letters, SITE)
    fitting: Any = learner.fitting
    turn = learner.turn()
    found = float(fitting.loss(turn).loss.detach())
    x, labels = fitting._rows[turn.rows], fitting._labels[turn.rows]
    logits = fitting.out(torch.relu(fitting.hidden(x))).detach()
    told = functional.binary_cross_entropy(torch.sigmoid(logits[:, 0]), labels)
    weights = torch.sigmoid(logits[labels > 0.5, 1:])
    held = 0.1 * ((weights - 0.5).abs().mean() + 0.01 * weights.mean()) if len(weights) else 0.0
    assert found == pytest.approx(float(told + held), rel=1e-4)
