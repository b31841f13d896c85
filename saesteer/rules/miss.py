"""Why an atom does not hold, told by its nearest miss: the fewest changes that would derive it.

Each rule for the atom is asked what would have to be otherwise at the bottom: a concept over or
under its threshold, a strength past a number, a fact given or not. The rule with the fewest changes
is the nearest; among equals the one whose scores are closest. Scores of different readouts have
different scales, so distances are compared as |score - threshold| over the larger of the two, which
has no unit. A change can have effects elsewhere, so the answer is tried out: `enough` says whether
the atom then follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from saesteer.rules.open_world import as_written, doubled, judge
from saesteer.rules.proof import Leaf, LeafOf, closure, facts_in, rules_for
from saesteer.rules.stratify import stratify
from saesteer.rules.terms import STRENGTH, Atom, Comparison, Program, Rule, Term, is_strength

THOUSAND = 1000


@final
@dataclass(frozen=True)
class Change:
    """One thing that would have to be otherwise.

    Attributes:
        literal: what must hold: `pain`, `not casual`, `650 > 700`.
        by: how far the score is from it, in the score's own units; infinite if there is no score.
        relative: the same over the larger of score and threshold; 1 for a fact without a score.
        moves: thousandths that a strength would have to move; 0 if the change is of no strength.
    """

    literal: str
    atom: Atom
    holds: bool
    by: float = math.inf
    relative: float = 1.0
    leaf: Leaf | None = None
    moves: int = 0

    def __str__(self) -> str:
        """`pain must hold: feature 12 scored 2.1 <= 2.5, token 4 ' hurts'; 0.4 is missing`."""
        if self.moves:
            return f"{self.literal} must hold: the strength of {self.atom.args[0]} by {self.by:g}"
        if self.leaf is None:
            return f"{self.literal} must hold: {'not given' if self.holds else 'given'}"
        way = "is missing" if self.holds else "too much"
        told = f"; {self.by:.4g} {way}" if math.isfinite(self.by) else ""
        return f"{self.literal} must hold: {self.leaf}{told}"

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values; no distance is null."""
        by = self.by if math.isfinite(self.by) else None
        leaf = None if self.leaf is None else self.leaf.as_dict()
        return {"literal": self.literal, "by": by, "relative": self.relative, "leaf": leaf}


@final
@dataclass(frozen=True)
class NearMiss:
    """The nearest way to an atom: the rule (None: the atom is a concept or a fact), the changes.

    No changes means that nothing which may change derives it. `enough` is whether the changes
    derive it, all their effects counted.
    """

    atom: str
    rule: Rule | None
    changes: tuple[Change, ...]
    enough: bool
    unknown: bool = False

    def __str__(self) -> str:
        """The atom, the rule, and one line a change."""
        verdict = "is unknown" if self.unknown else "does not hold"
        if not self.changes:
            return f"{self.atom} {verdict}, and no change of a concept or fact would derive it"
        by = "" if self.rule is None else f", nearest by {self.rule}  (line {self.rule.line})"
        lines = [f"{self.atom} {verdict}{by}", *(f"- {change}" for change in self.changes)]
        return "\n".join(lines + ["- and this would undo it elsewhere"] * (not self.enough))

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        rule = None if self.rule is None else str(self.rule)
        changes = [change.as_dict() for change in self.changes]
        told = {"atom": self.atom, "rule": rule, "changes": changes, "enough": self.enough}
        return told | {"unknown": True} if self.unknown else told


Changes = Mapping[Atom, Change]


def near_miss(
    program: Program,
    came: Mapping[Atom, Rule | None],
    atom: Atom,
    leaf_of: LeafOf = lambda _: None,
) -> NearMiss | None:
    """What is missing for `atom`, given what `closure` returned; None if it holds."""
    if atom in came:
        return None
    search = _Search(*_bounds(program, came), leaf_of)
    ways = [(rule, search.meet(rule, frozenset({(atom, True)}))) for rule in search.rules_for(atom)]
    ways += [(None, search.own(atom, holds=True))]
    found = [(rule, way) for rule, way in ways if way]
    unknown = bool(program.open) and atom in judge(program, facts_in(came)).unknown
    if not found:
        return NearMiss(str(atom), None, (), False, unknown)
    tried = [(not _enough(program, came, atom, way), _cost(way), rule, way) for rule, way in found]
    fails, _, rule, way = min(tried, key=lambda one: one[:2])
    rule = rule if rule is None else as_written(rule)
    return NearMiss(str(atom), rule, tuple(way.values()), not fails, unknown)


def _bounds(
    program: Program, came: Mapping[Atom, Rule | None]
) -> tuple[Program, Mapping[Atom, Rule | None]]:
    """What is searched: with open atoms, what is certain and what may be, side by side."""
    stratify(program)
    if not program.open:
        return program, came
    both = doubled(program)
    return both, closure(both, facts_in(came))


