"""Claims written as sentences, with what each stretch of a sentence does in it.

The wordings are those of logic puzzles in general and of ProverQA's in particular: "If Ada sings or
paints, then she ...", "Anyone who ...", "either ... or ..., but not both". A predicate takes the
form that its place asks for ("plays chess", "does not play chess", "can play chess"), and what two
of them begin with is said once or twice.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from saesteer.evals.prover_claims import Claim, Formula, Signed
from saesteer.evals.prover_words import Predicate, going, groups, third, with_article

Role = Literal[
    "filler",
    "person",
    "everyone",
    "if",
    "then",
    "negation",
    "and",
    "or",
    "exclusive",
    "inclusive",
    "content",
]
"""What a token does; content are the words of predicates, and "then" also who is meant after it."""
Form = Literal["singular", "plural", "bare", "going"]
_NOT_BOTH = ("but not both",) * 8 + ("but never both", "though not both", "and not both at once")
_OR_BOTH = ("or both",) * 6 + ("possibly both", "or maybe both")
_BE = {"singular": "is", "plural": "are", "bare": "be", "going": "is"}
_HAVE = {"singular": "has", "plural": "have", "bare": "have", "going": "has"}
_DO = {"singular": "does", "plural": "do", "bare": "does", "going": "does"}
_GROUPS = ("people", "humans", "animals", "students", "citizens", "friends", "villagers",
           "members of the club", "creatures", "beings", "persons")  # fmt: skip
_WHO = ("Anyone", "Everyone", "Anyone", "Everyone", "Any person", "Every person")
_CAN = ("can", "can", "can", "can", "will", "may", "must")
_IF = ("If",) * 9 + ("When",)


@final
@dataclass(frozen=True)
class Piece:
    """Some words, their role and, of a predicate, the literal that they belong to.

    `turns` where a claim begins that no "then" announces.
    """

    text: str
    role: Role = "filler"
    literal: int = -1
    turns: bool = False


@final
@dataclass(frozen=True)
class Mark:
    """Where a piece stands in its sentence, in characters."""

    start: int
    end: int
    role: Role
    literal: int


@final
@dataclass(frozen=True)
class Sentence:
    """A claim in words; literals are counted through the condition, then the result.

    `turn` is where, in characters, a claim begins that no "then" announces.
    """

    text: str
    marks: tuple[Mark, ...]
    claim: Claim
    turn: tuple[int, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The predicate of each literal."""
        condition = self.claim.condition.parts if self.claim.condition else ()
        return tuple(str(part.name) for part in (*condition, *self.claim.result.parts))


Known = Mapping[str, Predicate]


def write(rng: random.Random, claim: Claim, predicates: Known, pronoun: str) -> Sentence:
    """One claim in one of its wordings.

    Args:
        predicates: by key, as the claim names them.
        pronoun: what the person is called after the condition.
    """
    writer = _Writer(rng, predicates)
    if claim.condition is None:
        pieces = writer.plain(claim)
    elif claim.person is None:
        pieces = writer.general(claim.condition, claim.result)
    else:
        pieces = writer.conditional(str(claim.person), pronoun, claim.condition, claim.result)
    return _joined([*pieces, Piece(".")], claim)


