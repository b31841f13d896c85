"""Claims read back from planted activations: a role in every token, a word in a mention's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from saesteer.errors import ContrastError
from saesteer.evals.answer_task import shuffled
from saesteer.evals.logic_reader import ReadText
from saesteer.evals.prover_claims import Claim, Formula, Signed
from saesteer.evals.prover_reader import ProverReading, fit_prover_reader
from saesteer.evals.prover_roles import CONCEPTS, ROLES, TokenLabels, outline
from saesteer.evals.questions import Question
from saesteer.models import Site
from saesteer.saes import SAE

WIDTH, SITE = 64, Site.parse("resid_post.1")
N = len(CONCEPTS)
SENTENCES = (
    "person content:0",
    "person2 inside-person2 content:1",
    "if person content:0 then filler negation content:2",
    "if everyone content:2 or content:3 exclusive then content:4 and content:5",
    "everyone if content:1 and negation content:4 turn-content:0 or content:3 inclusive",
    "content everyone if content:5 turn-content:2",
    "person filler content:4 inside-content:4 or content:5 exclusive",
    "person negation content:2",
)
"""Tokens by role; `turn-` and `inside-` say what else holds, a number which word it is."""


def planted_sae() -> SAE:
    eye, zeros = torch.eye(WIDTH), torch.zeros(WIDTH)
    return SAE(w_enc=eye, b_enc=zeros, w_dec=eye, b_dec=zeros, threshold=zeros + 0.2, site=SITE)


def text(seed: int) -> ProverReading:
    """The sentences above; each predicate and person is a random direction beyond the concepts'."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.rand(8, WIDTH, generator=generator)
    words[:, :N] = 0
    rows, sentences, labels = [], [], []
    predicates, people = [], []
    for said in SENTENCES:
        start, found = len(rows), {}
        needs_turn = "turn-" in said
        for token in said.split():
            role, _, word = token.partition(":")
            *more, role = role.split("-")
            number = {"person": 6, "person2": 7}.get(role, int(word) if word else None)
            holds = [
                role.removesuffix("2"),
                *({"turn": "turn", "inside": "continues"}[m] for m in more),
            ]
            row = 0.05 * torch.randn(WIDTH, generator=generator)
            for one in holds:
                row[CONCEPTS.index(one)] += 2
            if number is not None:
                row += 2 * words[number]
                found.setdefault(number, []).append(len(rows))
            rows.append(row)
            turn = int("turn" in more) if needs_turn else -1
            labels.append((ROLES.index(holds[0]), turn, int("inside" in more)))
        sentences.append(tuple(range(start, len(rows))))
        for number, span in found.items():
            (people if number > 5 else predicates).append((tuple(span), f"{seed}-{number}"))
    read = ReadText((torch.stack(rows),), tuple(sentences))
    told = TokenLabels(*torch.tensor(labels).T)
    return ProverReading(read, told, tuple(predicates), tuple(people))


def all_of(*parts: Signed) -> Formula:
    return Formula("all", parts)


A, B, C, D, E, F = (Signed(i) for i in range(6))
TRUTH = [
    Claim(6, all_of(A)),
    Claim(7, all_of(B)),
    Claim(6, all_of(C.opposite), all_of(A)),
    Claim(None, all_of(E, F), Formula("one_of", (C, D))),
    Claim(None, Formula("any", (A, D)), all_of(B, E.opposite)),
    Claim(None, all_of(C), all_of(F)),
    Claim(6, Formula("one_of", (E, F))),
    Claim(6, all_of(C.opposite)),
]


def renamed(claims) -> list[Claim]:
    """The same with each number replaced by the one that `TRUTH` has in its place."""
    known: dict[Any, Any] = {None: None}
    made = []
    for claim, truth in zip(claims, TRUTH, strict=True):
        assert claim is not None
        pairs = [(claim.person, truth.person)]
        pairs += zip(claim.names, truth.names, strict=True)
        for got, expected in pairs:
            kind = "who" if got == claim.person and expected == truth.person else "what"
            key = None if got is None else (kind, got)
            assert known.setdefault(key, expected) == expected

        def formula(one):
            return Formula(
                one.op, tuple(Signed(known["what", p.name], p.positive) for p in one.parts)
            )

        person = None if claim.person is None else known["who", claim.person]
        condition = None if claim.condition is None else formula(claim.condition)
        made.append(Claim(person, formula(claim.result), condition))
    return made


