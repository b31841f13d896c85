"""Claims conclude what they entail, by rules that a proof can be read from."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from saesteer.evals.logic_conclude import NO, OPEN, YES
from saesteer.evals.prover_claims import (
    Claim,
    Formula,
    Signed,
    conclude_claims,
    entailed,
    prime_implicates,
    worlds,
)

A, B, C, D = (Signed(i) for i in range(4))
WHO = 7


def fact(part: Signed, who: int | None = WHO) -> Claim:
    return Claim(who, Formula("all", (part,)))


def rule(result: Formula | Signed, condition: Formula | Signed, who: int | None = WHO) -> Claim:
    def whole(one: Formula | Signed) -> Formula:
        return one if isinstance(one, Formula) else Formula("all", (one,))

    return Claim(who, whole(result), whole(condition))


def verdict(*claims: Claim | None) -> str:
    *given, asked = claims
    return conclude_claims(given, asked).verdict


@pytest.mark.parametrize(
    ("claims", "asked", "expected"),
    [
        ([fact(A), rule(B, A)], B, YES),
        ([fact(A), rule(B, A)], B.opposite, NO),
        ([fact(B), rule(B, A)], A, OPEN),
        ([fact(B.opposite), rule(B, A)], A, NO),
        ([fact(A), rule(C, Formula("all", (A, B)))], C, OPEN),
        ([fact(A), rule(C, Formula("any", (A, B)))], C, YES),
        ([fact(A), rule(C, Formula("one_of", (A, B)))], C, OPEN),
        ([fact(A), fact(B.opposite), rule(C, Formula("one_of", (A, B)))], C, YES),
        ([fact(A), Claim(WHO, Formula("one_of", (A, B)))], B, NO),
        ([fact(A), Claim(WHO, Formula("any", (A, B)))], B, OPEN),
        ([fact(A.opposite), Claim(WHO, Formula("any", (A, B)))], B, YES),
        ([fact(A), fact(B), rule(Formula("one_of", (B, C)), A)], C, NO),
        ([fact(A), rule(Formula("all", (B, C)), A)], C, YES),
    ],
)
def test_a_rule_says_what_its_joint_means(claims, asked, expected):
    assert verdict(*claims, fact(asked)) == expected
    assert entailed(claims, fact(asked)) == expected


def test_other_peoples_facts_and_rules_say_nothing_and_everyones_do():
    assert verdict(fact(A, 8), rule(B, A), fact(B)) == OPEN
    assert verdict(fact(A), rule(B, A, 8), fact(B)) == OPEN
    assert verdict(fact(A), rule(B, A, None), fact(B)) == YES


def test_a_contradiction_leaves_it_open():
    assert verdict(fact(A), fact(A.opposite), fact(A)) == OPEN
    assert entailed([fact(A), fact(A.opposite)], fact(B)) is None


def test_sentences_that_could_not_be_read_count_for_nothing():
    assert verdict(None, fact(A), None, rule(B, A), fact(B)) == YES
    assert conclude_claims([fact(A)], None).verdict == OPEN


def test_what_is_asked_may_be_a_rule_itself():
    asked = rule(C, Formula("any", (A, B)))
    assert verdict(fact(C), asked) == YES
    assert verdict(fact(A), fact(C.opposite), asked) == NO
    assert verdict(fact(A), asked) == OPEN
    assert verdict(rule(A, A)) == YES


def test_the_proof_names_the_facts_and_the_rules_it_went_by():
    found = conclude_claims([fact(A), rule(B, A), rule(C, B)], fact(C.opposite))
    told = str(found.proof)
    assert found.verdict == NO
    assert "p0 holds: given" in told
    assert "p1 :- p0." in told
    assert "p2 :- p1." in told


def test_implicates_are_the_shortest_clauses_and_together_say_the_claim():
    claim = rule(Formula("one_of", (B, C)), Formula("any", (A, D)))
    clauses = prime_implicates(claim)
    world = worlds(claim.names)
    together = torch.stack(
        [torch.stack([part.holds(world) for part in one]).any(0) for one in clauses]
    ).all(0)
    assert torch.equal(together, claim.holds(world))
    for one, other in itertools.permutations(clauses, 2):
        assert not one < other
    assert prime_implicates(rule(A, A)) == []
    assert prime_implicates(rule(A, A), denied=True) == [frozenset()]


def test_what_rules_derive_is_always_entailed():
    rng, settled = random.Random(3), 0
    for _ in range(150):
        claims = [random_claim(rng) for _ in range(4)]
        asked = fact(Signed(rng.randrange(5), rng.random() < 0.5))
        exact = entailed(claims, asked)
        derived = verdict(*claims, asked)
        if exact is not None:
            assert derived in (exact, OPEN)
            settled += derived != OPEN
    assert settled > 20


def random_claim(rng: random.Random) -> Claim:
    def formula() -> Formula:
        parts = [Signed(name, rng.random() < 0.6) for name in rng.sample(range(5), 2)]
        return Formula(rng.choice(("all", "any", "one_of")), tuple(parts[: rng.randint(1, 2)]))

    return Claim(WHO, formula(), formula() if rng.random() < 0.5 else None)
