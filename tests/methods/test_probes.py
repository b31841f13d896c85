"""RepE, the linear probe and the mass mean: their formulas against sklearn's and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, ContrastError, SiteError
from saesteer.features import pooled_activations
from saesteer.methods import CAA, LinearProbe, MassMean, RepE
from saesteer.methods.directions import Sides, isolated, logistic_direction, spanning
from saesteer.methods.repe import pair_direction
from saesteer.models import Model, Site
from saesteer.steer import Plan

SITE = Site.parse("resid_post.2")


def drawn(n: int = 12, width: int = 8, shift: float = 1.5, seed: int = 0) -> Sides:
    """Two clouds, the positives shifted along the first axis."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(2, n, width, generator=generator)
    rows[0, :, 0] += shift
    return Sides(rows[0], rows[1])


def vector(plan: Plan, index: int = 0) -> Tensor:
    act: Any = plan.edits[index].intervention
    return act.vector


def cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a, b, dim=0))


@pytest.mark.parametrize("centred", [True, False])
def test_control_vectors_are_repengs(centred: bool) -> None:
    """pca_diff fits centred differences, pca_center both texts about their pair's middle."""
    from sklearn.decomposition import PCA

    sides = drawn(shift=3.0)
    differences = sides.positive - sides.negative
    halves = torch.cat([differences / 2, -differences / 2])
    fitted = PCA(n_components=1).fit((differences if centred else halves).double().numpy())
    expected = torch.from_numpy(fitted.components_[0]).float()
    got = pair_direction(differences, centred=centred)
    assert abs(cosine(got, expected)) == pytest.approx(1.0, abs=1e-5)
    along = differences @ functional.normalize(got, dim=0)
    assert float((along > 0).float().mean()) >= 0.5
    assert float(got.norm()) == pytest.approx(float(along.square().mean().sqrt()), rel=1e-5)


def test_turning_the_pairs_around_turns_the_vector() -> None:
    differences = drawn(shift=3.0).positive - drawn(shift=3.0).negative
    assert torch.allclose(pair_direction(-differences), -pair_direction(differences), atol=1e-5)


def test_centring_loses_what_all_pairs_share() -> None:
    common = torch.zeros(12, 8)
    common[:, 0] = 5.0
    differences = common + 0.1 * drawn().negative
    assert cosine(pair_direction(differences), common[0]) > 0.99
    assert cosine(pair_direction(differences, centred=True), common[0]) < 0.9


def test_repe_has_a_vector_of_its_own_at_each_layer(model: Model, letters: Contrast) -> None:
    plan = RepE(layers=[0, 2], dose=None).fit(model, letters, SITE)
    assert [str(edit.intervention.site) for edit in plan.edits] == ["resid_post.0", "resid_post.2"]
    alone = RepE(dose=None).fit(model, letters, SITE)
    assert torch.allclose(vector(plan, 1), vector(alone), atol=1e-4)
    pairs = [e for pair in letters.split("train").pairs() for e in pair]
    read = pooled_activations(model, pairs, [SITE], "last")[SITE]
    assert torch.allclose(vector(alone), pair_direction(read[0::2] - read[1::2]), atol=1e-4)


def test_a_layer_or_a_word_that_does_not_exist_is_refused(model: Model, letters: Contrast) -> None:
    with pytest.raises(SiteError, match="layer 9 does not exist"):
        RepE(layers=[1, 9]).fit(model, letters, SITE)
    method = RepE()
    object.__setattr__(method, "centre", "umap")  # past the type checks that tests run under
    with pytest.raises(ConfigError, match="RepE: centre is 'umap', expected one of pca_center"):
        method.__post_init__()


def test_a_probe_is_sklearns_whatever_the_scale() -> None:
    from sklearn.linear_model import LogisticRegression

    sides = drawn(n=40)
    weight, bias = logistic_direction(sides)
    rms = float(sides.rows.square().mean().sqrt())
    probe = LogisticRegression().fit((sides.rows / rms).numpy(), sides.labels.numpy())
    expected = torch.from_numpy(probe.decision_function((sides.rows / rms).numpy())).float()
    assert torch.allclose(sides.rows @ weight + bias, expected, atol=1e-2)
    wide, _ = logistic_direction(Sides(sides.positive * 100, sides.negative * 100))
    assert cosine(weight, wide) == pytest.approx(1.0, abs=1e-4)


def test_without_a_dose_strength_1_carries_one_mean_to_the_other(
    model: Model, letters: Contrast
) -> None:
    train = letters.split("train")
    for method in (LinearProbe(dose=None), MassMean(whiten=True, read="mean", dose=None)):
        read = pooled_activations(model, train.examples, [SITE])[SITE]
        positive = torch.tensor([e.label == 1 for e in train.examples])
        step = vector(method.fit(model, letters, SITE))
        gap = read[positive].mean(0) - read[~positive].mean(0)
        unit = functional.normalize(step, dim=0)
        assert float(unit @ step) == pytest.approx(float(unit @ gap), rel=1e-3)


def test_the_mass_mean_over_tokens_is_caa(model: Model, letters: Contrast) -> None:
    plain = vector(MassMean(read="mean", dose=None).fit(model, letters, SITE))
    assert torch.allclose(plain, vector(CAA().fit(model, letters, SITE)), atol=1e-4)
    assert cosine(plain, vector(MassMean().fit(model, letters, SITE))) < 0.999


def test_whitening_turns_away_from_what_varies_anyway(model: Model) -> None:
    from saesteer.methods.mass_mean import _whitened

    sides = drawn(n=400)
    loud = Sides(sides.positive.clone(), sides.negative.clone())
    for side in loud:
        side[:, 1] *= 20
    loud.positive[:, 1] += 3
    assert abs(cosine(loud.difference, torch.eye(8)[1])) > 0.8
    assert abs(cosine(_whitened(loud), torch.eye(8)[0])) > 0.9


def test_a_projection_on_a_span_is_taken_out_once() -> None:
    others = [torch.eye(4)[0], torch.eye(4)[0] * 2, torch.eye(4)[1] + torch.eye(4)[0]]
    rest = isolated(torch.tensor([1.0, 2.0, 3.0, 4.0]), others, "it")
    assert torch.allclose(rest, torch.tensor([0.0, 0.0, 3.0, 4.0]), atol=1e-6)
    with pytest.raises(ContrastError, match="it: no direction is left"):
        isolated(torch.eye(4)[1], others, "it")


def test_equal_texts_have_no_direction(model: Model) -> None:
    same = Contrast.from_texts(["the sé"] * 5, ["the sü"] * 5, name="same")  # both unknown
    for method in (RepE(), LinearProbe(), MassMean()):
        with pytest.raises(ContrastError, match="same"):
            method.fit(model, same, SITE)
    sides = drawn()
    with pytest.raises(ContrastError, match="don't differ along"):
        spanning(-sides.difference, sides, "it")
