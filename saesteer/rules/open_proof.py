"""Why an atom is true, false or unknown in an open world; what only cases decide is told by cases.

`not p` of an open p rests on `-p`. An atom that holds in every completion, though no rule surely
does, is proved once with p and once with -p, for as few open p as a greedy choice finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import final

from saesteer.rules.open_world import Judgement, both_sides, certain_rules, cone, judge
from saesteer.rules.proof import LeafOf, Proof
from saesteer.rules.terms import Atom, Literal, Program, Rule, contrary


def close_open(program: Program, facts: Iterable[Atom]) -> dict[Atom, Rule | None]:
    """Every atom that is true, with its rule (None: a fact); a bare one where it took cases."""
    facts = list(facts)
    came = certain_rules(program, facts)
    return came | {atom: Rule(atom) for atom in judge(program, facts).true - came.keys()}


def prove_open(program: Program, facts: Iterable[Atom], goal: Atom, leaf_of: LeafOf) -> Proof:
    """Why an atom is true, false or unknown, given exactly these facts."""
    facts = frozenset(facts)
    came, found = certain_rules(program, facts), judge(program, facts)
    return _OpenProver(program, facts, came, found, leaf_of).prove(Literal(goal))


@final
@dataclass(frozen=True)
class _OpenProver:
    program: Program
    facts: frozenset[Atom]
    came: Mapping[Atom, Rule | None]
    found: Judgement
    leaf_of: LeafOf

    def prove(self, literal: Literal, trail: tuple[Atom, ...] = ()) -> Proof:
        """A literal's verdict and what it rests on."""
        verdict, atom = self.found.of(literal), literal.atom
        if atom in self.found.true:
            told = self._true(atom)
        elif atom in self.found.unknown:
            told = self._unknown(atom, trail)
        else:
            told = self._false(atom, trail)
        return replace(told, literal=str(literal), holds=verdict is True, unknown=verdict is None)

    def _true(self, atom: Atom) -> Proof:
        if atom not in self.came:
            return self._by_cases(atom, holds=True)
        rule, leaf = self.came[atom], self.leaf_of(atom)
        if rule is None:
            return Proof("", True, leaf=leaf, note="" if leaf else "given")
        return Proof("", True, rule=rule, children=tuple(map(self.prove, rule.body)))

    def _unknown(self, atom: Atom, trail: tuple[Atom, ...]) -> Proof:
        """An open atom without a sign of either, or rules that wait for such."""
        leaf = self.leaf_of(atom)
        note = f"neither {atom} nor {contrary(atom)} follows" if self._is_open(atom) else ""
        if atom in trail:
            return Proof("", False, leaf=leaf, note=note or f"it rests on {atom} itself")
        waits = [
            self.prove(literal, (*trail, atom))
            for rule in self._rules(atom)
            if all(self.found.of(b) is not False for b in rule.body)
            for literal in rule.body
            if self.found.of(literal) is None
        ]
        return Proof("", False, leaf=leaf, children=tuple(waits), note=note or "it rests on")

    def _false(self, atom: Atom, trail: tuple[Atom, ...]) -> Proof:
        if self._is_open(atom):
            return Proof("", False, children=(self.prove(Literal(contrary(atom))),))
        leaf, rules = self.leaf_of(atom), self._rules(atom)
        if leaf is not None and not rules:
            return Proof("", False, leaf=leaf)
        if atom in trail:
            return Proof("", False, note=f"{atom} would have to support itself")
        if any(all(self.found.of(b) is not False for b in rule.body) for rule in rules):
            return self._by_cases(atom, holds=False)
        failed = [self._first_failing(rule, (*trail, atom)) for rule in rules]
        if leaf is not None:
            failed.insert(0, Proof(str(atom), holds=False, leaf=leaf))
        note = "no rule for it holds" if rules else "not given"
        return Proof("", False, children=tuple(failed), note=note)

    def _first_failing(self, rule: Rule, trail: tuple[Atom, ...]) -> Proof:
        failing = (b for b in rule.body if self.found.of(b) is False)
        return self.prove(next(failing), trail)

    def _by_cases(self, atom: Atom, *, holds: bool) -> Proof:
        """The same verdict with an open atom true and with it false."""
        unsettled = [p for p in cone(self.program, atom) if p in self.found.unknown]
        split = min(unsettled, key=lambda p: self._n_left(p, atom))
        cases = [self._given(side) for side in (split, contrary(split))]
        steps = (
            replace(case.prove(Literal(atom)), note=f"if {side}")
            for case, side in zip(cases, (split, contrary(split)), strict=True)
        )
        return Proof("", holds, children=tuple(steps), note=f"whether {split} or not")

    def _n_left(self, split: Atom, goal: Atom) -> int:
        """In how many of the two cases more cases would be needed."""
        both = (self._given(side) for side in (split, contrary(split)))
        return sum(not case.is_plain(goal) for case in both)

    def is_plain(self, atom: Atom) -> bool:
        """Whether the atom is decided without looking at cases."""
        if atom in self.found.true:
            return atom in self.came
        return all(any(self.found.of(b) is False for b in r.body) for r in self._rules(atom))

    def _given(self, fact: Atom) -> _OpenProver:
        facts = self.facts | {fact}
        came, found = certain_rules(self.program, facts), judge(self.program, facts)
        return replace(self, facts=facts, came=came, found=found)

    def _rules(self, atom: Atom) -> list[Rule]:
        return [rule for rule in self.program.rules if rule.head == atom]

    def _is_open(self, atom: Atom) -> bool:
        return atom in both_sides(self.program)