@pytest.fixture(
    scope="module", params=["latents", pytest.param("activations", marks=pytest.mark.full)]
)
def reader(request):
    saes = (planted_sae(),) if request.param == "latents" else ()
    return fit_prover_reader([text(seed) for seed in range(40)], 36, 4, SITE, saes)


def test_claims_about_names_never_seen_are_read_back(reader):
    for seed in range(100, 106):
        assert renamed(reader.read(text(seed).text)) == TRUTH


def test_the_answer_is_concluded_from_them(reader):
    asked = Question("q", "", "Is it?", ("True", "False", "Uncertain"), "True")
    found = reader.conclude(text(100).text, asked)
    assert found.word == "True"
    assert "given" in str(found.proof)


def test_at_other_positions_the_same_activations_say_something_else(reader):
    assert reader.read(shuffled(text(100).text, 0)) != reader.read(text(100).text)


def test_mentions_stay_when_all_other_tokens_go():
    whole = text(3)
    less = whole.mentions_only()
    assert len(less.text.resid[0]) < len(whole.text.resid[0])
    for (span, name), (short, same) in zip(whole.predicates, less.predicates, strict=True):
        assert name == same
        assert torch.equal(whole.text.resid[0][list(span)], less.text.resid[0][list(short)])


def test_a_role_that_never_occurs_can_not_be_fitted():
    negation = ROLES.index("negation")
    bare = [
        replace(one, labels=replace(one.labels, roles=one.labels.roles.masked_fill(
            one.labels.roles == negation, 0
        )))
        for one in map(text, range(4))
    ]  # fmt: skip
    with pytest.raises(ContrastError, match="no token is negation"):
        fit_prover_reader(bare, 3, 1, SITE, (planted_sae(),))


def test_texts_that_never_turn_can_not_be_fitted():
    flat = [
        replace(one, labels=replace(one.labels, turn=torch.full_like(one.labels.turn, -1)))
        for one in map(text, range(4))
    ]
    with pytest.raises(ContrastError, match="no text tells where turn holds"):
        fit_prover_reader(flat, 3, 1, SITE, ())


def margins(said: str) -> torch.Tensor:
    rows = torch.zeros(len(said.split()), N)
    rows[:, CONCEPTS.index("continues")] = -1
    for row, token in zip(rows, said.split(), strict=True):
        *more, role = token.split("-")
        row[ROLES.index(role)] = 9
        row[CONCEPTS.index("turn")] = "turn" in more
        row[CONCEPTS.index("continues")] = 1 if "inside" in more else -1
    return rows


def literals(said: str) -> tuple[list[list[int]], list[list[int]]] | None:
    found = outline(margins(said), range(len(said.split())))
    return found and (found.condition.literals, found.claim.literals)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("person content content", ([], [[1, 2]])),
        ("everyone if content content or content turn-content content", ([[2, 3], [5]], [[6, 7]])),
        ("if person content then content and content", ([[2]], [[4], [6]])),
        ("everyone content if content then content", ([[3]], [[5]])),
        ("person negation content negation content", ([], [[2], [4]])),
        ("filler inside-person filler content", ([], [[3]])),
        ("if negation inside-person content then content", ([[3]], [[5]])),
        ("person exclusive inside-content content", ([], [[1, 2, 3]])),
    ],
)
def test_roles_in_order_make_a_condition_and_a_claim(said, expected):
    assert literals(said) == expected


def test_a_name_is_all_its_tokens_and_a_negation_in_it_denies_nothing():
    found = outline(margins("negation inside-person filler content"), range(4))
    assert found is not None
    assert (found.person, found.claim.positive) == ((0, 1), [True])


@pytest.mark.parametrize("said", ["person filler filler", "filler"])
def test_a_sentence_without_a_claim_is_not_read(said):
    assert literals(said) is None
