"""Claims read back from planted activations: a role in every token, a word in a mention's."""

from __future__ import annotations

import pytest
import torch

from saesteer.errors import ContrastError
from saesteer.evals.answer_task import shuffled
from saesteer.evals.logic_reader import ReadText
from saesteer.evals.prover_claims import Claim, Formula, Signed
from saesteer.evals.prover_reader import ProverReading, fit_prover_reader
from saesteer.evals.prover_roles import ROLES, outline
from saesteer.evals.questions import Question
from saesteer.models import Site
from saesteer.saes import SAE

WIDTH, SITE = 64, Site.parse("resid_post.1")
N = len(ROLES)
SENTENCES = (
    "person claim:0",
    "person2 claim:1",
    "if person condition:0 then filler negation claim:2",
    "if everyone condition:2 or condition:3 exclusive then claim:4 and claim:5",
    "everyone condition:1 and negation condition:4 filler claim:0 or claim:3 inclusive",
    "person filler claim:4 claim:4 or claim:5 exclusive",
    "person negation claim:2",
)


def planted_sae() -> SAE:
    eye, zeros = torch.eye(WIDTH), torch.zeros(WIDTH)
    return SAE(w_enc=eye, b_enc=zeros, w_dec=eye, b_dec=zeros, threshold=zeros + 0.2, site=SITE)


def text(seed: int) -> ProverReading:
    """The sentences above; each predicate and person is a random direction beyond the roles'."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.rand(8, WIDTH, generator=generator)
    words[:, :N] = 0
    rows, sentences, roles = [], [], []
    predicates, people = [], []
    for said in SENTENCES:
        start, here, found = len(rows), [], {}
        for token in said.split():
            role, _, word = token.partition(":")
            number = 7 if role == "person2" else 6 if role == "person" else word and int(word)
            role = role.removesuffix("2")
            row = 0.05 * torch.randn(WIDTH, generator=generator)
            row[ROLES.index(role)] += 2
            if number != "":
                row += 2 * words[number]
                found.setdefault(number, []).append(len(rows))
            rows.append(row)
            here.append(ROLES.index(role))
        sentences.append(tuple(range(start, len(rows))))
        roles.append(tuple(here))
        for number, span in found.items():
            (people if number > 5 else predicates).append((tuple(span), f"{seed}-{number}"))
    read = ReadText((torch.stack(rows),), tuple(sentences))
    return ProverReading(read, tuple(roles), tuple(predicates), tuple(people))


def all_of(*parts: Signed) -> Formula:
    return Formula("all", parts)


A, B, C, D, E, F = (Signed(i) for i in range(6))
TRUTH = [
    Claim(6, all_of(A)),
    Claim(7, all_of(B)),
    Claim(6, all_of(C.opposite), all_of(A)),
    Claim(None, all_of(E, F), Formula("one_of", (C, D))),
    Claim(None, Formula("any", (A, D)), all_of(B, E.opposite)),
    Claim(6, Formula("one_of", (E, F))),
    Claim(6, all_of(C.opposite)),
]


def renamed(claims) -> list[Claim]:
    """The same with each number replaced by the one that `TRUTH` has in its place."""
    known: dict[object, object] = {None: None}
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
            return Formula(one.op, tuple(Signed(known["what", p.name], p.positive) for p in one.parts))

        person = None if claim.person is None else known["who", claim.person]
        condition = None if claim.condition is None else formula(claim.condition)
        made.append(Claim(person, formula(claim.result), condition))
    return made


@pytest.fixture(scope="module", params=["latents", "activations"])
def reader(request):
    saes = (planted_sae(),) if request.param == "latents" else ()
    return fit_prover_reader([text(seed) for seed in range(40)], 40, SITE, saes)


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
        ProverReading(
            one.text,
            tuple(tuple(0 if r == negation else r for r in some) for some in one.roles),
            one.predicates,
            one.people,
        )
        for one in map(text, range(4))
    ]
    with pytest.raises(ContrastError, match="no token is negation"):
        fit_prover_reader(bare, 4, SITE, (planted_sae(),))


def margins(roles: str) -> torch.Tensor:
    ids = torch.tensor([ROLES.index(role) for role in roles.split()])
    return torch.nn.functional.one_hot(ids, N).float()


def test_without_a_then_the_split_lies_where_the_words_lean_most():
    rows = margins("everyone condition claim condition or condition claim claim")
    found = outline(rows, range(8))
    assert found is not None
    assert found.condition.literals == [[1, 2, 3], [5]]
    assert found.claim.literals == [[6, 7]]


def test_without_an_if_all_is_claimed():
    found = outline(margins("person condition claim"), range(3))
    assert found is not None
    assert (found.condition.literals, found.claim.literals) == ([], [[1, 2]])


@pytest.mark.parametrize("roles", ["person filler filler", "filler claim claim", "filler"])
def test_a_sentence_without_a_claim_or_anyone_is_not_read(roles):
    rows = margins(roles)
    assert outline(rows, range(len(rows))) is None
