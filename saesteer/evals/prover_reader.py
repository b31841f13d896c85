"""ProverQA's sentences read from activations: roles, whose they are, and which predicates are one.

Roles are read at one site; predicates and people there and at others, side by side. Which mentions
are of one predicate ("plays chess", "does not play chess") or of one person is left to an
`IdentityReadout` each, so both may be new. The text itself is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from saesteer.evals.answer_task import Verdict
from saesteer.evals.logic_conclude import answer_word
from saesteer.evals.logic_reader import ReadText, Saes, sum_mentions
from saesteer.evals.prover_claims import Claim, Formula, Signed, conclude_claims
from saesteer.evals.prover_roles import (
    CONCEPTS,
    Margins,
    Outline,
    Part,
    TokenLabels,
    fit_roles,
    outline,
)
from saesteer.evals.questions import Question
from saesteer.features.concepts import Concept, ConceptReader, concept_readers
from saesteer.features.identity import IdentityReadout, NamedText, fit_identity
from saesteer.features.sparse_rows import SparseRows
from saesteer.models.sites import Site

N_ENCODED = 16
"""Texts whose mentions are encoded together."""
N_STEPS = (1000, 400)
"""Steps that the readouts of predicates and of people are fitted in; names are learned sooner."""
Mention = tuple[tuple[int, ...], str]
"""The tokens of a mention and what they name."""


@final
@dataclass(frozen=True)
class ProverReading:
    """A generated text with what it mentions where, and what the tokens of its sentences are."""

    text: ReadText
    labels: TokenLabels
    predicates: tuple[Mention, ...]
    people: tuple[Mention, ...]

    def mentions_only(self) -> ProverReading:
        """The same with no other tokens than those of mentions, and no sentences."""
        spans = (*self.predicates, *self.people)
        kept = sorted({t for span, _ in spans for t in span})
        new = {t: index for index, t in enumerate(kept)}
        moved = [(tuple(new[t] for t in span), name) for span, name in spans]
        n = len(self.predicates)
        text = ReadText(tuple(rows[kept] for rows in self.text.resid), ())
        none = torch.zeros(0, dtype=torch.long)
        labels = TokenLabels(none, none, none)
        return ProverReading(text, labels, tuple(moved[:n]), tuple(moved[n:]))


@final
@dataclass(frozen=True, eq=False)
class ProverReader:
    """Role concepts and two identity readouts, over latents or (no SAE) activations."""

    concepts: tuple[Concept, ...]
    predicates: IdentityReadout
    people: IdentityReadout
    saes: Saes

    def conclude(self, text: ReadText, question: Question) -> Verdict:
        """Whether the asked sentence follows from the others, its opposite does, or neither."""
        *given, asked = self.read(text)
        found = conclude_claims(given, asked)
        return Verdict(answer_word(found.verdict, question.words), found.rules, found.proof)

    def read(self, text: ReadText) -> list[Claim | None]:
        """What each sentence claims; None where none could be read."""
        outlines = [self.outline(text, sentence) for sentence in text.sentences]
        return self.claims(text, outlines)

    def claims(self, text: ReadText, outlines: Sequence[Outline | None]) -> list[Claim | None]:
        """The same from outlines: mentions get numbers, equal where they are of one name."""
        found = [one for one in outlines if one is not None]
        spans, apart = list[list[int]](), list[tuple[int, int]]()
        for one in found:
            own = [*one.condition.literals, *one.claim.literals]
            first = len(spans)
            spans += own
            apart += [(i, j) for j in range(first, len(spans)) for i in range(first, j)]
        people = [one.person for one in found if one.person]
        names = iter(self._numbers(self.predicates, text, spans, apart))
        persons = iter(self._numbers(self.people, text, people, ()))
        claims: list[Claim | None] = []
        for one in outlines:
            if one is None:
                claims.append(None)
                continue
            person = next(persons) if one.person else None
            condition = _formula(one.condition, names) if one.condition.literals else None
            claims.append(Claim(person, _formula(one.claim, names), condition))
        return claims

    def outline(self, text: ReadText, sentence: Sequence[int]) -> Outline | None:
        """One sentence's parts, from its tokens' roles."""
        return outline(self.margins(text, sentence), sentence)

    def margins(self, text: ReadText, tokens: Sequence[int]) -> Margins:
        """How far each role's score lies above its threshold."""
        reader = self.reader
        cuts = torch.tensor([self.concepts[i].threshold for i in reader.concepts])
        found = torch.zeros(len(tokens), len(CONCEPTS))
        resid = text.resid[0][list(tokens)].float()
        found[:, list(reader.concepts)] = reader.scores(resid[None])[0] - cuts
        return found

    @cached_property
    def reader(self) -> ConceptReader:
        """What reads the roles, all at once."""
        (reader,) = concept_readers(self.concepts, self.saes[0] if self.saes else None)
        return reader

    def _numbers(
        self,
        identity: IdentityReadout,
        text: ReadText,
        spans: Sequence[Sequence[int]],
        apart: Sequence[tuple[int, int]],
    ) -> list[int]:
        if not spans:
            return []
        return identity.group(sum_mentions(text.resid, spans, self.saes), apart)


def _formula(part: Part, names: Iterator[int]) -> Formula:
    signs = part.positive
    return Formula(part.op, tuple(Signed(next(names), sign) for sign in signs))


def fit_prover_reader(
    texts: Sequence[ProverReading],
    n_whole: int,
    n_cut: int,
    site: Site,
    saes: Saes,
    *,
    seed: int = 0,
) -> ProverReader:
    """Role concepts from the first `n_whole` texts, identity readouts from all.

    Args:
        n_cut: so many texts, the last ones, set the cuts between names; their words are best new.

    Raises:
        ContrastError: a role that never occurs.
        DataError: too few texts.
    """
    whole = texts[:n_whole]
    at = [[t for sentence in text.text.sentences for t in sentence] for text in whole]
    resid = torch.cat([t.text.resid[0][here] for t, here in zip(whole, at, strict=True)])
    labels = TokenLabels(
        *(torch.cat([getattr(t.labels, key) for t in whole]) for key in ("roles", "turn", "inside"))
    )
    concepts = fit_roles(resid, labels, site, saes[0] if saes else None)
    fast = tuple(sae.to(dtype=texts[0].text.resid[0].dtype) for sae in saes)
    widths = [sae.d_sae for sae in saes] or [rows.shape[1] for rows in texts[0].text.resid]
    starts = range(0, len(texts), N_ENCODED)
    predicates, people = (
        fit_identity(
            [one for at in starts for one in _named(texts[at : at + N_ENCODED], fast, who=who)],
            sum(widths),
            n_steps=N_STEPS[who],
            validation=(n_cut + 0.5) / len(texts),
            standardise=not saes,
            seed=seed,
        )
        for who in (False, True)
    )
    return ProverReader(concepts, predicates, people, saes)


def _named(texts: Sequence[ProverReading], saes: Saes, *, who: bool) -> list[NamedText]:
    mentions = [text.people if who else text.predicates for text in texts]
    starts = torch.tensor([0, *(len(text.text.resid[0]) for text in texts)]).cumsum(0).tolist()
    spans = [
        [start + t for t in span]
        for start, own in zip(starts, mentions, strict=False)
        for span, _ in own
    ]
    resid = [torch.cat(rows) for rows in zip(*(text.text.resid for text in texts), strict=True)]
    rows: Sequence[Tensor] = sum_mentions(resid, spans, saes).split([len(own) for own in mentions])
    return [
        NamedText(SparseRows.of(one), tuple(name for _, name in own))
        for one, own in zip(rows, mentions, strict=True)
    ]