@final
@dataclass
class _Search:
    """Cheapest changes by atom and wanted truth; None where there are none.

    A proof may not rest on itself, but what rests on itself falls with itself.
    """

    program: Program
    came: Mapping[Atom, Rule | None]
    leaf_of: LeafOf
    known: dict[tuple[Atom, bool], Changes | None] = field(default_factory=dict)
    cuts: int = 0

    def rules_for(self, atom: Atom) -> list[Rule]:
        return rules_for(self.program, self.came, atom)

    def reach(self, atom: Atom, holds: bool, trail: frozenset[tuple[Atom, bool]]) -> Changes | None:
        if (atom in self.came) == holds:
            return {}
        if (atom, holds) in self.known:
            return self.known[atom, holds]
        if (atom, holds) in trail:
            self.cuts += 1
            return None if holds else {}
        before, trail = self.cuts, trail | {(atom, holds)}
        found = self._raise(atom, trail) if holds else self._drop(atom, trail)
        if self.cuts == before:
            self.known[atom, holds] = found
        return found

    def meet(self, rule: Rule, trail: frozenset[tuple[Atom, bool]]) -> Changes | None:
        """What would make the body hold."""
        if not all(literal.atom.is_ground for literal in rule.body):
            return None
        parts = [self.reach(b.atom, not b.negated, trail) for b in rule.body]
        return _together([*parts, *(_moved(test, rule) for test in rule.tests)])

    def own(self, atom: Atom, holds: bool) -> Changes | None:
        """What a concept or fact would need by itself."""
        leaf = self.leaf_of(atom)
        if is_strength(atom) or (leaf is None and holds and atom in self.program.heads):
            return None
        literal = str(atom) if holds else f"not {atom}"
        if leaf is None:
            return {atom: Change(literal, atom, holds)}
        by = abs(leaf.score - leaf.threshold)
        scale = max(abs(leaf.score), abs(leaf.threshold))
        relative = by / scale if math.isfinite(by) and scale else 2.0 if by else 0.0
        return {atom: Change(literal, atom, holds, by, relative, leaf)}

    def _raise(self, atom: Atom, trail: frozenset[tuple[Atom, bool]]) -> Changes | None:
        ways = [self.meet(rule, trail) for rule in self.rules_for(atom)]
        return _cheapest([*ways, self.own(atom, holds=True)])

    def _drop(self, atom: Atom, trail: frozenset[tuple[Atom, bool]]) -> Changes | None:
        """Whatever gives the atom must go: the fact, and every rule that holds."""
        parts = [self.own(atom, holds=False)] if self.came[atom] is None else []
        for rule in self._holding(atom):
            parts.append(_cheapest(self.reach(b.atom, b.negated, trail) for b in rule.body))
        return _together(parts)

    def _holding(self, atom: Atom) -> list[Rule]:
        from saesteer.rules.ground import instances, satisfied

        true = frozenset(self.came)
        rules = [r for r in self.program.rules if r.head is not None]
        if self.program.is_ground:
            return [r for r in rules if r.head == atom and satisfied(r, true)]
        about = [r for r in rules if r.head is not None and r.head.schema == atom.schema]
        return [r for r in instances(about, true) if r.head == atom]


def _moved(test: Comparison, rule: Rule) -> Changes | None:
    """How far the strength in a failing comparison would have to move."""
    if not (test.left.is_integer and test.right.is_integer):
        return None
    left, right = int(test.left.text), int(test.right.text)
    one = {">": 1, "<": -1, "!=": 1}.get(test.sign, 0)
    read = [b.atom for b in rule.body if is_strength(b.atom) and not b.nots]
    for side, sign in ((test.left, 1), (test.right, -1)):
        for atom in read:
            if atom.args[1] == side:
                moves = sign * (right - left + one)
                relative = abs(moves) / max(abs(left), abs(right), 1)
                by = abs(moves) / THOUSAND
                return {atom: Change(str(test), atom, True, by, relative, None, moves)}
    return None


def _together(parts: Iterable[Changes | None]) -> Changes | None:
    """All of them; None if one can't be or two pull one thing both ways."""
    out: dict[Atom, Change] = {}
    for part in parts:
        if part is None:
            return None
        for atom, change in part.items():
            other = out.get(atom, change)
            if other.holds != change.holds or other.moves * change.moves < 0:
                return None
            out[atom] = max(other, change, key=lambda one: abs(one.moves))
    return out


def _cheapest(ways: Iterable[Changes | None]) -> Changes | None:
    return min((way for way in ways if way is not None), key=_cost, default=None)


def _cost(way: Changes) -> tuple[int, float]:
    return len(way), sum((change.relative for change in way.values()), 0.0)


def _enough(program: Program, came: Mapping[Atom, Rule | None], goal: Atom, way: Changes) -> bool:
    facts = facts_in(came)
    for atom, change in way.items():
        if change.moves:
            value = Term(str(int(atom.args[1].text) + change.moves))
            facts = (facts - {atom}) | {Atom(STRENGTH, args=(atom.args[0], value))}
        else:
            facts = facts | {atom} if change.holds else facts - {atom}
    return goal in closure(program, facts)
