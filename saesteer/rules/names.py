"""Whether the names in rules and acts are those of concepts and heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from saesteer.errors import RuleError
from saesteer.rules.open_world import both_sides, check_open
from saesteer.rules.syntax import nearest
from saesteer.rules.terms import STRENGTH, Atom, Program, contrary, is_strength


def check_defined(program: Program, concepts: Iterable[str]) -> None:
    """Every atom in a body is a concept or derived.

    Raises:
        RuleError: with line, column, and the nearest name.
    """
    names = [Atom.parse(name) for name in concepts]
    known = {*names, *program.heads, *both_sides(program)}
    shapes = {atom.schema for atom in known if atom.args}
    for rule in program.statements:
        for literal in rule.body:
            atom = literal.atom
            place = f"{program.source} line {literal.line}, column {literal.column}"
            if is_strength(atom):
                _check_strength(atom, names, place)
            elif atom not in known and atom.schema not in shapes:
                hint = nearest(str(atom), map(str, known))
                if atom.strong and Atom(atom.name, args=atom.args) in known:
                    hint = f"; did you mean 'not {Atom(atom.name, args=atom.args)}'?"
                raise RuleError(
                    f"{place}: '{atom}' is neither a concept nor the head of a rule{hint or '.'} "
                    "Define it under concepts: or derive it."
                )


def _check_strength(atom: Atom, concepts: Iterable[Atom], place: str) -> None:
    """The first argument must be a concept without arguments, or a variable."""
    named, names = atom.args[0], [c.name for c in concepts if not (c.args or c.strong)]
    if not named.is_variable and str(named) not in names:
        hint = nearest(str(named), names)
        raise RuleError(
            f"{place}: {STRENGTH}({named}, ...) reads no concept{hint or '.'} "
            "Its first argument is the name of one under concepts:."
        )


def leave_open(program: Program, names: Sequence[Atom] | None, concepts: Iterable[str]) -> Program:
    """The program with some of its atoms open; None for all of them.

    Raises:
        RuleError: what is no concept or head, or can't be open (see `open_world`).
    """
    known = [*map(Atom.parse, concepts), *program.heads]
    bare = dict.fromkeys(Atom(atom.name) for atom in known if not atom.strong)
    named = list(bare) if names is None else names
    sides = frozenset(_both(known))
    for atom in named:
        if sides.isdisjoint(_meant(atom, known)):
            hint = nearest(str(atom), map(str, known))
            raise RuleError(
                f"{program.source}: open: {atom} is neither a concept nor the head of a rule"
                f"{hint or '.'} Only these can be open."
            )
    made = open_as(program, named, known)
    if made.open:
        check_open(made)
    return made


def open_as(program: Program, names: Iterable[Atom], known: Iterable[Atom]) -> Program:
    """The program with these open; a name without arguments stands for every atom that has it.

    Args:
        known: the atoms there are.
    """
    chosen: dict[Atom, None] = {}
    for name in names:
        for atom in _meant(name, known):
            whole = program.is_ground or atom == name
            chosen[atom if whole else atom.schema] = None
    return replace(program, open=tuple(chosen))


def check_heads(program: Program, heads: Iterable[Atom]) -> None:
    """Every head with an act is derived.

    Raises:
        RuleError: naming the head, and the nearest one.
    """
    for head in heads:
        if head not in program.heads and head.schema not in _shapes(program):
            hint = nearest(str(head), map(str, program.heads))
            raise RuleError(
                f"{program.source}: acts.{head} has no rule that derives '{head}'{hint or '.'} "
                f"Write one, such as '{head} :- CONCEPT.'"
            )


def _both(atoms: Iterable[Atom]) -> list[Atom]:
    return [side for atom in atoms for side in (atom, contrary(atom))]


def _meant(name: Atom, known: Iterable[Atom]) -> list[Atom]:
    """The atoms of a name, if it has no arguments; the atom itself otherwise."""
    same = [a for a in _both(known) if (a.name, a.strong) == (name.name, name.strong)]
    return list(dict.fromkeys(same)) if same and not name.args else [name]


def _shapes(program: Program) -> set[Atom]:
    """What heads with variables derive."""
    return {head.schema for head in program.heads if not head.is_ground}