@final
@dataclass
class _Writer:
    """Pieces of one sentence; `count` literals are written."""

    rng: random.Random
    predicates: Known
    count: int = 0

    def plain(self, claim: Claim) -> list[Piece]:
        """`Ada sings.`, `Everyone either sings or paints, but not both.`"""
        who = Piece("Everyone", "everyone")
        if claim.person is not None:
            who = Piece(str(claim.person), "person")
        return [who, *self.formula(claim.result, "singular", "claim")]

    def conditional(
        self, name: str, pronoun: str, condition: Formula, result: Formula
    ) -> list[Piece]:
        """`If Ada sings, then she paints.`"""
        opening = [Piece(self.rng.choice(_IF), "if"), Piece(name, "person")]
        then = [Piece("then", "then")] if self.rng.random() < 0.9 else []
        before = self.formula(condition, "singular")
        after = self.formula(result, "singular", "claim")
        return [*opening, *before, Piece(","), *then, Piece(pronoun, "then"), *after]

    def general(self, condition: Formula, result: Formula) -> list[Piece]:
        """The same about everyone, with or without a "then"."""
        group = self.rng.choice(_GROUPS if self.rng.random() < 0.5 else groups())
        match self.rng.randrange(6):
            case 0 | 1:
                start = [Piece(self.rng.choice(_WHO), "everyone"), Piece("who", "if")]
                return self._split(start, [], condition, result, "singular")
            case 2:
                start = [Piece("All", "everyone"), Piece(group), Piece("who", "if")]
                return self._split(start, [], condition, result, "plural")
            case 3:
                start = [Piece("If", "if"), Piece("someone", "everyone")]
            case 4:
                start = [Piece("For"), Piece("all", "everyone"), Piece(group, "content")]
                start += [Piece(","), Piece("if", "if"), Piece("they")]
                middle = [Piece(","), Piece("then", "then"), Piece("they", "then")]
                return self._split(start, middle, condition, result, "plural")
            case _:
                start = [Piece("For"), Piece("all", "everyone"), Piece(group, "content")]
                start += [Piece(","), Piece("if", "if"), Piece("someone", "everyone")]
        before = self.formula(condition, "singular")
        after = self.formula(result, "plural", "claim")
        return [*start, *before, Piece(","), Piece("then", "then"), Piece("they", "then"), *after]

    def _split(
        self,
        start: Sequence[Piece],
        middle: Sequence[Piece],
        condition: Formula,
        result: Formula,
        form: Form,
    ) -> list[Piece]:
        before = self.formula(condition, form)
        first, *after = self.formula(result, form, "claim")
        return [*start, *before, *middle, replace(first, turns=not middle), *after]

    def formula(
        self, formula: Formula, form: Form, place: Literal["condition", "claim"] = "condition"
    ) -> list[Piece]:
        """Literals joined as the operation asks, in one form."""
        rng, parts = self.rng, formula.parts
        positive = all(part.positive for part in parts)
        several = len(parts) > 1 and formula.op == "all"
        if several and form == "singular" and not any(p.positive for p in parts):
            return self._neither(parts)
        opening: list[Piece] = []
        kinds = {self.predicates[str(part.name)].kind for part in parts}
        if positive and rng.random() < (0.35 if place == "claim" else 0.08):
            form, opening = "bare", [Piece(rng.choice(_CAN))]
        elif positive and kinds == {"verb"} and form == "singular" and rng.random() < 0.08:
            form = "going"
        said = [self._literal(part, form) for part in parts]
        shared: list[Piece] = []
        alike = positive and len({one[0] for one in said}) == 1 and said[0][0].role == "filler"
        if alike and rng.random() < 0.7:
            shared, said = [said[0][0]], [one[1:] for one in said]
        either = formula.op == "one_of" or (formula.op == "any" and rng.random() < 0.4)
        if either or (several and rng.random() < 0.1):
            word = Piece("either" if either else "both")
            shared = [*shared, word] if rng.random() < 0.75 else [word, *shared]
        joint = Piece("and", "and") if formula.op == "all" else Piece("or", "or")
        body = [piece for one in said for piece in (joint, *one)][1:]
        return [*opening, *shared, *body, *self._tail(formula, either=either)]

    def _neither(self, parts: Sequence[Signed]) -> list[Piece]:
        """`neither sings nor paints`."""
        pieces: list[Piece] = []
        for word, part in zip(("neither", "nor"), parts, strict=False):
            said = self._literal(part.opposite, "singular")
            pieces += [Piece(word, "negation"), *said]
        return pieces

    def _tail(self, formula: Formula, *, either: bool) -> list[Piece]:
        """`, but not both`, `(or both)`, or nothing."""
        rng = self.rng
        if formula.op == "one_of":
            words = Piece(rng.choice(_NOT_BOTH), "exclusive")
            return [Piece(","), words] if rng.random() < 0.6 else [Piece("("), words, Piece(")")]
        if formula.op == "any" and (either or rng.random() < 0.3):
            words = Piece(rng.choice(_OR_BOTH), "inclusive")
            return [Piece(","), words] if rng.random() < 0.15 else [Piece("("), words, Piece(")")]
        return []

    def _literal(self, part: Signed, form: Form) -> list[Piece]:
        one = self.predicates[str(part.name)]
        literal, self.count = self.count, self.count + 1
        no = [] if part.positive else [Piece("not", "negation")]
        words = f"{one.head} {one.rest}".strip()
        said = Piece(words, "content", literal)
        match one.kind:
            case "verb" if form == "going":
                words = f"{going(one.head)} {one.rest}"
                return [Piece("is"), *no, replace(said, text=words)]
            case "verb" if not part.positive and self.rng.random() < 0.1:
                return [Piece(self.rng.choice(("cannot", "will not")), "negation"), said]
            case "verb" if not part.positive:
                return [Piece(_DO[form]), *no, said]
            case "verb" if form == "singular":
                return [replace(said, text=f"{third(one.head)} {one.rest}")]
            case "verb":
                return [said]
            case "adjective":
                return [Piece(_BE[form]), *no, said]
            case "noun":
                article = "an" if words[0] in "aeiou" else "a"
                return [Piece(_BE[form]), *no, Piece(article), said]
            case "have":
                article = [Piece(with_article(words))] if with_article(words) else []
                if part.positive:
                    return [Piece(_HAVE[form]), *article, said]
                return [Piece(_DO[form]), *no, Piece("have"), *article, said]


def _joined(pieces: Sequence[Piece], claim: Claim) -> Sentence:
    text, marks, turn = "", list[Mark](), None
    for piece in pieces:
        tight = not text or text.endswith("(") or piece.text in (".", ",", ")")
        start = len(text) + (not tight)
        text = f"{text}{'' if tight else ' '}{piece.text}"
        if piece.turns:
            turn = (start, len(text))
        if piece.role != "filler":
            marks.append(Mark(start, len(text), piece.role, piece.literal))
    return Sentence(text, tuple(marks), claim, turn)
