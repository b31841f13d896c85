"""Readouts, concepts and the readers that score many of them at once."""

from __future__ import annotations

import pytest
import torch

from saesteer.errors import ConfigError, DimensionError, FeatureError, SaeError
from saesteer.features.concepts import (
    Concept,
    ConceptReader,
    CosineReadout,
    FeatureReadout,
    ProbeReadout,
    Readout,
    concept_readers,
)
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE

SITE, LATER = Site(1, "resid_post"), Site(3, "resid_post")
D_MODEL, D_SAE = 6, 12


@pytest.fixture
def sae() -> SAE:
    """Random weights in threshold form."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    return SAE(
        normal(D_MODEL, D_SAE),
        normal(D_SAE),
        normal(D_SAE, D_MODEL),
        normal(D_MODEL),
        torch.full((D_SAE,), 0.5),
        SITE,
    )


@pytest.fixture
def resid() -> torch.Tensor:
    """Two rows of five tokens."""
    return torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(1))


def _one(readout: Readout, sae: SAE | None = None) -> ConceptReader:
    return concept_readers([Concept("c", readout, 0.0)], sae)[0]


def test_a_feature_is_scored_as_the_full_encoder_scores_it(sae: SAE, resid: torch.Tensor) -> None:
    scores = _one(FeatureReadout((7,)), sae).scores(resid)
    assert scores.shape == (2, 5, 1)
    torch.testing.assert_close(scores[..., 0], sae.encode(resid)[..., 7])
    assert (scores == 0).any()
    assert (scores > 0.5).any()


def test_weighted_features_add_up(sae: SAE, resid: torch.Tensor) -> None:
    scores = _one(FeatureReadout((7, 2), (0.7, -0.3)), sae).scores(resid)
    latents = sae.encode(resid)
    torch.testing.assert_close(scores[..., 0], 0.7 * latents[..., 7] - 0.3 * latents[..., 2])


def test_cosine_ignores_length_of_both(resid: torch.Tensor) -> None:
    vector = torch.arange(1.0, 7.0)
    scores = _one(CosineReadout(SITE, vector)).scores(resid)
    expected = torch.nn.functional.cosine_similarity(resid, vector, dim=-1)
    torch.testing.assert_close(scores[..., 0], expected)
    again = _one(CosineReadout(SITE, 5 * vector)).scores(3 * resid)
    torch.testing.assert_close(again, scores)
    assert _one(CosineReadout(SITE, vector)).scores(torch.zeros(1, 1, D_MODEL)).item() == 0.0


def test_a_probe_gives_its_logit(resid: torch.Tensor) -> None:
    weight = torch.arange(6.0)
    scores = _one(ProbeReadout(SITE, weight, -0.5)).scores(resid)
    torch.testing.assert_close(scores[..., 0], resid @ weight - 0.5)


def test_many_concepts_are_read_together_as_each_alone(sae: SAE, resid: torch.Tensor) -> None:
    readouts = [
        CosineReadout(SITE, torch.arange(1.0, 7.0)),
        FeatureReadout((3,)),
        ProbeReadout(LATER, torch.ones(6)),
        FeatureReadout((3, 9), (0.5, 0.5)),
        ProbeReadout(SITE, torch.ones(6), 1.0),
    ]
    concepts = [Concept(f"c{i}", readout, 0.0) for i, readout in enumerate(readouts)]
    readers = concept_readers(concepts, sae)
    assert [reader.site for reader in readers] == [SITE, LATER]
    assert readers[0].features is not None
    assert readers[0].features.features == (3, 9)
    seen: list[int] = []
    for reader in readers:
        scores = reader.scores(resid)
        for column, index in enumerate(reader.concepts):
            alone = _one(readouts[index], sae).scores(resid)[..., 0]
            torch.testing.assert_close(scores[..., column], alone)
            seen.append(index)
    assert sorted(seen) == list(range(5))


def test_scores_are_fp32_whatever_the_activations_are(sae: SAE, resid: torch.Tensor) -> None:
    readouts = [FeatureReadout((1,)), ProbeReadout(SITE, torch.ones(6))]
    concepts = [Concept(f"c{i}", readout, 0.0) for i, readout in enumerate(readouts)]
    reader = concept_readers(concepts, sae.to(dtype=torch.bfloat16))[0]
    assert reader.scores(resid.bfloat16()).dtype == torch.float32


def test_readouts_name_themselves() -> None:
    assert str(FeatureReadout((12,))) == "feature 12"
    assert str(FeatureReadout((12, 88), (0.7, 0.3))) == "0.7·feature 12 + 0.3·feature 88"
    assert str(ProbeReadout(SITE, torch.ones(2))) == "probe at resid_post.1"
    assert str(CosineReadout(SITE, torch.ones(2))) == "cosine at resid_post.1"


def test_what_cannot_be_read_is_refused(sae: SAE) -> None:
    with pytest.raises(SaeError, match="concept c reads features but no SAE was given"):
        _one(FeatureReadout((1,)))
    with pytest.raises(FeatureError, match="feature 12 does not exist"):
        _one(FeatureReadout((12,)), sae)
    with pytest.raises(DimensionError, match=r"direction of width 5, got activations of width 6"):
        _one(ProbeReadout(SITE, torch.ones(5))).scores(torch.zeros(1, 1, 6))
    both = [Concept(f"c{n}", ProbeReadout(SITE, torch.ones(n)), 0.0) for n in (5, 6)]
    with pytest.raises(DimensionError, match=r"widths \[5, 6\]"):
        concept_readers(both)


def test_readouts_and_concepts_check_themselves() -> None:
    with pytest.raises(ConfigError, match="2 features with 1 weights"):
        FeatureReadout((1, 2))
    with pytest.raises(ConfigError, match="at least one feature"):
        FeatureReadout((), ())
    with pytest.raises(ConfigError, match="names a feature twice"):
        FeatureReadout((1, 1), (0.5, 0.5))
    with pytest.raises(ConfigError, match="has norm 0"):
        CosineReadout(SITE, torch.zeros(3))
