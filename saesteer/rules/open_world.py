"""Open atoms: true, false or unknown, where any other atom is false unless it follows.

An open p is true where it is read or derived, false where `-p` is, and unknown where neither is.
Let every unknown open atom be settled, one way or the other: that is a *completion*. In it just one
of p and -p holds, every other atom is closed as ever, and the program has one answer set. What
holds in all completions is **true**, in none **false**, in some **unknown**. So

- `not p` of an open p says that p is false, just as `-p` does. It can't say "p was not found":
  that p was not found is no reason for anything, or p would not be open. `not q` of a closed q
  stays negation as failure, and is unknown where q rests on something unknown.
- Cases count: with `act :- p.` and `act :- not p.` act is true whatever p is. Kleene's tables would
  call it unknown, and would judge rules by how they are written and not by what they mean.
- Rules are not turned round: with `h :- p.` and `-h` read, p stays unknown. A completion makes no
  p true where -p follows, and none is dropped: p together with -p raises an alarm as ever.
- Gates are open and alarms raised where that is certain.
- Rules with variables are spelled out first (`open_ground`), and all else is of propositions.

Kleene's tables are sound all the same, and run as tensors: `doubled` writes each rule twice, for
what is certain and for what may be (`p?`). They are exact for an atom that rests on no open atom in
two ways; where one does (a *knot*) and they say unknown, clingo looks at the completions.
Source: Gelfond, Lifschitz 1991, for p, -p and unknown; the reading of `not` is this project's own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import clingo

from saesteer.errors import RuleError
from saesteer.rules.ground import atom_of, for_clingo
from saesteer.rules.stratify import schema_of, strata_of
from saesteer.rules.terms import Atom, Literal, Program, Rule, Term, contrary, is_strength

MANY = 2


@final
@dataclass(frozen=True)
class Judgement:
    """Every atom that is true, and every one that is unknown; all others are false."""

    true: frozenset[Atom]
    unknown: frozenset[Atom]

    def of(self, literal: Literal) -> bool | None:
        """True, False, or None for unknown."""
        if literal.atom in self.unknown:
            return None
        return (literal.atom in self.true) != literal.negated

    def violates(self, rule: Rule) -> bool:
        """Whether the body surely holds; what holds in every completion does so part by part."""
        return all(self.of(literal) is True for literal in rule.body)


def maybe(atom: Atom) -> Atom:
    """`p?`: that p may hold, in `doubled`; no rule in text can name it."""
    return Atom(f"{atom}?")


def as_written(rule: Rule) -> Rule:
    """The rule that `doubled` made this one of."""
    head = None if rule.head is None else _plain(rule.head)
    return replace(rule, head=head, body=tuple(replace(b, atom=_plain(b.atom)) for b in rule.body))


def doubled(program: Program) -> Program:
    """Kleene's bounds as a closed program: p is certain, `p?` is possible; facts are certain."""
    rules: list[Rule] = []
    for rule in program.statements:
        rules.append(replace(rule, body=tuple(_read(b, certain=True) for b in rule.body)))
        if rule.head is not None:
            body = tuple(_read(b, certain=False) for b in rule.body)
            rules.append(replace(rule, head=maybe(rule.head), body=body))
    rules += [Rule(maybe(atom), (Literal(atom),)) for atom in program.atoms]
    rules += [Rule(maybe(atom), (Literal(contrary(atom), 1),)) for atom in both_sides(program)]
    return Program(tuple(rules), program.source)


def completion_rules(program: Program) -> Program:
    """The closed program of a completion, which is chosen by its facts `__may(p)`.

    A given open p is the fact `__yes(p)`, a given -p `__no(p)`; see `given_as`.
    """
    opened = frozenset(program.open)
    rules = [replace(r, head=_given_as(opened, r.head)) for r in program.rules if r.head]
    for atom in program.open:
        yes, no, may = (_about(word, atom) for word in ("__yes", "__no", "__may"))
        rules += [Rule(atom, (Literal(yes),)), Rule(atom, (Literal(may), Literal(no, 1)))]
        rules += [Rule(contrary(atom), (Literal(no),)), Rule(contrary(atom), (Literal(atom, 1),))]
    return Program(tuple(rules), program.source)


def given_as(program: Program, atom: Atom) -> Atom:
    """The fact or head that stands for an atom in `completion_rules`."""
    return _given_as(program.open, atom)


def _given_as(opened: Collection[Atom], atom: Atom) -> Atom:
    if atom in opened:
        return _about("__yes", atom)
    return _about("__no", contrary(atom)) if contrary(atom) in opened else atom


def both_sides(program: Program) -> tuple[Atom, ...]:
    """Every open p, and every -p of one."""
    return tuple(side for atom in program.open for side in (atom, contrary(atom)))


