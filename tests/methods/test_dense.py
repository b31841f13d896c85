"""CAA, ActAdd and the random direction: their formulas, read off the activations they change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError, ContrastError, SiteError
from saesteer.features.activations import prefix_ids, read_activations
from saesteer.methods import (
    CAA,
    CAST,
    FASB,
    ActAdd,
    BroadSkills,
    DynamicActivationComposition,
    LinearProbe,
    MassMean,
    PersonaVectors,
    RandomDirection,
    RepE,
    default_site,
    difference_in_means,
)
from saesteer.methods.base import DOSE, of_norm
from saesteer.models import Model, Site, record
from saesteer.steer import Plan
from saesteer.steer.norms import typical_norm

SITE = Site.parse("resid_post.2")
TEXT = "some words of no kind"


def moved(model: Model, plan: Plan, prompt_length: int, site: Site = SITE) -> Tensor:
    """What a plan adds to the residual of `TEXT` at a site, `[pos, d_model]`."""
    batch = model.tokenize(TEXT)
    clean = record(model, batch, [site])[site][0]
    after = Site(site.layer + 1, "resid_pre")
    with plan.on(model, prompt_lengths=[prompt_length]):
        return record(model, batch, [after])[after][0] - clean


def test_caa_is_the_difference_of_per_example_means(model: Model, letters: Contrast) -> None:
    train = letters.split("train")
    sides = [
        torch.stack([rows.mean(0) for rows in read_activations(model, side, SITE)]).mean(0)
        for side in (train.positives, train.negatives)
    ]
    assert torch.allclose(difference_in_means(model, letters, SITE), sides[0] - sides[1], atol=1e-5)


def test_caa_adds_one_vector_where_tokens_are_generated(model: Model, letters: Contrast) -> None:
    plan = CAA().fit(model, letters, SITE)
    vector = difference_in_means(model, letters, SITE)
    change = moved(model, plan * 2.0, prompt_length=4)
    assert len(change) > 4
    assert torch.equal(change[:3], torch.zeros_like(change[:3]))
    assert torch.allclose(change[3:], 2 * vector.expand_as(change[3:]), atol=1e-3)


@pytest.mark.parametrize(
    "method",
    [
        *(MassMean(), LinearProbe(), RepE(), PersonaVectors(), CAST(), FASB()),
        *(BroadSkills(layers=[SITE.layer]), DynamicActivationComposition()),
        *(CAA(dose=0.4), RepE(dose=0.4, layers=[0, 1])),
    ],
    ids=repr,
)
def test_a_direction_without_a_strength_of_its_own_is_added_at_a_dose(
    model: Model, letters: Contrast, method: Any
) -> None:
    acts: list[Any] = [e.intervention for e in method.fit(model, letters, SITE).edits]
    shares = [float(act.vector.norm()) / typical_norm(model, act.site) for act in acts]
    wanted = getattr(method, "dose", DOSE)
    assert sum(shares) == pytest.approx(wanted, rel=1e-4)
    assert shares == pytest.approx([wanted / len(acts)] * len(acts), rel=1e-4)


def test_a_dose_keeps_the_direction_and_must_be_positive(model: Model, letters: Contrast) -> None:
    raw = difference_in_means(model, letters, SITE)
    act: Any = CAA(dose=0.25).fit(model, letters, SITE).edits[0].intervention
    assert float(torch.cosine_similarity(raw, act.vector, dim=0)) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ConfigError, match="CAA: dose is 0.0, expected a number above 0"):
        CAA(dose=0.0).fit(model, letters, SITE)


def test_only_the_train_split_is_read(model: Model, letters: Contrast) -> None:
    kept = tuple(e for e in letters.examples if e.split == "train")
    assert torch.equal(
        difference_in_means(model, letters, SITE),
        difference_in_means(model, Contrast(kept), SITE),
    )


def test_a_contrast_without_a_difference_has_no_direction(model: Model) -> None:
    same = Contrast.from_texts(["the sé"] * 5, ["the sü"] * 5, name="same")  # both unknown
    with pytest.raises(ContrastError, match="same: positives and negatives have the same mean"):
        CAA().fit(model, same, SITE)


@pytest.mark.parametrize("method", [CAA(), ActAdd(), RandomDirection()])
def test_a_site_that_does_not_exist_is_refused(
    model: Model, letters: Contrast, method: CAA | ActAdd | RandomDirection
) -> None:
    with pytest.raises(SiteError, match="layer 40 does not exist"):
        method.fit(model, letters, "resid_post.40")


def test_the_default_site_is_a_third_of_the_way(model: Model, letters: Contrast) -> None:
    assert default_site(model) == Site(0, "resid_post")
    assert CAA().fit(model, letters).edits[0].intervention.site == default_site(model)


def test_fitting_leaves_the_model_alone(model: Model, letters: Contrast) -> None:
    before = model.forward(model.tokenize(TEXT))
    for method in (CAA(), ActAdd(), RandomDirection()):
        method.fit(model, letters, SITE)
    assert torch.equal(model.forward(model.tokenize(TEXT)), before)


def test_actadd_adds_each_positions_own_difference(model: Model, letters: Contrast) -> None:
    plan = ActAdd("in a", "of z", coefficient=2.0).fit(model, letters, SITE)
    sides = [record(model, model.tokenize(text), [SITE])[SITE][0] for text in ("in a", "of z")]
    width = min(len(side) for side in sides)
    change = moved(model, plan, prompt_length=9)[:width]
    assert len(change) == width >= 3
    assert torch.allclose(change, 2 * (sides[0][:width] - sides[1][:width]), atol=1e-3)


def test_actadd_pads_the_shorter_prompt_with_spaces(model: Model, letters: Contrast) -> None:
    long, short = "in the town", "s"
    n_long = len(prefix_ids(model)) + len(model.tokenizer(long, add_special_tokens=False).input_ids)
    plan = ActAdd(long, short).fit(model, letters, SITE)
    change = moved(model, plan, prompt_length=9)
    assert bool((change[n_long:].norm(dim=-1) == 0).all())
    assert float(change[n_long - 1].norm()) > 0


def test_actadd_told_nothing_takes_the_words_that_differ_as_the_contrast_does(
    model: Model, letters: Contrast
) -> None:
    assert ActAdd("love", "hate").prompts(model, letters, SITE) == ("love", "hate")
    assert ActAdd("love").prompts(model, letters, SITE) == ("love", "zz")
    pairs = [("the aa ee", "the zz xx"), ("m town n", "m sea n"), ("o ee", "o ee p")]
    planted = Contrast(
        tuple(
            Example(text, 1 - side, "train", str(i))
            for i, pair in enumerate(pairs * 2)
            for side, text in enumerate(pair)
        )
    )
    wanted = difference_in_means(model, planted, SITE)
    words = [("aa", "zz"), ("town", "sea"), ("o ee", "o ee p")]
    reads = [[read_activations(model, [w], SITE)[0].mean(0) for w in pair] for pair in words]
    gaps = [float(torch.cosine_similarity(a - b, wanted, dim=0)) for a, b in reads]
    best = words[gaps.index(max(gaps))]
    assert ActAdd().prompts(model, planted, SITE) == best


def test_actadd_of_a_prompt_with_itself_is_refused(model: Model, letters: Contrast) -> None:
    with pytest.raises(ContrastError, match="same activations"):
        ActAdd("love", "love").fit(model, letters, SITE)


def test_a_random_direction_has_caas_norm_and_its_own_way(model: Model, letters: Contrast) -> None:
    act: Any = CAA().fit(model, letters, SITE).edits[0].intervention
    caa = act.vector
    first, again, other = (
        moved(model, RandomDirection(seed).fit(model, letters, SITE), 4)[4] for seed in (0, 0, 1)
    )
    assert float(first.norm()) == pytest.approx(float(caa.norm()), rel=1e-3)
    assert torch.equal(first, again)
    cosines = [torch.cosine_similarity(first, v, dim=0).abs() for v in (other, caa)]
    assert max(cosines) < 0.6


def test_a_random_direction_may_be_given_a_norm(model: Model, letters: Contrast) -> None:
    plan = RandomDirection(3, norm=2.5).fit(model, letters, SITE)
    assert float(moved(model, plan, 4)[4].norm()) == pytest.approx(2.5, rel=1e-3)


@pytest.mark.parametrize("site", ["neurons.1", "head_out.2.1", "head_out.2", "mlp_in.0"])
def test_a_random_direction_is_as_wide_as_its_site(
    model: Model, letters: Contrast, site: str
) -> None:
    act: Any = RandomDirection(norm=1.0).fit(model, letters, site).edits[0].intervention
    assert act.vector.shape == (model.layout.width(Site.parse(site)),)


def test_random_directions_have_no_favourite_axis() -> None:
    drawn = torch.stack(
        [torch.randn(32, generator=torch.Generator().manual_seed(s)) for s in range(200)]
    )
    units = torch.stack([of_norm(row, 1.0) for row in drawn])
    assert torch.allclose(units.norm(dim=-1), torch.ones(200))
    assert float(units.mean(0).norm()) < 0.15
