"""What a rule file says without effect: warnings, since each may be meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from saesteer.rules.open_world import both_sides
from saesteer.rules.terms import Atom, Program, Rule, is_strength


def lint(program: Program, concepts: Iterable[str], acting: Iterable[Atom]) -> list[str]:
    """One line for each: unused concepts and heads, rules that can't fire or add nothing.

    Args:
        acting: heads that have an act.
    """
    given = [Atom.parse(name) for name in concepts]
    found = [*_unused(program, given, set(acting)), *_dead(program, given), *_shadowed(program)]
    return [f"{program.source}: {line}" for line in found]


def _unused(program: Program, given: list[Atom], acting: set[Atom]) -> Iterator[str]:
    used = {b.atom.schema for s in program.statements for b in s.body}
    strengths = {
        str(b.atom.args[0]) for s in program.statements for b in s.body if is_strength(b.atom)
    }
    any_strength = any(name[:1].isupper() or name[:1] == "_" for name in strengths)
    for atom in given:
        if atom.schema not in used and str(atom) not in strengths and not any_strength:
            yield f"concept '{atom}' is read by no rule."
    for head in dict.fromkeys(head.schema for head in program.heads):
        if acting and head not in used and head not in {atom.schema for atom in acting}:
            yield f"'{head}' is derived, but no rule reads it and it has no act."


def _dead(program: Program, given: list[Atom]) -> Iterator[str]:
    """Rules whose body contradicts itself, or rests on what nothing can make true."""
    possible, grown = {a.schema for a in (*given, *both_sides(program))}, True
    while grown:
        able = [r for r in program.rules if _reachable(r, possible)]
        new = {r.head.schema for r in able if r.head is not None}
        grown = not new <= possible
        possible |= new
    for rule in program.statements:
        wanted = {b.atom for b in rule.body if not b.negated}
        absent = {b.atom for b in rule.body if b.negated}
        if wanted & absent:
            both = min(map(str, wanted & absent))
            yield f"line {rule.line}: '{rule}' never fires: it needs '{both}' and its absence."
        elif not _reachable(rule, possible):
            yield f"line {rule.line}: '{rule}' never fires: nothing makes its body true."


def _reachable(rule: Rule, possible: set[Atom]) -> bool:
    return all(b.nots or is_strength(b.atom) or b.atom.schema in possible for b in rule.body)


def _shadowed(program: Program) -> Iterator[str]:
    """Rules that hold only where another rule of the same head does."""
    for i, rule in enumerate(program.statements):
        for j, other in enumerate(program.statements):
            wider = _signs(other) < _signs(rule) or (_signs(other) == _signs(rule) and j < i)
            if i != j and rule.head == other.head and wider:
                yield f"line {rule.line}: '{rule}' adds nothing to line {other.line}: '{other}'"
                break


def _signs(rule: Rule) -> set[object]:
    return {*((b.atom, b.negated) for b in rule.body), *rule.tests}