def check_open(program: Program) -> None:
    """Refuse open atoms where they have no clear meaning.

    With variables, predicates are looked at instead of atoms.

    Raises:
        RuleError: rules that read strengths, an open -p, or p and -p that rest on each other.
    """
    denied = next((atom for atom in program.open if atom.strong), None)
    if denied is not None:
        raise RuleError(
            f"{program.source}: open: {denied} is the denial of {contrary(denied)}, and both are "
            f"open together. Write {contrary(denied)}."
        )
    read = (b for s in program.statements for b in s.body if is_strength(b.atom))
    if (strength := next(read, None)) is not None:
        raise RuleError(
            f"{program.source} line {strength.line}: '{strength}' is always known, so nothing "
            "that reads it can be open. Leave out open:, or use concepts with thresholds instead."
        )
    try:
        strata_of(completion_rules(program if program.is_ground else schema_of(program)))
    except RuleError as error:
        found = re.search(r"cycle through negation: (.*)\. What", str(error))
        cycle = re.sub(r" \(line 0\)", "", found[1] if found else str(error))
        cycle = cycle.replace("__yes", "a rule for ").replace("__no", "a rule against ")
        raise RuleError(
            f"{program.source}: an open atom rests on its own falsehood, so that leaving it open "
            f"has no meaning: {cycle}. Take it out of open:, or break the cycle."
        ) from None


def judge(program: Program, facts: Iterable[Atom]) -> Judgement:
    """What is true and what unknown, given exactly these facts."""
    from saesteer.rules.proof import closure

    facts = set(facts)
    bounds = closure(doubled(program), facts)
    true = frozenset(atom for atom in {*program.atoms, *facts} if atom in bounds)
    unknown = frozenset(a for a in program.atoms if maybe(a) in bounds) - true
    found = Judgement(true, unknown)
    return look_at_completions(program, facts) if unknown & knots(program) else found


def look_at_completions(program: Program, facts: Iterable[Atom]) -> Judgement:
    """The same from all completions, by clingo's cautious and brave consequences."""
    control = clingo.Control(["--models=0"], logger=lambda *_: None)
    lines = [str(for_clingo(rule)) for rule in completion_rules(program).rules]
    lines += [str(for_clingo(Rule(given_as(program, fact)))) for fact in facts]
    lines += [f"{{{_about('__may', atom)}}}." for atom in program.open]
    control.add("base", [], "\n".join(lines))
    control.ground([("base", [])])
    always, sometimes = (_consequences(control, mode) for mode in ("cautious", "brave"))
    known = {*program.atoms, *facts}
    return Judgement(always & known, (sometimes - always) & known)


def knots(program: Program) -> frozenset[Atom]:
    """The atoms that rest on one open atom in two ways, where Kleene's tables may know too little.

    Ways are counted up to two, over rules and literals; a cycle through an open atom is a knot.
    """
    opened = frozenset(program.open)
    rests: dict[Atom, list[Atom]] = {}
    for rule in program.rules:
        if rule.head is not None:
            on = (_side(opened, literal.atom) for literal in rule.body)
            rests.setdefault(_side(opened, rule.head), []).extend(on)
    ways: dict[Atom, dict[Atom, int]] = {atom: {atom: 1} for atom in opened}
    grew = True
    while grew:
        grew = False
        for atom, parts in rests.items():
            new = {atom: 1} if atom in opened else {}
            for part in parts:
                for source, n in ways.get(part, {}).items():
                    new[source] = min(MANY, new.get(source, 0) + n)
            grew |= ways.get(atom, {}) != new
            ways[atom] = new
    tied = {atom for atom, found in ways.items() if MANY in found.values()}
    return frozenset(atom for atom in program.atoms if _side(opened, atom) in tied)


def cone(program: Program, goal: Atom) -> Iterator[Atom]:
    """The open atoms that an atom rests on, nearest first."""
    opened = frozenset(program.open)
    queue, seen = [_side(opened, goal)], set[Atom]()
    for atom in queue:
        if atom in seen:
            continue
        seen.add(atom)
        if atom in opened:
            yield atom
        rules = [r for r in program.rules if r.head and _side(opened, r.head) == atom]
        queue += [_side(opened, b.atom) for rule in rules for b in rule.body]


def certain_rules(program: Program, facts: Iterable[Atom]) -> dict[Atom, Rule | None]:
    """What is certain by Kleene's tables, with the rule, as written, that made it so."""
    from saesteer.rules.proof import closure

    found = closure(doubled(program), facts)
    return {
        atom: None if rule is None else as_written(rule)
        for atom, rule in found.items()
        if not atom.name.endswith("?")
    }


def _consequences(control: clingo.Control, mode: str) -> frozenset[Atom]:
    solving: Any = control.configuration.solve
    solving.enum_mode = mode
    found: frozenset[Atom] | None = None
    with control.solve(yield_=True) as handle:
        for model in handle:
            found = frozenset(map(atom_of, model.symbols(atoms=True)))
    assert found is not None, "each completion of a stratified program has an answer set"
    return found


def _read(literal: Literal, *, certain: bool) -> Literal:
    """A literal on the side that makes it hold surely, or at best."""
    return literal if literal.negated != certain else replace(literal, atom=maybe(literal.atom))


def _plain(atom: Atom) -> Atom:
    return Atom.parse(atom.name[:-1]) if atom.name.endswith("?") else atom


def _side(opened: Collection[Atom], atom: Atom) -> Atom:
    """The same node for p and -p of an open p, since each settles the other."""
    return contrary(atom) if contrary(atom) in opened else atom


def _about(word: str, atom: Atom) -> Atom:
    return Atom(word, args=(Term(str(atom)),))
