"""The rule language: a subset of Answer Set Programming, read so that clingo agrees on every word.

Whatever is accepted here clingo accepts unchanged, so it can be our oracle. What a user may try
and clingo would read as something else (a comparison on a concept's name, an upper-case name) is
refused with the spelling that works. Printing a program and parsing it again gives it back.

    careful :- pain, not casual.     % a rule: head :- body; several rules may share a head
    always.                          % a fact
    -safe :- weapon.                 % `-safe` is an atom of its own, not the absence of `safe`
    :- pain, casual.                 % a constraint: raises an alarm, removes nothing
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, final

from saesteer.errors import RuleError

if TYPE_CHECKING:
    from lark import Lark, Tree

NAME_PATTERN = r"(?!not(?![A-Za-z0-9_']))_*[a-z][A-Za-z0-9_']*"
"""What clingo reads as a constant: lower-case first letter; `not` is a word of the language."""

GRAMMAR = rf"""
start: statement*
?statement: atom "."            -> fact
    | atom ":-" body "."        -> rule
    | ":-" body "."             -> constraint
body: literal ("," literal)*
literal: NOT* atom
atom: MINUS? NAME
MINUS: "-"
NOT.2: /not(?![A-Za-z0-9_'])/
NAME: /{NAME_PATTERN}/
COMMENT: /%(?!\*)[^\n]*/
%ignore COMMENT
%ignore /[ \t\r\n]+/
"""

EXPECTED_WORDS = {
    "NAME": "a name",
    "NOT": "'not'",
    "MINUS": "'-'",
    "DOT": "'.'",
    "COMMA": "','",
    "__ANON_0": "':-'",
    "$END": "the end",
}
HINTS = {
    "(": "Atoms take no arguments; write one name, such as weapon_in_hand.",
    "<": "Comparisons are not read here; give the concept its threshold under concepts:.",
    ">": "Comparisons are not read here; give the concept its threshold under concepts:.",
    "=": "Comparisons are not read here; give the concept its threshold under concepts:.",
    "{": "Choice rules are not read; every conclusion must be certain.",
    "|": "A rule has one head; write one rule for each.",
    ";": "Separate body literals with ','; for an alternative write another rule of the same head.",
    "&": "Separate body literals with ','.",
    "!": "Negation is written 'not'.",
    "~": "Negation is written 'not'.",
    "#": "A comment starts with '%'.",
    "%": "Block comments are not read; start every comment line with '%'.",
}


@final
@dataclass(frozen=True)
class Origin:
    """Where a program's text begins (1-based); `name` opens every message."""

    name: str = "rules"
    line: int = 1
    column: int = 1


@final
@dataclass(frozen=True, order=True)
class Atom:
    """A proposition; `-p` is another atom than `p`, tied to it by an alarm only."""

    name: str
    strong: bool = False

    def __str__(self) -> str:
        """As written in a rule."""
        return f"-{self.name}" if self.strong else self.name

    @staticmethod
    def parse(text: str) -> Atom:
        """Read `p` or `-p`.

        Raises:
            RuleError: the text is no atom.
        """
        name = text.removeprefix("-").strip()
        check_name(name)
        return Atom(name, strong=text.startswith("-"))


@final
@dataclass(frozen=True)
class Literal:
    """An atom under 0, 1 or 2 `not`; `not not p` holds where p does but still counts as negative.

    Positions (1-based, in the file if the text came from one) are for messages and don't count in
    equality.
    """

    atom: Atom
    nots: int = 0
    line: int = field(default=0, compare=False)
    column: int = field(default=0, compare=False)

    def __str__(self) -> str:
        """As written in a rule."""
        return "not " * self.nots + str(self.atom)

    @property
    def negated(self) -> bool:
        """True if the literal holds where its atom does not."""
        return self.nots % 2 == 1


@final
@dataclass(frozen=True)
class Rule:
    """`head :- body.`; a fact has an empty body, a constraint no head."""

    head: Atom | None
    body: tuple[Literal, ...] = ()
    line: int = field(default=0, compare=False)

    def __str__(self) -> str:
        """As written, normalised: one space after `,` and around `:-`."""
        head = "" if self.head is None else str(self.head)
        if not self.body:
            return f"{head}."
        return f"{head} :- ".lstrip() + ", ".join(map(str, self.body)) + "."


@final
@dataclass(frozen=True)
class Program:
    """Rules and constraints in the order they were written; `source` opens messages about them."""

    statements: tuple[Rule, ...]
    source: str = field(default="rules", compare=False)

    def __str__(self) -> str:
        """The text that parses to this program."""
        return "".join(f"{statement}\n" for statement in self.statements)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The statements that derive something, facts among them."""
        return tuple(s for s in self.statements if s.head is not None)

    def constraints(self, given: Iterable[Atom] = ()) -> tuple[Rule, ...]:
        """The statements that raise an alarm, then `:- p, -p.` for every such pair in use.

        Args:
            given: atoms that may hold without standing in any rule.
        """
        atoms = dict.fromkeys([*self.atoms, *given])
        both = [a for a in atoms if not a.strong and Atom(a.name, strong=True) in atoms]
        clashes = (Rule(None, (Literal(a), Literal(Atom(a.name, strong=True)))) for a in both)
        written = tuple(s for s in self.statements if s.head is None)
        return written + tuple(c for c in clashes if c not in written)

    @property
    def heads(self) -> tuple[Atom, ...]:
        """Atoms that some rule derives, in order of appearance."""
        return tuple(dict.fromkeys(r.head for r in self.statements if r.head is not None))

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """Every atom in use, in order of appearance."""
        seen: dict[Atom, None] = {}
        for statement in self.statements:
            seen.update(dict.fromkeys(literal.atom for literal in statement.body))
            if statement.head is not None:
                seen[statement.head] = None
        return tuple(seen)


def parse(text: str, origin: Origin | None = None) -> Program:
    """Read a program.

    Raises:
        RuleError: with line, column, what was found, what was expected, and often how to mend it.
    """
    import lark

    origin = origin or Origin()
    try:
        tree = _parser().parse(text)
    except lark.UnexpectedToken as error:
        at_end = error.token.type == "$END"
        found = "the end of the rules" if at_end else f"'{error.token}'"
        line, column = _end(text) if at_end else (error.line, error.column)
        _refuse(text, origin, (line, column), found, error.accepts or error.expected)
    except lark.UnexpectedCharacters as error:
        found = repr(text[error.pos_in_stream])
        _refuse(text, origin, (error.line, error.column), found, error.allowed or ())
    trees: list[Any] = tree.children
    return Program(tuple(_statement(child, origin) for child in trees), origin.name)


def check_name(name: str) -> str:
    """The same name, if a rule can use it.

    Raises:
        RuleError: it is no lower-case identifier.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise RuleError(
            f"{name!r} can't be a name in a rule; expected a lower-case letter, then letters, "
            f"digits or '_', and not the word 'not'{_lower_case(name)}."
        )
    return name


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'pain'?` if some name is close enough, else nothing."""
    close = difflib.get_close_matches(name, [*names], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(GRAMMAR, parser="lalr", lexer="contextual", propagate_positions=True)


def _statement(tree: Tree[Any], origin: Origin) -> Rule:
    parts = list(tree.children)
    head = None if tree.data == "constraint" else _atom(parts[0])
    literals = [] if tree.data == "fact" else parts[-1].children
    line = tree.meta.line + origin.line - 1
    return Rule(head, tuple(_literal(child, origin) for child in literals), line)


def _literal(tree: Tree[Any], origin: Origin) -> Literal:
    nots = len(tree.children) - 1
    line, column = tree.meta.line + origin.line - 1, tree.meta.column + origin.column - 1
    if nots > 2:
        raise RuleError(
            f"{origin.name} line {line}, column {column}: {nots} times 'not' before one atom; "
            "expected at most two. Drop pairs of them."
        )
    return Literal(_atom(tree.children[-1]), nots, line, column)


def _atom(tree: Tree[Any]) -> Atom:
    return Atom(str(tree.children[-1]), strong=len(tree.children) == 2)


def _end(text: str) -> tuple[int, int]:
    """Line and column just after the last character that is no white space."""
    lines = text.rstrip().split("\n")
    return len(lines), len(lines[-1]) + 1


def _lower_case(name: str) -> str:
    lower = name[:1].lower() + name[1:]
    return f"; did you mean '{lower}'?" if name[:1].isupper() else ""


def _refuse(
    text: str, origin: Origin, at: tuple[int, int], found: str, expected: Iterable[str]
) -> NoReturn:
    words = sorted({EXPECTED_WORDS.get(name, name) for name in expected})
    line, column = at
    lines = text.split("\n")
    rest = lines[line - 1][column - 1 :] if line <= len(lines) else ""
    hint = HINTS.get(rest[:1], "")
    if rest[:1].isupper():
        word = re.match(r"\w+", rest)
        hint = f"Names start with a lower-case letter{_lower_case(word[0] if word else '')}"
    wanted = f", expected {' or '.join(words)}" if words else ""
    place = f"line {line + origin.line - 1}, column {column + origin.column - 1}"
    raise RuleError(f"{origin.name} {place}: found {found}{wanted}. {hint}".rstrip())
