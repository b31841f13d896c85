"""Sparse probing finds what was planted, on held-out texts, and chance where nothing was."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch
from planted import concept
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from saesteer.evals import probing
from saesteer.evals.probing import dense_probe, fit_probe, sparse_probing

CARRIER = 7


def test_a_planted_latent_is_found_and_the_control_is_at_chance():
    pooled = concept({CARRIER: 1.0})
    found = sparse_probing(pooled, dense_probe(pooled))
    best = found.sparse[0]
    assert [probe.k for probe in found.sparse] == [1, 2, 5, 20]
    assert best.latents == (CARRIER,)
    assert best.score.accuracy.mean == best.score.auroc.mean == 1
    assert found.dense.accuracy.mean == 1
    assert not best.control.auroc.excludes(0.5)
    assert best.above_control.excludes(0)
    assert (found.n_train, found.n_test) == (40, 20)


def test_labels_that_mean_nothing_are_not_learnt():
    pooled = concept({CARRIER: 1.0}, n=400)
    shuffled = pooled.positive[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    pooled = replace(pooled, positive=shuffled)
    found = sparse_probing(pooled, dense_probe(pooled))
    assert not found.dense.auroc.excludes(0.5)
    assert not any(probe.score.auroc.excludes(0.5) for probe in found.sparse)


def test_a_large_dense_latent_does_not_crowd_out_a_small_telling_one():
    pooled = concept({CARRIER: 0.1})
    latents = pooled.latents.clone()
    latents[:, 3] = 50 + 5 * torch.randn(80, generator=torch.Generator().manual_seed(2))
    found = sparse_probing(replace(pooled, latents=latents), dense_probe(pooled), ks=(1,))
    assert (found.sparse[0].ranking, found.sparse[0].latents) == ("cohens_d", (CARRIER,))


def test_a_probe_is_scikit_learn_s_with_its_scaling_folded_in(monkeypatch):
    monkeypatch.setattr(probing, "PENALTIES", (0.1,))
    pooled = concept({CARRIER: 0.3}, seed=4)
    train = pooled.sample("resid", "train")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    pipeline.fit(train.rows.double().numpy(), train.positive.numpy())
    rows = pooled.sample("resid", "test").rows
    ours = dense_probe(pooled).logits(rows).numpy()
    np.testing.assert_allclose(ours, pipeline.decision_function(rows.double().numpy()), rtol=1e-3)


def test_the_penalty_is_chosen_on_validation_texts(monkeypatch):
    pooled = concept({CARRIER: 0.15}, seed=5)
    train, validation = (pooled.sample("latents", split) for split in ("train", "validation"))
    losses = {}
    for c in probing.PENALTIES:
        monkeypatch.setattr(probing, "PENALTIES", (c,))
        losses[c] = probing._log_loss(fit_probe(train, validation), validation)
    monkeypatch.undo()
    chosen = probing._log_loss(fit_probe(train, validation), validation)
    assert chosen == min(losses.values()) < max(losses.values())


def test_test_texts_decide_nothing():
    pooled = concept({CARRIER: 0.2})
    spoiled = pooled.latents.clone()
    spoiled[torch.tensor([split == "test" for split in pooled.splits])] = 9.0
    probe = sparse_probing(pooled, dense_probe(pooled)).sparse[2]
    other = sparse_probing(replace(pooled, latents=spoiled), dense_probe(pooled)).sparse[2]
    assert probe.latents == other.latents
    assert probe.score.accuracy.mean > other.score.accuracy.mean == 0.5


def test_an_sae_that_never_fires_is_at_chance():
    pooled = concept({CARRIER: 1.0})
    dead = replace(pooled, latents=torch.zeros_like(pooled.latents))
    score = sparse_probing(dead, dense_probe(dead), ks=(2,)).sparse[0].score
    assert (score.accuracy.mean, score.auroc.mean) == (0.5, 0.5)


def test_more_latents_than_there_are_means_all():
    pooled = concept({CARRIER: 1.0})
    assert len(sparse_probing(pooled, dense_probe(pooled), ks=(99,)).sparse[0].latents) == 30


def test_the_result_is_json():
    pooled = concept({CARRIER: 1.0})
    found = json.loads(json.dumps(sparse_probing(pooled, dense_probe(pooled)).to_dict()))
    assert found["sparse"][0]["accuracy_ci"] == [1.0, 1.0]
    assert {"accuracy", "auroc", "control", "above_control"} <= set(found["sparse"][0])


def test_labels_weigh_the_same_however_rare():
    n = 1200
    pooled = concept({CARRIER: 1.0}, n=n)
    positive = torch.arange(n) % 11 == 0
    latents = (
        torch.randn(n, 1, generator=torch.Generator().manual_seed(0)) + 2.0 * positive[:, None]
    )
    rare = replace(pooled, latents=latents, positive=positive)
    train, validation, test = (rare.sample("latents", s) for s in ("train", "validation", "test"))
    right = fit_probe(train, validation).correct(test)
    assert float(right[test.positive].double().mean()) > 0.7
    assert float(right[~test.positive].double().mean()) > 0.7
