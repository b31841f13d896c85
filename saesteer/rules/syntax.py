"""The rule language: a subset of Answer Set Programming, read so that clingo agrees on every word.

Whatever is accepted here clingo accepts unchanged, so it can be our oracle. What a user may try
and clingo would read as something else (a comparison on a concept's name, an upper-case name) is
refused with the spelling that works. Printing a program and parsing it again gives it back.

    careful :- pain, not casual.     % a rule: head :- body; several rules may share a head
    always.                          % a fact
    -safe :- weapon.                 % `-safe` is an atom of its own, not the absence of `safe`
    :- pain, casual.                 % a constraint: raises an alarm, removes nothing
    armed(X) :- holds(X, Y), weapon(Y), X != nobody.   % variables over entities
    grave :- strength(pain, S), S > 2700.              % strengths are whole thousandths
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, final

from saesteer.errors import RuleError
from saesteer.rules.safety import check_rule
from saesteer.rules.terms import (
    INTEGER_PATTERN,
    NAME_PATTERN,
    VARIABLE_PATTERN,
    Atom,
    Comparison,
    Literal,
    Program,
    Rule,
    Term,
    check_name,
    lower_case,
)

if TYPE_CHECKING:
    from lark import Lark, Tree

GRAMMAR = rf"""
start: statement*
?statement: atom "."            -> fact
    | atom ":-" body "."        -> rule
    | ":-" body "."             -> constraint
body: _part ("," _part)*
_part: literal | comparison
literal: NOT* atom
comparison: term SIGN term
atom: MINUS? NAME arguments?
arguments: "(" term ("," term)* ")"
term: NAME | VARIABLE | ANYTHING | INTEGER
MINUS: "-"
SIGN: "<=" | ">=" | "!=" | "<" | ">" | "="
NOT.2: /not(?![A-Za-z0-9_'])/
INTEGER: /{INTEGER_PATTERN}(?![A-Za-z0-9_'])/
VARIABLE: /{VARIABLE_PATTERN}/
ANYTHING: /_(?![A-Za-z0-9_'])/
NAME: /{NAME_PATTERN}/
COMMENT: /%(?!\*)[^\n]*/
%ignore COMMENT
%ignore /[ \t\r\n]+/
"""

EXPECTED_WORDS = {
    "NAME": "a name",
    "VARIABLE": "a variable",
    "INTEGER": "a whole number",
    "ANYTHING": "'_'",
    "SIGN": "a comparison",
    "LPAR": "'('",
    "RPAR": "')'",
    "NOT": "'not'",
    "MINUS": "'-'",
    "DOT": "'.'",
    "COMMA": "','",
    "__ANON_0": "':-'",
    "$END": "the end",
}
HINTS = {
    "(": "Only a name may have arguments, and they can't be nested.",
    "<": "A comparison is one sign between two terms, such as S > 700; write a chain as two.",
    ">": "A comparison is one sign between two terms, such as S > 700; write a chain as two.",
    "=": "A comparison is written =, !=, <, <=, > or >=, between two terms.",
    "+": "Numbers are not computed with; compare them as they are.",
    "-": "Numbers are not computed with; compare them as they are.",
    "*": "Numbers are not computed with; compare them as they are.",
    '"': "Entities are names, not quoted text; write gun.",
    "{": "Choice rules are not read; every conclusion must be certain.",
    "|": "A rule has one head; write one rule for each.",
    ";": "Separate body literals with ','; for an alternative write another rule of the same head.",
    "&": "Separate body literals with ','.",
    "!": "Negation is written 'not'.",
    "~": "Negation is written 'not'.",
    "#": "A comment starts with '%'.",
    "%": "Block comments are not read; start every comment line with '%'.",
}


__all__ = [
    "Atom",
    "Comparison",
    "Literal",
    "Origin",
    "Program",
    "Rule",
    "Term",
    "check_name",
    "nearest",
    "parse",
]


@final
@dataclass(frozen=True)
class Origin:
    """Where a program's text begins (1-based); `name` opens every message."""

    name: str = "rules"
    line: int = 1
    column: int = 1


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
    inside = [] if tree.data == "fact" else parts[-1].children
    line = tree.meta.line + origin.line - 1
    body = tuple(_literal(part, origin) for part in inside if part.data == "literal")
    tests = tuple(_comparison(part, origin) for part in inside if part.data == "comparison")
    return check_rule(Rule(head, body, line, tests), origin.name)


def _literal(tree: Tree[Any], origin: Origin) -> Literal:
    nots = len(tree.children) - 1
    line, column = _place(tree, origin)
    if nots > 2:
        raise RuleError(
            f"{origin.name} line {line}, column {column}: {nots} times 'not' before one atom; "
            "expected at most two. Drop pairs of them."
        )
    return Literal(_atom(tree.children[-1]), nots, line, column)


def _comparison(tree: Tree[Any], origin: Origin) -> Comparison:
    left, sign, right = tree.children
    return Comparison(_term(left), str(sign), _term(right), *_place(tree, origin))


def _place(tree: Tree[Any], origin: Origin) -> tuple[int, int]:
    return tree.meta.line + origin.line - 1, tree.meta.column + origin.column - 1


def _atom(tree: Tree[Any]) -> Atom:
    parts = list(tree.children)
    args = tuple(map(_term, parts.pop().children)) if not isinstance(parts[-1], str) else ()
    return Atom(str(parts[-1]), len(parts) == 2, args)


def _term(tree: Tree[Any]) -> Term:
    return Term(str(tree.children[0]))


def _end(text: str) -> tuple[int, int]:
    """Line and column just after the last character that is no white space."""
    lines = text.rstrip().split("\n")
    return len(lines), len(lines[-1]) + 1


def _refuse(
    text: str, origin: Origin, at: tuple[int, int], found: str, expected: Iterable[str]
) -> NoReturn:
    words = sorted({EXPECTED_WORDS.get(name, name) for name in expected})
    line, column = at
    lines = text.split("\n")
    here = lines[line - 1] if line <= len(lines) else ""
    before, rest = here[: column - 1], here[column - 1 :]
    hint = _hint(before, rest)
    wanted = f", expected {' or '.join(words)}" if words else ""
    place = f"line {line + origin.line - 1}, column {column + origin.column - 1}"
    raise RuleError(f"{origin.name} {place}: found {found}{wanted}. {hint}".rstrip())


def _hint(before: str, rest: str) -> str:
    """How to mend what can't be read at `rest`."""
    name = re.search(r"([A-Z]\w*)\s*$", before) or re.match(r"[A-Z]\w*", rest)
    if name and rest[:1] not in HINTS:
        return f"Names start with a lower-case letter{lower_case(name[0].strip())}"
    if re.search(r"\d\.$", before) and rest[:1].isdigit():
        return "Strengths are whole thousandths; write 700 for 0.7."
    if rest.startswith("..") or (before.endswith(".") and rest.startswith(".")):
        return "Ranges are not read; write one fact for each."
    return HINTS.get(rest[:1], "")
