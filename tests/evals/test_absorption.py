"""Absorption is found where it was planted, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from planted import D_MODEL, D_SAE, concept, decoder, noise, of_latents, wobble

from saesteer.evals import absorption
from saesteer.evals.absorption import main_latents, measure_absorption
from saesteer.evals.perturbation import perturbations, without
from saesteer.evals.probing import Probe, dense_probe

MAIN, ABSORBER = 4, 20
N = 160


def absorbed_concept(write: bool = True):
    """A quarter of the positives have another latent than the main one, alike in direction."""
    positive = torch.arange(N) % 2 == 0
    taken = positive & (torch.arange(N) % 16 >= 12)
    latents = noise(N, 0)
    latents[:, ABSORBER] = 0
    latents[:, MAIN] = wobble(N, 1) * (positive & ~taken)
    latents[:, ABSORBER] = 2 * wobble(N, 2) * taken
    w_dec = decoder()
    w_dec[ABSORBER] = 0
    w_dec[ABSORBER, [MAIN, 5] if write else [5]] = 0.7
    resid = latents @ w_dec
    if not write:
        resid[:, MAIN] += 1.0 * taken  # the concept is in the residual, in no latent
    return replace(of_latents(latents, positive), resid=resid), w_dec


def share_taken(pooled) -> float:
    test = pooled.sample("latents", "test")
    return float((test.rows[test.positive, MAIN] == 0).double().mean())


def test_planted_absorption_is_found():
    pooled, w_dec = absorbed_concept()
    found = measure_absorption(pooled, along_main(), w_dec)
    assert found.main == (MAIN,)
    assert found.n_judged == N // 8
    assert 0 < found.silent == found.absorbed == found.absorption_fraction == share_taken(pooled)
    assert found.absorbers == (ABSORBER,)


def along_main() -> Probe:
    """The probe that reads the concept itself; a fitted one would lean towards the absorber."""
    weight = torch.zeros(D_MODEL, dtype=torch.float64)
    weight[MAIN] = 1.0
    return Probe(weight, -0.5)


def test_a_latent_across_the_probe_takes_nothing_over():
    pooled, w_dec = absorbed_concept(write=False)
    found = measure_absorption(pooled, along_main(), w_dec)
    assert found.silent == share_taken(pooled) > 0
    assert (found.absorbed, found.absorption_fraction, found.absorbers) == (0, 0, ())


def test_a_latent_that_only_grazes_the_probe_takes_nothing_over():
    pooled, w_dec = absorbed_concept()
    w_dec[ABSORBER, 5] = 60.0
    found = measure_absorption(pooled, along_main(), w_dec)
    assert found.silent == share_taken(pooled)
    assert (found.absorbed, found.absorption_fraction) == (0, 0)


def test_a_latent_beside_a_main_one_that_fires_has_taken_nothing_over(monkeypatch):
    monkeypatch.setattr(absorption, "main_latents", lambda _: [MAIN])
    pooled, w_dec = absorbed_concept()
    latents = pooled.latents.clone()
    latents[:, ABSORBER] += 3 * (latents[:, MAIN] > 0.5)
    pooled = replace(pooled, latents=latents, resid=latents @ w_dec)
    found = measure_absorption(pooled, along_main(), w_dec)
    assert found.absorbed == found.silent == share_taken(pooled)
    assert found.absorption_fraction > found.absorbed


def test_what_every_text_shares_changes_nothing():
    pooled, w_dec = absorbed_concept()
    before = measure_absorption(pooled, along_main(), w_dec)
    latents = pooled.latents.clone()
    latents[:, 25] = 40.0
    shift = 40 * w_dec[25]
    pooled = replace(pooled, latents=latents, resid=pooled.resid + shift)
    probe = Probe(along_main().weight, along_main().bias - float(shift[MAIN]))
    assert measure_absorption(pooled, probe, w_dec) == before


def test_a_concept_of_one_latent_is_not_absorbed():
    pooled = concept({MAIN: 1.0})
    found = measure_absorption(pooled, dense_probe(pooled), decoder())
    assert (found.main, found.silent, found.absorbed) == ((MAIN,), 0, 0)
    assert found.absorption_fraction == 0


def test_two_halves_of_a_concept_are_two_main_latents():
    positive = torch.arange(N) % 2 == 0
    first = positive & (torch.arange(N) % 16 < 8)
    latents = noise(N, 0)
    latents[:, 3], latents[:, 6] = wobble(N, 1) * first, wobble(N, 2) * (positive & ~first)
    assert set(main_latents(of_latents(latents, positive))) == {3, 6}


def test_texts_that_the_probe_gets_wrong_are_not_judged():
    pooled, w_dec = absorbed_concept()
    found = measure_absorption(pooled, Probe(along_main().weight, -100.0), w_dec)
    assert (found.n_judged, found.silent, found.absorbed) == (0, None, None)
    assert json.loads(json.dumps(found.to_dict()))["absorption_fraction"] is None


def test_ablating_takes_out_these_latents_contribution_and_no_more():
    pooled = concept({MAIN: 1.0})
    test = pooled.sample("latents", "test")
    rows = test.rows.clone()
    rows[:, [MAIN, 9]] = 0
    torch.testing.assert_close(without(pooled, [MAIN, 9], decoder()).rows, rows @ decoder())


def test_separate_concepts_fall_alone():
    concepts = [concept({2: 1.0}, name="a"), concept({8: 1.0}, seed=1, name="b")]
    probes = [dense_probe(c) for c in concepts]
    found = perturbations(concepts, probes, decoder(), ks=(1,))[0]
    assert found.latents == ((2,), (8,))
    assert found.own == pytest.approx(0.5, abs=0.1)
    assert abs(found.others) <= 0.05
    assert found.tpp == found.own - found.others


def test_concepts_of_one_latent_fall_together():
    concepts = [concept({2: 1.0}, name="a"), concept({2: 1.0}, seed=1, name="b")]
    found = perturbations(concepts, [dense_probe(c) for c in concepts], decoder(), ks=(1,))[0]
    assert found.own == pytest.approx(found.others, abs=0.1)
    assert abs(found.tpp) < 0.1 < found.own


def test_a_single_concept_has_no_others():
    pooled = concept({2: 1.0})
    found = perturbations([pooled], [dense_probe(pooled)], decoder())
    assert [step.tpp for step in found] == [None] * 5
    assert json.loads(json.dumps(found[0].to_dict()))["own"] > 0.3
    assert len(found[-1].latents[0]) <= D_SAE
