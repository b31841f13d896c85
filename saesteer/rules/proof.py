"""Why an atom holds, or does not: a tree from the atom down to scores, thresholds and tokens.

Proofs are made on the host, for one token, only when somebody asks. They come from a forward
chaining of their own, which remembers what derived each atom first, so that a proof through a
positive cycle is well-founded; the tests hold it and the tensor program to the same answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final, get_args

from saesteer.features.concepts import Over
from saesteer.rules.stratify import strata_of, stratify
from saesteer.rules.syntax import Atom, Literal, Program, Rule


@final
@dataclass(frozen=True)
class Leaf:
    """What a concept's truth rests on.

    `score` is the one compared with `threshold`, aggregated if the concept is; `position` is the
    token that gave it (for a mean: the last token that entered), counted within the row's text.
    """

    concept: str
    readout: str
    score: float
    threshold: float
    aggregate: str
    position: int
    token: str

    def __str__(self) -> str:
        """`feature 12 scored 3.1 > 2.5 at token 4 ' hurts'`."""
        if not math.isfinite(self.score):
            if self.aggregate == "token":
                return f"{self.readout} isn't read at special tokens, such as {self.token!r}"
            return f"{self.readout}, {self._span}: no token of it read so far"
        sign = ">" if self.score > self.threshold else "<="
        over = "" if self.aggregate == "token" else f", {self._span}"
        return (
            f"{self.readout} scored {self.score:.4g} {sign} {self.threshold:g}{over}, "
            f"token {self.position} {self.token!r}"
        )

    @property
    def _span(self) -> str:
        over = self.aggregate in get_args(Over)
        return f"{self.aggregate} of the prompt" if over else self.aggregate

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values; a score of nothing is null."""
        return vars(self) | {"score": self.score if math.isfinite(self.score) else None}


@final
@dataclass(frozen=True)
class Proof:
    """One step: a literal, whether it holds (or is unknown), and what that rests on.

    Exactly one of these explains it: `leaf` (a concept), `rule` with its body as `children` (a
    derived atom), neither with `children` (no rule held: one child per rule, its first failing
    literal), or neither and no children (`note` says why).
    """

    literal: str
    holds: bool
    rule: Rule | None = None
    leaf: Leaf | None = None
    children: tuple[Proof, ...] = ()
    note: str = ""
    unknown: bool = False

    def __str__(self) -> str:
        """The tree, one line a step."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The tree's lines, without a newline."""
        lines = [self._headline()]
        for index, child in enumerate(self.children):
            last = index == len(self.children) - 1
            first, *rest = child.lines()
            lines.append(("└─ " if last else "├─ ") + first)
            lines += [("   " if last else "│  ") + line for line in rest]
        return lines

    def leaves(self) -> Iterator[Leaf]:
        """Every concept the proof rests on, left to right."""
        if self.leaf is not None:
            yield self.leaf
        for child in self.children:
            yield from child.leaves()

    def as_dict(self) -> dict[str, Any]:
        """The tree as JSON values."""
        out: dict[str, Any] = {"literal": self.literal, "holds": self.holds}
        if self.unknown:
            out["unknown"] = True
        if self.rule is not None:
            out |= {"rule": str(self.rule), "line": self.rule.line}
        if self.leaf is not None:
            out["leaf"] = self.leaf.as_dict()
        if self.note:
            out["note"] = self.note
        return out | {"because": [child.as_dict() for child in self.children]}

    def _headline(self) -> str:
        verdict = "holds" if self.holds else "is unknown" if self.unknown else "does not hold"
        told = f", {self.note}" if self.note else ""
        if self.leaf is not None:
            return f"{self.literal} {verdict}{told}: {self.leaf}"
        if self.rule is not None:
            return f"{self.literal} {verdict}{told}: {self.rule}  (line {self.rule.line})"
        return f"{self.literal} {verdict}" + (f": {self.note}" if self.note else "")


