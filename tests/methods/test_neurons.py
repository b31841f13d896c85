"""Language arithmetics, expert neurons and H-Neurons: which neurons, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, ContrastError, SiteError
from saesteer.features import pooled_activations, read_activations
from saesteer.methods import ExpertNeurons, HNeurons, LanguageArithmetics
from saesteer.methods.expert_neurons import average_precision
from saesteer.methods.h_neurons import contributions
from saesteer.methods.language_arithmetics import own_neurons
from saesteer.methods.sparse_probe import sparse_weights
from saesteer.models import Model, Site
from saesteer.steer import Plan

TEXTS = {
    "a-ish": [f"aa ee {i} aaa" for i in range(6)],
    "z-ish": [f"zz xx {i} zzz" for i in range(6)],
    "m-ish": [f"mm oo {i} mmm" for i in range(6)],
}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("gpt2")


def maps(plan: Plan, model: Model) -> tuple[Tensor, Tensor]:
    """Weight and bias of every neuron, `[layers, neurons]`."""
    width = model.layout.width(Site(0, "neurons"))
    weight, bias = torch.ones(model.n_layers, width), torch.zeros(model.n_layers, width)
    for edit in plan.edits:
        act: Any = edit.intervention
        weight[act.site.layer], bias[act.site.layer] = act.weight, act.bias
    return weight, bias


def read(model: Model, texts: Any, pool: Any) -> Tensor:
    sites = [Site(layer, "neurons") for layer in range(model.n_layers)]
    return torch.stack(list(pooled_activations(model, texts, sites, pool).values()))


def test_a_languages_own_neurons_are_active_in_few_languages() -> None:
    rates = torch.full((3, 1, 100), 0.1)
    rates[:, 0, 0] = 0.9  # active everywhere
    rates[0, 0, 1] = 0.9
    rates[1, 0, 2] = 0.8
    rates[:2, 0, 3] = 0.7  # shared by two
    rates[:, 0, 4] = torch.tensor([0.1, 0.0, 0.0])  # the lowest entropy, but never active
    own = [each[0].nonzero().flatten().tolist() for each in own_neurons(rates, 0.03)]
    assert own == [[1, 3], [2, 3], []]


def test_wanted_neurons_are_raised_by_their_mean_and_unwanted_ones_silenced(model: Model) -> None:
    method = LanguageArithmetics(TEXTS, "a-ish", ["z-ish"], share=0.2)
    weight, bias = maps(method.fit(model, pair()), model)
    rates = torch.stack([read(model, t, "rate").mean(1) for t in TEXTS.values()])
    own = own_neurons(rates, 0.2)
    assert own[0].any()
    assert own[1].any()
    assert torch.equal(weight == 0, own[1])
    typical = torch.where(own[0], read(model, TEXTS["a-ish"], "mean").mean(1), 0.0)
    assert torch.allclose(bias, typical, atol=1e-5)
    everything = maps(LanguageArithmetics(TEXTS, share=0.2).fit(model, pair()), model)[0]
    assert torch.equal(everything == 0, own[1] | own[2])


def pair() -> Contrast:
    return Contrast.from_texts(TEXTS["a-ish"], TEXTS["z-ish"], name="pair")


def test_a_contrasts_sides_are_two_languages(model: Model) -> None:
    train = pair().split("train")
    texts = {
        k: [e.text for e in side] for k, side in (("p", train.positives), ("n", train.negatives))
    }
    for kind in (LanguageArithmetics, ExpertNeurons):
        bare = maps(kind().fit(model, pair()), model)
        named = maps(kind(texts, "p").fit(model, pair()), model)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(bare, named, strict=True))


@pytest.mark.parametrize("kind", [LanguageArithmetics, ExpertNeurons])
def test_languages_without_texts_are_refused(model: Model, kind: Any) -> None:
    for texts, wanted in ((TEXTS, "q-ish"), ({"a": ["a"]}, "a"), ({"a": ["a"], "b": []}, "a")):
        with pytest.raises(ConfigError, match="give texts of it and of at least one more"):
            kind(texts, wanted).fit(model, pair())
    with pytest.raises(ConfigError, match=r"unwanted \['q-ish'\]; choose among the others"):
        LanguageArithmetics(TEXTS, unwanted=["q-ish"]).fit(model, pair())


def test_average_precision_is_sklearns_with_ties() -> None:
    from sklearn.metrics import average_precision_score

    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 5, (30, 7), generator=generator).float()
    values[:, 0] = 0
    positive = torch.arange(30) < 12
    expected = [average_precision_score(positive, column) for column in values.T.numpy()]
    assert torch.allclose(average_precision(values, positive), torch.tensor(expected).float())


def test_experts_at_either_end_are_set_to_their_medians(model: Model) -> None:
    weight, bias = maps(ExpertNeurons(TEXTS, "z-ish", share=0.02).fit(model, pair()), model)
    rows = read(model, [t for each in TEXTS.values() for t in each], "mean")
    wanted = torch.tensor([name == "z-ish" for name in TEXTS for _ in range(6)])
    ap = torch.stack([average_precision(layer, wanted) for layer in rows])
    experts, n = weight == 0, round(0.02 * ap.numel())
    assert 2 * n >= int(experts.sum()) > n
    middle = ap[~experts]
    outer = ap[experts].sort().values
    assert float(outer[:n].max()) <= float(middle.min())
    assert float(outer[n:].min()) >= float(middle.max())
    assert torch.allclose(bias[experts], rows[:, wanted].median(1).values[experts], atol=1e-5)
    assert not bias[~experts].any()


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_contributions_are_cett(tiny_model: Any, arch: str) -> None:
    model = tiny_model(arch)
    example = pair().examples[0]
    found = contributions(model, [example, pair().examples[1]])[0]
    for layer in (0, 3):
        neurons = read_activations(model, [example], Site(layer, "neurons"))[0]
        weight = model.layout.write_weight(Site(layer, "neurons"))
        parts = neurons[:, None, :] * weight
        cett = parts.norm(dim=1) / parts.sum(-1).norm(dim=1, keepdim=True)
        assert torch.allclose(found[layer], cett.mean(0), rtol=1e-3, atol=1e-4)


def test_the_sparse_probe_finds_the_columns_that_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 40, generator=generator)
    labels = rows[:, 3] + rows[:, 11] - rows[:, 20] > 0
    weights = sparse_weights(rows, labels, 0.1)
    assert set((weights > 0).nonzero().flatten().tolist()) == {3, 11}
    assert set((weights < 0).nonzero().flatten().tolist()) == {20}
    assert int((sparse_weights(rows, labels, 1.0) != 0).sum()) > 3


def test_the_unwanted_sides_neurons_are_scaled(model: Model) -> None:
    for alpha in (0.0, 3.0):
        weight, bias = maps(HNeurons(alpha=alpha, share=0.02).fit(model, pair()), model)
        assert 1 <= int((weight != 1).sum()) <= int(0.02 * weight.numel())
        assert set(weight.unique().tolist()) == {1.0, alpha}
        assert not bias.any()
    flipped, _ = maps(HNeurons(remove="positives", share=0.02).fit(model, pair()), model)
    train = pair().split("train")
    cett = [contributions(model, side).mean(0) for side in (train.positives, train.negatives)]
    assert bool((cett[0] > cett[1])[flipped == 0].all())
    assert not bool(((flipped == 0) & (weight != 1)).any())


def test_alike_texts_and_hidden_neurons_are_refused(tiny_model: Any, model: Model) -> None:
    same = Contrast.from_texts(["the sé"] * 5, ["the sü"] * 5, name="same")  # both unknown
    with pytest.raises(ContrastError, match="same: no neuron tells its negatives apart"):
        HNeurons().fit(model, same)
    for kind in (HNeurons, LanguageArithmetics, ExpertNeurons):
        with pytest.raises(SiteError, match="fused parameters"):
            kind().fit(tiny_model("mixtral"), pair())
        with pytest.raises(SiteError, match="layer 40 does not exist"):
            kind().fit(model, pair(), "resid_post.40")
