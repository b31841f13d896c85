"""Feature nodes, TCAV, voids and neurofeedback: brute force, planted truths and hand counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError, DataError, DimensionError
from saesteer.localize import TCAV, FeatureNodes, Neurofeedback, Ranking, Voids
from saesteer.localize.pairs import prompt_pairs, run
from saesteer.localize.tcav import text_gradients
from saesteer.localize.voids import activity
from saesteer.methods.directions import Sides
from saesteer.models import Model, Site, install
from saesteer.saes import SAE


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def sae(tiny_sae: Callable[..., SAE], model: Model) -> SAE:
    return tiny_sae(model, "resid_post.1")


@pytest.fixture(scope="module")
def letters() -> Contrast:
    return Contrast.from_texts(
        [f"aa ee {i} aaa" for i in range(10)], [f"zz xx {i} zzz" for i in range(10)], name="letters"
    )


def test_an_ablated_node_is_the_sae_spliced_in_without_it(
    model: Model, sae: SAE, swaps: Contrast
) -> None:
    ranked = FeatureNodes(sae, n_exact=3).rank(model, swaps)
    assert [place.exact is not None for place in ranked.places[:4]] == [True, True, True, False]
    for place in ranked.places[:3]:
        falls = []
        for pair in prompt_pairs(model, swaps):

            def splice(resid: torch.Tensor, feature: int = place.index or 0) -> torch.Tensor:
                latents = sae.encode(resid)
                error = resid - sae.decode(latents)
                latents[..., feature] = 0
                return sae.decode(latents) + error

            with torch.no_grad():
                plain = pair.metric(run(model, pair.clean))
                falls.append(
                    float(plain - pair.metric(run(model, pair.clean, [(sae.site, splice)])))
                )
        assert place.exact == pytest.approx(sum(falls) / len(falls), abs=1e-3)


def test_small_nodes_are_attributed_what_they_take_away(
    model: Model, sae: SAE, swaps: Contrast
) -> None:
    small = replace(sae, w_dec=sae.w_dec * 1e-2)
    for place in FeatureNodes(small, n_exact=5).rank(model, swaps).places[:5]:
        assert place.score == pytest.approx(place.exact, rel=0.15, abs=1e-4)


def test_text_gradients_are_slopes_of_the_log_likelihood(model: Model, letters: Contrast) -> None:
    held = letters.split("validation")
    site, step = Site(1, "resid_post"), 1e-2
    grads = text_gradients(model, held, [site])[site]
    direction = functional.normalize(torch.randn(model.d_model), dim=0)
    for row, example in enumerate(held.positives):
        ids = model.tokenizer(example.text, add_special_tokens=False)["input_ids"]
        own = torch.tensor([ids])

        def likelihood(by: float, own: torch.Tensor = own) -> float:
            handle = install(model.layout.point(site), lambda h: h + by * direction)
            with torch.no_grad():
                logits = model.hf(own).logits[0, :-1].log_softmax(-1)
            handle.remove()
            return float(logits.gather(-1, own[0, 1:, None]).sum())

        slope = (likelihood(step) - likelihood(-step)) / (2 * step)
        assert float(grads[row] @ direction) == pytest.approx(slope, rel=0.05, abs=0.05)


@pytest.fixture
def tcav_on(
    model: Model, letters: Contrast, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ranking]:
    """Ranks sites by train texts and gradients made by hand."""

    def ranked(rows: dict[Site, torch.Tensor], grads: dict[Site, torch.Tensor]) -> Ranking:
        half = {site: len(each) // 2 for site, each in rows.items()}
        sides = {s: Sides(each[: half[s]], each[half[s] :]) for s, each in rows.items()}
        monkeypatch.setattr("saesteer.localize.tcav.sites_of", lambda *_: [*rows])
        monkeypatch.setattr("saesteer.localize.tcav.read_sides", lambda *_: sides)
        monkeypatch.setattr("saesteer.localize.tcav.text_gradients", lambda *_: grads)
        return TCAV(n_runs=30).rank(model, letters)

    return ranked


def test_a_concept_that_raises_its_texts_is_found_and_significant(tcav_on: Callable) -> None:
    """At one site of three both the labels and the gradients go along one direction."""
    draws = torch.Generator().manual_seed(0)
    sites = [Site(layer, "resid_post") for layer in range(3)]
    rows = {site: torch.randn(60, 16, generator=draws) for site in sites}
    grads = {site: torch.randn(60, 16, generator=draws) for site in sites}
    rows[sites[2]][:30, 0] += 2.0
    grads[sites[2]][:, 0] += 2.0
    ranked = tcav_on(rows, grads)
    best = ranked[0]
    assert best.site == sites[2]
    assert best.score > 0.2
    assert best.p_value == pytest.approx(1 / 31)
    assert all(place.p_value > 0.05 for place in ranked.places[1:])


def test_tcav_on_a_real_gradient_gives_probabilities(model: Model, letters: Contrast) -> None:
    places = TCAV(n_runs=3).rank(model, letters).places
    assert len(places) == model.n_layers
    assert all(-1 <= p.score <= 1 and p.p_value is not None and 0 < p.p_value <= 1 for p in places)


def test_labels_that_say_nothing_are_seldom_significant(tcav_on: Callable) -> None:
    """Gradients with a direction in common, as those of texts have, and labels drawn at random."""
    site, low, n = Site(0, "resid_post"), 0, 40
    for seed in range(n):
        draws = torch.Generator().manual_seed(seed)
        rows = torch.randn(24, 16, generator=draws)
        grads = torch.randn(20, 16, generator=draws) + torch.randn(16, generator=draws)
        (place,) = tcav_on({site: rows}, {site: grads}).places
        low += place.p_value < 0.05
    assert low <= 0.1 * n


def test_the_name_of_a_contrast_is_none(model: Model) -> None:
    rank: Any = Voids().rank
    with pytest.raises(ContrastError, match="a str is no contrast"):
        rank(model, "sentiment")


def test_layers_are_void_where_the_norm_changes_little_beside_what_it_did() -> None:
    norms = torch.tensor([[1.0, 10.0], [11.0, 11.0], [12.0, 15.0], [20.0, 15.1]])
    expected = [[True, True], [False, True], [True, False]]
    assert activity(norms, 0.2).tolist() == expected


def test_voids_are_shares_of_tokens(model: Model, letters: Contrast) -> None:
    ranked = Voids().rank(model, letters)
    assert ranked.score("resid_post.0") == 1.0
    assert all(0 <= place.score <= 1 for place in ranked.places)
    everywhere = Voids(threshold=0.0).rank(model, letters)
    assert {place.score for place in everywhere.places} == {1.0}
    with pytest.raises(DataError, match="letters has no tokens of the prompt to trace"):
        Voids(phase="prompt").rank(model, letters)


@pytest.mark.parametrize("axis", ["logistic", "principal"])
def test_feedback_is_a_standardised_projection_cut_at_the_median(axis: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shift = 6 * functional.normalize(torch.randn(8, generator=generator), dim=0)
    rows = [torch.randn(50, 8, generator=generator) + sign * shift for sign in (1, -1)]
    found = Neurofeedback(axis=axis).readout(Site(0, "resid_post"), Sides(*rows))  # type: ignore[arg-type]
    scores = found.scores(torch.cat(rows))
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(scores.std()) == pytest.approx(1.0, abs=1e-3)
    assert float(functional.cosine_similarity(found.direction, shift, dim=0)) > 0.9
    assert found.labels(rows[0]).float().mean() > 0.9 > 0.1 > found.labels(rows[1]).float().mean()


def test_neurofeedback_ranks_sites_by_held_out_texts(model: Model, letters: Contrast) -> None:
    places = Neurofeedback().rank(model, letters).places
    assert len(places) == model.n_layers
    assert places[0].score == max(place.score for place in places) > 0.5


def test_errors(
    model: Model, sae: SAE, tiny_sae: Callable[..., SAE], swaps: Contrast, letters: Contrast
) -> None:
    wide = replace(tiny_sae(model, "neurons.1"), site=sae.site)
    with pytest.raises(DimensionError, match="of width 64"):
        FeatureNodes(wide).rank(model, swaps)
    with pytest.raises(DataError, match="TCAV: 6 and 6 train texts for 1 runs"):
        TCAV(n_runs=1).rank(model, letters)
