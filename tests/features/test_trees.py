"""A tree says on tensors what scikit-learn's says, also inside a rule book's plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier

from saesteer.errors import ConfigError
from saesteer.features.concepts import Concept, CosineReadout, FeatureReadout, concept_readers
from saesteer.features.fitting import fit_readout, most_separating, score_rows
from saesteer.features.trees import TreeReadout
from saesteer.models import Site
from saesteer.models.record import logits
from saesteer.rules import RuleBook
from saesteer.saes import SAE
from saesteer.steer import Plan

SITE = Site.parse("resid_post.1")


def either(n: int = 600) -> tuple[torch.Tensor, torch.Tensor]:
    """Positive where exactly one of features 2 and 6 is high: no weighted sum can tell that."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.rand(n, 9, generator=generator)
    return rows, (rows[:, 2] > 0.4) != (rows[:, 6] > 0.6)


def sae(width: int = 9) -> SAE:
    eye, zeros = torch.eye(width), torch.zeros(width)
    return SAE(w_enc=eye, b_enc=zeros, w_dec=eye, b_dec=zeros, threshold=zeros, site=SITE)


def fitted() -> tuple[TreeReadout, torch.Tensor, torch.Tensor]:
    rows, positive = either()
    found = fit_readout("tree", rows, positive, SITE, n_features=9)
    assert isinstance(found, TreeReadout)
    return found, rows, positive


def test_a_tree_tells_what_no_weighted_sum_can():
    found, rows, positive = fitted()
    right = ((score_rows(found, rows) > 0.5) == positive).float().mean()
    weighted = score_rows(fit_readout("features", rows, positive, SITE, n_features=9), rows)
    assert right > 0.9 > float(((weighted > weighted.median()) == positive).float().mean())


def test_walking_as_tensors_gives_scikit_learns_own_shares():
    found, rows, positive = fitted()
    asked = most_separating(rows, positive, 9)
    theirs = DecisionTreeClassifier(
        max_depth=4, min_samples_leaf=6, class_weight="balanced", random_state=0
    ).fit(rows[:, asked].numpy(), positive.numpy())
    fresh = torch.rand(500, 9, generator=torch.Generator().manual_seed(4))
    chances = np.asarray(theirs.predict_proba(fresh[:, asked].numpy()))
    shares = torch.from_numpy(chances[:, 1]).float()
    torch.testing.assert_close(score_rows(found, fresh), shares)


def test_one_reader_gives_trees_features_and_directions_each_in_its_column():
    found, rows, _ = fitted()
    concepts = [
        Concept("along", CosineReadout(SITE, torch.eye(9)[4]), 0.0),
        Concept("either", found, 0.5),
        Concept("three", FeatureReadout((3,)), 0.0),
    ]
    (reader,) = concept_readers(concepts, sae())
    scores = dict(zip(reader.concepts, reader.scores(rows[None])[0].unbind(-1), strict=True))
    torch.testing.assert_close(scores[0], rows[:, 4] / rows.norm(dim=-1))
    torch.testing.assert_close(scores[1], score_rows(found, rows))
    torch.testing.assert_close(scores[2], rows[:, 3])


def test_a_single_leaf_scores_its_share_everywhere():
    leaf = TreeReadout((0,), (-1,), (0.0,), (0,), (0,), (0.25,))
    assert leaf.depth == 0
    assert score_rows(leaf, torch.rand(3, 2)).tolist() == [0.25] * 3


@pytest.mark.parametrize(
    ("column", "left"), [((0, -1, -1), (0, 1, 2)), ((3, -1, -1), (1, 1, 2)), ((0, -1), (1, 1))]
)
def test_numbers_that_are_no_tree_are_refused(column: tuple[int, ...], left: tuple[int, ...]):
    with pytest.raises(ConfigError, match="tree"):
        TreeReadout((5,), column, (0.5, 0.0, 0.0), left, (2, 1, 2), (0.5, 0.0, 1.0))


def test_a_rule_over_a_tree_steers_alike_after_saving(
    tiny_model: Any, tiny_sae: Any, tmp_path: Path
):
    model = tiny_model("llama")
    inside = tiny_sae(model, "resid_post.2")
    tree = TreeReadout((3, 5), (0, -1, 1, -1, -1), (0.1, 0.0, 0.1, 0.0, 0.0),
                       (1, 1, 3, 3, 4), (2, 1, 4, 3, 4), (0.5, 0.0, 0.5, 1.0, 0.0))  # fmt: skip
    book = RuleBook.from_dict(
        {
            "concepts": {"either": {"feature": 3, "threshold": 0.5}},
            "rules": "act :- either.",
            "acts": {"act": {"clamp": 7, "value": 9.0}},
        }
    )
    plan = replace(book, concepts=(Concept("either", tree, 0.5),)).plan(inside)
    plan.save(tmp_path / "plan")
    batch = model.tokenize(["one two three four five six"])
    plain = logits(model, batch)
    seen = []
    for one in (plan, Plan.load(tmp_path / "plan")):
        with one.on(model, prompt_lengths=[1]):
            seen.append(logits(model, batch))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], plain)
