"""ITI, AurA and Linear-AcT: which heads and neurons they choose, and what they do to them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, ContrastError, SiteError
from saesteer.features import pooled_activations
from saesteer.methods import ITI, AurA, LinearAcT
from saesteer.methods.aura import dampening
from saesteer.methods.directions import Sides, read_sides
from saesteer.methods.transport import transport
from saesteer.models import Model, Site
from saesteer.steer import Plan

N_HEADS, D_HEAD = 4, 8


def acts(plan: Plan) -> dict[str, Any]:
    return {str(edit.intervention.site): edit.intervention for edit in plan.edits}


def pushed(plan: Plan) -> dict[tuple[int, int], Tensor]:
    """What ITI adds to each head that it touches."""
    heads = {
        (edit.site.layer, head): part
        for edit in acts(plan).values()
        for head, part in enumerate(edit.vector.split(D_HEAD))
    }
    return {key: part for key, part in heads.items() if part.norm() > 0}


def hard() -> Contrast:
    """Texts whose label hangs on a letter some way from the end, so that heads differ."""
    draw = random.Random(0)
    texts = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(120)]
    sides = [[t for t in texts if (t[1] in "abcd") == side] for side in (True, False)]
    return Contrast.from_texts(*sides, name="hard")


def test_iti_pushes_the_asked_number_of_heads_by_alpha_sigma_theta(
    model: Model, letters: Contrast
) -> None:
    found = pushed(ITI(top_k=3, alpha=5.0).fit(model, letters))
    assert len(found) == 3
    both = Contrast(tuple(e for e in letters.examples if e.split != "test"))
    for (layer, head), part in found.items():
        site = Site(layer, "head_out", head)
        sides = read_sides(model, both, [site], "last")[site]
        unit = functional.normalize(sides.difference, dim=0)
        sigma = (sides.rows @ unit).std(correction=0)
        assert torch.allclose(part, 5.0 * sigma * unit, rtol=1e-3, atol=1e-4)


def test_iti_takes_the_heads_whose_probes_do_best_on_validation(
    model: Model,
) -> None:
    from sklearn.linear_model import LogisticRegression

    letters = hard()
    kept = pushed(ITI(top_k=4).fit(model, letters))
    accuracy: dict[tuple[int, int], float] = {}
    for layer in range(model.n_layers):
        for head in range(N_HEADS):
            site = Site(layer, "head_out", head)
            train, held = (
                read_sides(model, letters.split(s), [site], "last")[site]
                for s in ("train", "validation")
            )
            rms = float(train.rows.square().mean().sqrt())
            probe = LogisticRegression(max_iter=2000)
            probe.fit((train.rows / rms).numpy(), train.labels.numpy())
            accuracy[layer, head] = probe.score((held.rows / rms).numpy(), held.labels.numpy())
    assert len(set(accuracy.values())) > 3
    worst = min(accuracy[key] for key in kept)
    assert all(accuracy[key] <= worst for key in accuracy if key not in kept)


def test_iti_by_default_takes_the_papers_share_of_heads(model: Model, letters: Contrast) -> None:
    assert len(pushed(ITI().fit(model, letters))) == 1
    probe = pushed(ITI(direction="probe").fit(model, letters))
    mean = pushed(ITI().fit(model, letters))
    assert probe.keys() == mean.keys()
    assert not any(torch.allclose(probe[key], mean[key], rtol=1e-2) for key in mean)
    with pytest.raises(ConfigError, match="ITI: top_k is 17, but tiny-llama has 16 heads"):
        ITI(top_k=17).fit(model, letters)


def test_iti_needs_validation_texts(model: Model, letters: Contrast) -> None:
    train = Contrast(tuple(e for e in letters.examples if e.split == "train"), name="letters")
    with pytest.raises(ContrastError, match=r"letters \(validation split\): it has no examples"):
        ITI().fit(model, train)


def test_dampening_is_the_papers() -> None:
    area = torch.tensor([0.0, 0.5, 0.75, 1.0])
    assert dampening(area).tolist() == [1.0, 1.0, 0.5, 0.0]


@pytest.mark.parametrize("remove", ["negatives", "positives"])
def test_aura_dampens_neurons_by_their_auroc(model: Model, letters: Contrast, remove: Any) -> None:
    from sklearn.metrics import roc_auc_score

    plan = AurA(remove).fit(model, letters)
    train = letters.split("train")
    unwanted = [e.label == (remove == "positives") for e in train.examples]
    for site, act in acts(plan).items():
        peaks = pooled_activations(model, train.examples, [site], "max")[Site.parse(site)]
        areas = [roc_auc_score(unwanted, column) for column in peaks.T.numpy()]
        expected = [1 - 2 * (area - 0.5) if area > 0.5 else 1.0 for area in areas]
        assert torch.allclose(act.weight, torch.tensor(expected).float(), atol=1e-5)
        assert not act.bias.any()
    assert len(acts(plan)) == model.n_layers


def test_both_sides_of_aura_never_dampen_one_neuron(model: Model, letters: Contrast) -> None:
    sides = [acts(AurA(remove).fit(model, letters)) for remove in ("negatives", "positives")]
    for site in sides[0]:
        assert bool(((sides[0][site].weight == 1) | (sides[1][site].weight == 1)).all())


def test_fused_experts_have_no_neurons(tiny_model: Any, letters: Contrast) -> None:
    with pytest.raises(SiteError, match="fused parameters"):
        AurA().fit(tiny_model("mixtral"), letters)


def test_texts_that_no_neuron_tells_apart_are_refused(model: Model) -> None:
    same = Contrast.from_texts(["the sé"] * 5, ["the sü"] * 5, name="same")  # both unknown
    with pytest.raises(ContrastError, match="same: no neuron tells its negatives apart"):
        AurA().fit(model, same)


def test_transport_finds_the_map_between_two_sets_in_any_order() -> None:
    source = torch.randn(15, 3, generator=torch.Generator().manual_seed(0))
    scale, shift = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([1.0, -3.0, 0.0])
    target = (source * scale + shift)[torch.randperm(15)]
    slope, offset = transport(Sides(positive=target, negative=source))
    assert torch.allclose(slope, scale, atol=1e-4)
    assert torch.allclose(offset, shift, atol=1e-4)


def test_transport_is_the_least_squares_line_through_sorted_pairs() -> None:
    generator = torch.Generator().manual_seed(3)
    source, target = torch.randn(2, 9, 1, generator=generator)
    slope, offset = transport(Sides(positive=target, negative=source))
    pairs = [side[:, 0].sort().values.double() for side in (source, target)]
    design = torch.stack([pairs[0], torch.ones(9).double()], 1)
    line = torch.linalg.lstsq(design, pairs[1][:, None]).solution[:, 0]
    assert float(slope) == pytest.approx(float(line[0]), abs=1e-5)
    assert float(offset) == pytest.approx(float(line[1]), abs=1e-5)


def test_transport_of_unequal_sets_and_of_constants() -> None:
    long = torch.linspace(0, 1, 101)[:, None]
    short = 3 * torch.linspace(0, 1, 11)[:, None] + 2
    slope, offset = transport(Sides(positive=short, negative=long))
    assert (float(slope), float(offset)) == pytest.approx((3.0, 2.0), abs=1e-4)
    still = torch.full((5, 1), 4.0)
    slope, offset = transport(Sides(positive=still + 2, negative=still))
    assert (float(slope), float(offset)) == pytest.approx((1.0, 2.0), abs=1e-5)


def test_linear_act_moves_the_negatives_means_to_the_positives_at_every_site(
    model: Model, letters: Contrast
) -> None:
    """Later maps are fitted behind the earlier ones, or the last site would miss."""
    plan = LinearAcT().fit(model, letters)
    train = letters.split("train")
    site = plan.edits[-1].intervention.site
    assert str(site) == f"mlp_out.{model.n_layers - 1}"
    before = Plan(*plan.edits[:-1])
    with before.on(model):
        sides = read_sides(model, train, [site], "mean")[site]
    act: Any = plan.edits[-1].intervention
    assert torch.allclose(act.weight, transport(sides)[0], atol=1e-3)
    mapped = act.weight * sides.negative.mean(0) + act.bias
    assert torch.allclose(mapped, sides.positive.mean(0), atol=1e-2)
    naive = transport(read_sides(model, train, [site], "mean")[site])[0]
    assert not torch.allclose(act.weight, naive, atol=1e-2)
