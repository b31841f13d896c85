"""Concepts fitted to labelled texts find what was planted, at every grain and by every kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from saesteer.data.concept_data import ConceptData
from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError, ContrastError
from saesteer.features.activations import read_activations
from saesteer.features.concept_rows import read_rows, read_texts
from saesteer.features.concept_train import KINDS, FitSettings, best_of, fit_concepts
from saesteer.features.concepts import concept_readers
from saesteer.features.fitting import ReadoutKind
from saesteer.features.negatives import add_negatives
from saesteer.features.readouts import FeatureReadout
from saesteer.models.sites import Site

SITE, PLANTED = Site(0, "resid_pre"), 11
NAMES = ["day", "meal", "road", "house", "song", "walk", "letter", "boat", "room", "chair"] * 2
CONTRAST = Contrast.from_texts(
    [f"a zzz {n} {i}" for i, n in enumerate(NAMES)], [f"a qqq {n} {i}" for i, n in enumerate(NAMES)]
)
WHOLE = ConceptData("z", CONTRAST.examples)


def spanned() -> ConceptData:
    spans = tuple(((2, 5),) if e.label == 1 else () for e in CONTRAST.examples)
    return ConceptData("z", CONTRAST.examples, spans)


@pytest.fixture(scope="module")
def planted(tiny_model: Any, tiny_sae: Any) -> tuple[Any, Any]:
    """A model, and an SAE one of whose features reads how texts with and without zzz differ."""
    model = tiny_model("llama")
    sae = tiny_sae(model, SITE)
    sides = [
        torch.cat(read_activations(model, side, SITE)).mean(0)
        for side in (CONTRAST.positives, CONTRAST.negatives)
    ]
    direction = torch.nn.functional.normalize(sides[0] - sides[1], dim=0)
    w_enc, b_enc = sae.w_enc.clone(), sae.b_enc.clone()
    w_enc -= direction.unsqueeze(1) * (direction @ w_enc)
    w_enc[:, PLANTED] = direction * 5
    middle = (sides[0] + sides[1]) / 2 - (sae.b_dec if sae.apply_b_dec_to_input else 0)
    b_enc[PLANTED] = -5 * (middle @ direction)
    return model, replace(sae, w_enc=w_enc, b_enc=b_enc)


@pytest.mark.parametrize("data", [WHOLE, spanned()], ids=["texts", "spans"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_tells_a_planted_concept_apart(
    planted: tuple[Any, Any], data: ConceptData, kind: ReadoutKind
) -> None:
    ((fitted,),) = fit_concepts(*planted, [data], FitSettings((kind,))).values()
    test = fitted.scores["test"]
    assert test.auroc.mean > 0.95
    assert test.balanced_accuracy > 0.8
    assert fitted.concept.aggregate == ("prompt" if data.spans is None else "token")


def test_the_single_feature_is_the_planted_one(planted: tuple[Any, Any]) -> None:
    ((fitted,),) = fit_concepts(*planted, [WHOLE], FitSettings(("feature",))).values()
    assert fitted.concept.readout == FeatureReadout((PLANTED,))


def test_turned_labels_find_another_feature_and_not_the_same_one_backwards(
    planted: tuple[Any, Any],
) -> None:
    turned = tuple(replace(e, label=1 - e.label) for e in CONTRAST.examples)
    found = fit_concepts(*planted, [ConceptData("q", turned)], FitSettings(("feature",)))
    assert found["q"][0].concept.readout != FeatureReadout((PLANTED,))


def test_scores_are_those_that_a_plan_would_read(planted: tuple[Any, Any]) -> None:
    model, sae = planted
    ((fitted,),) = fit_concepts(model, sae, [WHOLE], FitSettings(("features",))).values()
    (reader,) = concept_readers([fitted.concept], sae)
    test = CONTRAST.split("test")
    scores, labels = [], []
    limit = 4 * torch.cat(read_activations(model, WHOLE.examples, SITE)).norm(dim=-1).median()
    for example in test.examples:
        (resid,) = read_activations(model, [example], SITE)
        kept = resid[resid.norm(dim=-1) <= limit]
        scores.append(float(reader.scores(kept[None]).mean()))
        labels.append(example.label == 1)
    above = torch.tensor(scores) > fitted.concept.threshold
    truth = torch.tensor(labels)
    assert fitted.scores["test"].recall == pytest.approx(float(above[truth].float().mean()))
    assert fitted.scores["test"].fall_out == pytest.approx(float(above[~truth].float().mean()))


def test_only_labelled_tokens_are_positive(planted: tuple[Any, Any]) -> None:
    model, _ = planted
    rows = read_rows(model, spanned(), SITE, "mean")
    (example, labels) = CONTRAST.examples[0], rows.positive[0]
    ids = model.tokenizer(example.text, add_special_tokens=False)["input_ids"]
    marked = [model.tokenizer.decode([i]) for i, on in zip(ids, labels, strict=True) if on]
    assert "".join(marked).replace(" ", "") == "zzz"


def test_a_threshold_can_be_fixed_or_kept_to_a_budget(planted: tuple[Any, Any]) -> None:
    fixed = fit_concepts(*planted, [WHOLE], FitSettings(("probe",), aim=1.5))["z"][0]
    assert fixed.concept.threshold == 1.5
    strict = FitSettings(("probe",), aim="false_positives", budget=0.0)
    kept = fit_concepts(*planted, [WHOLE], strict)["z"][0]
    assert kept.scores["validation"].fall_out == 0
    with pytest.raises(ConfigError, match="false-positive budget of 2"):
        fit_concepts(*planted, [WHOLE], replace(strict, budget=2.0))


def test_confidence_rises_with_the_score(planted: tuple[Any, Any]) -> None:
    fitted = fit_concepts(*planted, [WHOLE], FitSettings(("feature",)))["z"][0]
    sure = fitted.confidence(torch.tensor([-10.0, fitted.concept.threshold, 10.0]))
    assert sure[0] < sure[1] < sure[2]


def test_the_most_readable_of_the_best_is_chosen(planted: tuple[Any, Any]) -> None:
    fitted = fit_concepts(*planted, [WHOLE])["z"]
    assert [one.kind for one in fitted] == list(KINDS)
    best = best_of(fitted)
    top = max(one.scores["validation"].auroc.mean for one in fitted)
    better = fitted[: KINDS.index(best.kind)]
    assert best.scores["validation"].auroc.mean >= top - 0.01
    assert all(one.scores["validation"].auroc.mean < top - 0.01 for one in better)


def test_negatives_come_from_other_concepts_in_their_splits_and_near_ones_first(
    planted: tuple[Any, Any],
) -> None:
    model, _ = planted
    own = ConceptData("z", CONTRAST.positives[:4])
    near = [Example(f"a zzz {n} too", 1, "train") for n in ("cat", "dog", "cow", "hen")]
    far = [Example(f"qqq qqq {i}", 1, "train") for i in range(30)]
    other = ConceptData("other", (*near, *far, Example("a qqq end", 1, "test")))
    seen = read_texts(model, [*own.examples, *other.examples], SITE)
    made = add_negatives(own, [other], seen)
    added = made.examples[len(own.examples) :]
    assert all(e.label == 0 for e in added)
    assert {e.split for e in added} <= {"train", "test"}
    n_train = sum(e.split == "train" for e in own.examples)
    train = [e.text for e in added if e.split == "train"]
    assert len(train) == 2 * n_train
    assert set(train[:n_train]) <= {e.text for e in near}


def test_concepts_without_any_negative_are_refused(planted: tuple[Any, Any]) -> None:
    with pytest.raises(ContrastError, match="no text without it"):
        fit_concepts(*planted, [ConceptData("z", CONTRAST.positives)])


def test_a_split_of_one_label_is_refused(planted: tuple[Any, Any]) -> None:
    train = tuple(replace(e, split="train") for e in CONTRAST.examples)
    with pytest.raises(ContrastError, match="concept z has nothing in the validation split"):
        fit_concepts(*planted, [ConceptData("z", train)])