LeafOf = Callable[[Atom], "Leaf | None"]


def closure(program: Program, facts: Iterable[Atom]) -> dict[Atom, Rule | None]:
    """Every atom that follows from the facts, with the rule that derived it first (None: a fact).

    With open atoms, what surely follows.

    Raises:
        RuleError: a cycle through negation, or a grounding that could get too large.
    """
    if program.open:
        from saesteer.rules.open_proof import close_open

        return close_open(program, facts)
    came: dict[Atom, Rule | None] = dict.fromkeys(facts)
    if not program.is_ground:
        from saesteer.rules.ground import instances, solve

        stratify(program)
        true = solve(program, came)
        program = Program(tuple(instances(program.rules, true)), program.source)
    for stratum in strata_of(program):
        for _ in range(stratum.passes):
            new = [rule for rule in stratum.rules if _satisfied(rule, came)]
            for rule in new:
                if rule.head is not None:
                    came.setdefault(rule.head, rule)
    return came


def prove(
    program: Program,
    came: Mapping[Atom, Rule | None],
    atom: Atom,
    leaf_of: LeafOf = lambda _: None,
) -> Proof:
    """Why `atom` holds, or why it does not, given what `closure` returned.

    Args:
        leaf_of: what a concept's truth rests on; None for an atom that is no concept.
    """
    if program.open:
        from saesteer.rules.open_proof import prove_open

        return prove_open(program, facts_in(came), atom, leaf_of)
    return _Prover(program, came, leaf_of).prove(Literal(atom))


def facts_in(came: Mapping[Atom, Rule | None]) -> set[Atom]:
    """What `closure` was given."""
    return {atom for atom, rule in came.items() if rule is None}


def rules_for(program: Program, came: Mapping[Atom, Rule | None], atom: Atom) -> list[Rule]:
    """The rules that could derive an atom; with variables, the instances that get furthest."""
    if program.is_ground:
        return [rule for rule in program.rules if rule.head == atom]
    from saesteer.rules.ground import Index, attempt

    index = Index(came)
    found = (attempt(rule, atom, index) for rule in program.rules)
    return [rule for rule in found if rule is not None] if atom.is_ground else []


@final
@dataclass(frozen=True)
class _Prover:
    program: Program
    came: Mapping[Atom, Rule | None]
    leaf_of: LeafOf

    def prove(self, literal: Literal, trail: tuple[Atom, ...] = ()) -> Proof:
        atom, holds = literal.atom, _true(literal, self.came)
        leaf = self.leaf_of(atom)
        if atom in self.came:
            rule = self.came[atom]
            if rule is None:
                return Proof(str(literal), holds, leaf=leaf, note="" if leaf else "given")
            steps = tuple(self.prove(body) for body in rule.body)
            return Proof(str(literal), holds, rule=rule, children=steps)
        rules = rules_for(self.program, self.came, atom)
        if leaf is not None and not rules:
            return Proof(str(literal), holds, leaf=leaf)
        if atom in trail:
            return Proof(str(literal), holds, note=f"{atom} would have to support itself")
        failed = [self._first_failing(rule, (*trail, atom)) for rule in rules]
        if leaf is not None:
            failed.insert(0, Proof(str(atom), holds=False, leaf=leaf))
        note = "no rule for it holds" if rules else "not given"
        return Proof(str(literal), holds, children=tuple(failed), note=note)

    def _first_failing(self, rule: Rule, trail: tuple[Atom, ...]) -> Proof:
        for literal in rule.body:
            if not _true(literal, self.came):
                return self.prove(literal, trail)
        return Proof(str(rule.tests[0]), holds=False, note=f"in {rule}")


def _true(literal: Literal, came: Mapping[Atom, Rule | None]) -> bool:
    return (literal.atom in came) != literal.negated


def _satisfied(rule: Rule, came: Mapping[Atom, Rule | None]) -> bool:
    return all(_true(literal, came) for literal in rule.body)
