"""Rule sets learned from truth tables: planted ones are found, small, and refused where none is."""

from __future__ import annotations

import pytest
import torch

from saesteer.errors import ConfigError, ContrastError
from saesteer.rules.learn import Bounds, Table, learn_rules, predict, size
from saesteer.rules.syntax import Atom, parse

NAMES = [Atom(f"c{i}") for i in range(8)]
HEAD = Atom("goal")


def _tables(rules: str, n: int = 400, noise: float = 0.0) -> list[Table]:
    """Train, validation and test tables whose labels follow the rules, some of them turned."""
    draw = torch.Generator().manual_seed(0)
    tables = []
    for _ in range(3):
        truths = torch.rand(n, len(NAMES), generator=draw) < 0.4
        labels = predict(parse(rules), NAMES, Table(truths, truths[:, 0]))
        tables.append(Table(truths, labels ^ (torch.rand(n, generator=draw) < noise)))
    return tables


@pytest.mark.parametrize(
    "rules",
    [
        "goal :- c3.",
        "goal :- not c3.",
        "goal :- c1, not c2.",
        "goal :- c1, not c2.\ngoal :- c5.",
        "goal :- c0, c1.\ngoal :- c2, not c3, c4.",
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_planted_rule_set_is_found_word_for_word(rules: str, noise: float) -> None:
    train, validation, _ = _tables(rules, noise=noise)
    found = learn_rules(HEAD, NAMES, train, validation)
    planted = {frozenset(map(str, rule.body)) for rule in parse(rules).rules}
    learned = {frozenset(map(str, rule.body)) for rule in found.rules}
    assert learned == planted


def test_bounds_are_kept_at_the_cost_of_accuracy() -> None:
    train, validation, test = _tables("goal :- c0, c1.\ngoal :- c2, c3.\ngoal :- c4, not c5.")
    merits = []
    for bounds in (Bounds(1, 1), Bounds(2, 1), Bounds(2, 3), Bounds(3, 6)):
        found = learn_rules(HEAD, NAMES, train, validation, bounds)
        assert len(found.rules) <= bounds.rules
        assert max(len(rule.body) for rule in found.rules) <= bounds.literals
        merits.append(test.balanced(predict(found, NAMES, test)))
    assert merits[0] < merits[2] <= merits[3]
    assert merits[3] > 0.9


def test_the_smaller_of_rule_sets_that_are_nearly_as_good_is_kept() -> None:
    train, validation, _ = _tables("goal :- c1.", noise=0.1)
    assert size(learn_rules(HEAD, NAMES, train, validation)) == 2


def test_rare_labels_are_not_pruned_away() -> None:
    train, validation, _ = _tables("goal :- c0, c1, c2.")
    assert float(train.labels.float().mean()) < 0.1
    found = learn_rules(HEAD, NAMES, train, validation)
    assert str(found.rules[0]).startswith("goal :- ")
    assert {str(b) for b in found.rules[0].body} == {"c0", "c1", "c2"}


def test_labels_that_no_concept_tells_apart_are_refused() -> None:
    truths = torch.zeros(40, len(NAMES), dtype=torch.bool)
    labels = torch.arange(40) % 2 == 0
    with pytest.raises(ContrastError, match="no rule over 8 concepts tells texts with goal"):
        learn_rules(HEAD, NAMES, Table(truths, labels), Table(truths, labels))


def test_bounds_that_let_nothing_through_are_refused() -> None:
    for wrong in ((0, 4), (3, 0)):
        with pytest.raises(ConfigError, match="expected 1 or more of both"):
            Bounds(*wrong)
