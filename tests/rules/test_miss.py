"""The nearest miss: which literals failed, by how much, and whether mending them is enough."""

from __future__ import annotations

import json
import random
from itertools import combinations
from typing import Any

import pytest
import torch
from random_programs import small

from saesteer.errors import RuleError
from saesteer.models.sites import Site
from saesteer.rules import NearMiss, RuleBook
from saesteer.rules.evidence import Evidence
from saesteer.rules.gate import RuleGate
from saesteer.saes.sae import SAE
from saesteer.steer.frame import Frame

SITE = Site(1, "resid_post")
NAMES = ("pain", "casual", "urgent", "loud")
CONCEPTS = {name: {"feature": i, "threshold": 2.0} for i, name in enumerate(NAMES)}


def _miss(sae: SAE, rules: str, scores: list[float], atom: str, **raw: Any) -> NearMiss | None:
    """What `atom` misses at one token whose features have these scores."""
    gate = RuleGate.of(RuleBook.from_dict({"concepts": CONCEPTS, "rules": rules, **raw}), sae)
    resid = torch.zeros(1, 1, 8)
    resid[0, 0, : len(scores)] = torch.tensor(scores)
    frame = Frame.of(torch.tensor([[4]]), torch.ones(1, 1))
    gate.evaluate({SITE: resid}, frame, gate.new_state())
    return gate.why_not(Evidence.noted(frame.evidence), 0, 0, gate.known(atom))


def _told(miss: NearMiss | None) -> dict[str, float]:
    assert miss is not None
    return {change.literal: round(change.by, 4) for change in miss.changes}


def test_the_failing_literal_and_its_distance_are_named(eye_sae: SAE) -> None:
    miss = _miss(eye_sae, "act :- pain, not casual.", [1.5, 0.0], "act")
    assert _told(miss) == {"pain": 0.5}
    miss = _miss(eye_sae, "act :- pain, not casual.", [3.0, 2.25], "act")
    assert _told(miss) == {"not casual": 0.25}
    assert str(miss).split("\n") == [
        "act does not hold, nearest by act :- pain, not casual.  (line 1)",
        "- not casual must hold: feature 1 scored 2.25 > 2, token 0 '<4>'; 0.25 too much",
    ]
    assert _miss(eye_sae, "act :- pain, not casual.", [3.0, 0.0], "act") is None
    assert _told(_miss(eye_sae, "act :- pain.", [1.0], "pain")) == {"pain": 1.0}


def test_of_all_rules_the_one_that_needs_least_is_the_nearest(eye_sae: SAE) -> None:
    rules = "act :- pain, urgent.\nact :- loud.\nact :- casual, not loud."
    miss = _miss(eye_sae, rules, [1.9, 1.2, 1.9, 1.6], "act")
    assert _told(miss) == {"loud": 0.4}, "one change, and closer than casual; two are more than one"
    miss = _miss(eye_sae, rules, [1.9, 1.7, 1.9, 1.6], "act")
    assert _told(miss) == {"casual": 0.3}


def test_distances_of_different_scales_are_compared_without_unit(eye_sae: SAE) -> None:
    concepts = {**CONCEPTS, "casual": {"feature": 1, "threshold": 200.0}}
    rules = "act :- pain. act :- casual."
    miss = _miss(eye_sae, rules, [1.0, 190.0], "act", concepts=concepts)
    assert _told(miss) == {"casual": 10.0}


def test_a_miss_goes_down_through_derived_atoms_and_not(eye_sae: SAE) -> None:
    rules = "calm :- not pain. calm :- casual. act :- urgent, not calm."
    miss = _miss(eye_sae, rules, [1.5, 2.5, 3.0], "act")
    assert _told(miss) == {"pain": 0.5, "not casual": 0.5}
    assert miss is not None
    assert miss.enough


def test_a_strength_is_told_in_the_units_of_its_score(eye_sae: SAE) -> None:
    rules = "act :- strength(pain, S), S > 1700, S < 2900."
    miss = _miss(eye_sae, rules, [1.5], "act")
    assert _told(miss) == {"1500 > 1700": 0.201}
    assert miss is not None
    assert miss.enough
    assert _told(_miss(eye_sae, rules, [3.0], "act")) == {"3000 < 2900": 0.101}


def test_changes_that_undo_each_other_are_said_not_to_be_enough(eye_sae: SAE) -> None:
    miss = _miss(eye_sae, "calm :- pain. act :- pain, not calm.", [1.5], "act")
    assert miss is not None
    assert not miss.enough
    assert "undo it elsewhere" in str(miss)
    stuck = _miss(eye_sae, "a :- b. b :- a. c :- not always. always.", [0.0], "a")
    assert stuck is not None
    assert stuck.changes == ()
    assert "no change" in str(stuck)


def test_facts_without_scores_and_json() -> None:
    book = RuleBook.parse("act :- a, not b.\nact :- c, d, e.")
    miss = book.why_not("act", {"b", "d"})
    assert miss is not None
    assert {change.literal for change in miss.changes} == {"a", "not b"}
    told = json.loads(json.dumps(miss.as_dict(), allow_nan=False))
    assert told["changes"][0] == {"literal": "a", "by": None, "relative": 1.0, "leaf": None}
    assert book.why_not("act", {"a"}) is None
    variables = RuleBook.parse("ok(X) :- a(X,Y), not b(Y).")
    miss = variables.why_not("ok(k)", {"a(k,m)", "b(m)"})
    assert miss is not None
    assert [change.literal for change in miss.changes] == ["not b(m)"]


@pytest.mark.parametrize("seed", range(80))
def test_changes_called_enough_derive_the_atom_and_no_single_fact_is_overlooked(seed: int) -> None:
    rng = random.Random(seed)
    book = RuleBook.parse(small(rng))
    heads = set(map(str, book.program.heads))
    bases = sorted({str(a) for a in book.program.atoms} - heads)
    facts = {a for a in bases if rng.random() < 0.3}
    held = book.closure(facts)
    for goal in sorted(heads - held):
        miss = book.why_not(goal, facts)
        assert miss is not None
        flips = {str(change.atom) for change in miss.changes}
        assert flips <= set(bases)
        assert miss.enough == (bool(flips) and goal in book.closure(facts ^ flips))
        single = any(goal in book.closure(facts ^ {a}) for a in bases)
        if single and miss.enough:
            assert len(flips) == 1
        if not flips:
            for n in (1, 2):
                tries = combinations(bases, n)
                assert not any(goal in book.closure(facts ^ set(some)) for some in tries)


def test_no_such_atom(eye_sae: SAE) -> None:
    with pytest.raises(RuleError, match="'atc' is no atom of these rules; did you mean 'act'"):
        _miss(eye_sae, "act :- pain.", [0.0], "atc")
