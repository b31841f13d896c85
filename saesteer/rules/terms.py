"""What a program is made of: terms, atoms, literals, comparisons, rules.

All are values. Positions (1-based, in the file if the text came from one) are for messages and
don't count in equality.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

from saesteer.errors import RuleError

NAME_PATTERN = r"(?!not(?![A-Za-z0-9_']))_*[a-z][A-Za-z0-9_']*"
"""What clingo reads as a constant: lower-case first letter; `not` is a word of the language."""
VARIABLE_PATTERN = r"_*[A-Z][A-Za-z0-9_']*"
INTEGER_PATTERN = r"(0|-?[1-9][0-9]*)"
MAX_INTEGER = 2**31 - 1
"""clingo computes in 32 bits and wraps in silence."""
STRENGTH = "strength"
"""`strength(pain, S)`: concept `pain` scores S thousandths; given for every concept."""
ORDERS = ("<", "<=", ">", ">=")


@final
@dataclass(frozen=True, order=True)
class Term:
    """An argument: a variable (`X`), an entity (`gun`), an integer (`700`) or anything (`_`)."""

    text: str

    def __str__(self) -> str:
        """As written."""
        return self.text

    @property
    def is_variable(self) -> bool:
        """Whether it stands for something else; `_` does, for another thing each time."""
        return self.text == "_" or re.fullmatch(VARIABLE_PATTERN, self.text) is not None

    @property
    def is_integer(self) -> bool:
        """Whether it is a number."""
        return re.fullmatch(INTEGER_PATTERN, self.text) is not None


Binding = Mapping[Term, Term]


@final
@dataclass(frozen=True, order=True)
class Atom:
    """A proposition; `-p` is another atom than `p`, tied to it by an alarm only."""

    name: str
    strong: bool = False
    args: tuple[Term, ...] = ()

    def __str__(self) -> str:
        """As clingo writes it."""
        args = f"({','.join(map(str, self.args))})" if self.args else ""
        return f"{'-' * self.strong}{self.name}{args}"

    @property
    def variables(self) -> tuple[Term, ...]:
        """The variables in it, each once."""
        return tuple(dict.fromkeys(term for term in self.args if term.is_variable))

    @property
    def is_ground(self) -> bool:
        """Whether it has no variables."""
        return not self.variables

    @property
    def schema(self) -> Atom:
        """The atom with nothing but the number of its arguments: `p(_,_)`."""
        return Atom(self.name, self.strong, (Term("_"),) * len(self.args))

    def bind(self, binding: Binding) -> Atom:
        """The atom with some variables replaced."""
        return Atom(self.name, self.strong, tuple(binding.get(term, term) for term in self.args))

    @staticmethod
    def parse(text: str) -> Atom:
        """Read `p`, `-p` or `p(gun,3)`; variables are not read.

        Raises:
            RuleError: the text is no atom.
        """
        found = re.fullmatch(r"(-?)\s*([^()\s]*)\s*(?:\(([^()]*)\))?\s*", text)
        if found is None:
            check_name(text)
            raise RuleError(f"{text!r} is no atom; expected a name such as pain or holds(gun).")
        args = () if found[3] is None else tuple(map(_constant, found[3].split(",")))
        return Atom(check_name(found[2]), found[1] == "-", args)


@final
@dataclass(frozen=True)
class Literal:
    """An atom under 0, 1 or 2 `not`; `not not p` holds where p does but counts as negative."""

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
class Comparison:
    """`S > 700`: integers by size; `=` and `!=` also tell entities apart."""

    left: Term
    sign: str
    right: Term
    line: int = field(default=0, compare=False)
    column: int = field(default=0, compare=False)

    def __str__(self) -> str:
        """As written in a rule."""
        return f"{self.left} {self.sign} {self.right}"

    def bind(self, binding: Binding) -> Comparison:
        """The comparison with some variables replaced."""
        left, right = binding.get(self.left, self.left), binding.get(self.right, self.right)
        return Comparison(left, self.sign, right, self.line, self.column)

    def holds(self) -> bool:
        """Whether it is true; both sides must be ground. An entity comes after every integer."""
        left, right = _rank(self.left), _rank(self.right)
        match self.sign:
            case "=":
                return left == right
            case "!=":
                return left != right
            case "<":
                return left < right
            case "<=":
                return left <= right
            case ">":
                return left > right
            case _:
                return left >= right


@final
@dataclass(frozen=True)
class Rule:
    """`head :- body, tests.`; a fact has an empty body, a constraint no head."""

    head: Atom | None
    body: tuple[Literal, ...] = ()
    line: int = field(default=0, compare=False)
    tests: tuple[Comparison, ...] = ()

    def __str__(self) -> str:
        """As written, normalised: one space after `,` and around `:-`, comparisons last."""
        head = "" if self.head is None else str(self.head)
        if not (self.body or self.tests):
            return f"{head}."
        return f"{head} :- ".lstrip() + ", ".join(map(str, (*self.body, *self.tests))) + "."

    @property
    def is_ground(self) -> bool:
        """Whether it has neither variables nor comparisons."""
        atoms = [literal.atom for literal in self.body]
        atoms += [] if self.head is None else [self.head]
        return not self.tests and all(atom.is_ground for atom in atoms)


@final
@dataclass(frozen=True)
class Program:
    """Rules and constraints in the order they were written; `source` opens messages about them.

    `open` atoms may be unknown: see `open_world`.
    """

    statements: tuple[Rule, ...]
    source: str = field(default="rules", compare=False)
    open: tuple[Atom, ...] = ()

    def __str__(self) -> str:
        """The text that parses to this program."""
        return "".join(f"{statement}\n" for statement in self.statements)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The statements that derive something, facts among them."""
        return tuple(s for s in self.statements if s.head is not None)

    @property
    def is_ground(self) -> bool:
        """Whether rules are over propositions alone, so that they need no grounding.

        A strength is a number of the prompt's, so whatever reads one is not.
        """
        strengths = any(is_strength(b.atom) for s in self.statements for b in s.body)
        return not strengths and all(statement.is_ground for statement in self.statements)

    def constraints(self, given: Iterable[Atom] = ()) -> tuple[Rule, ...]:
        """The statements that raise an alarm, then `:- p, -p.` for every such pair in use.

        Args:
            given: atoms that may hold without standing in any rule.
        """
        atoms = dict.fromkeys([*self.atoms, *given])
        if not self.is_ground:
            atoms = dict.fromkeys(_general(atom) for atom in atoms)
        pairs = [(a, Atom(a.name, True, a.args)) for a in atoms if not a.strong]
        clashes = (Rule(None, (Literal(a), Literal(b))) for a, b in pairs if b in atoms)
        written = tuple(s for s in self.statements if s.head is None)
        return written + tuple(c for c in clashes if c not in written)

    @property
    def heads(self) -> tuple[Atom, ...]:
        """Atoms that some rule derives, in order of appearance."""
        return tuple(dict.fromkeys(r.head for r in self.statements if r.head is not None))

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """Every atom in use, in order of appearance; p and -p of every open p come last."""
        seen: dict[Atom, None] = {}
        for statement in self.statements:
            seen.update(dict.fromkeys(literal.atom for literal in statement.body))
            if statement.head is not None:
                seen[statement.head] = None
        for atom in self.open:
            seen.update(dict.fromkeys((atom, contrary(atom))))
        return tuple(seen)


def contrary(atom: Atom) -> Atom:
    """`-p` for `p`, `p` for `-p`."""
    return Atom(atom.name, not atom.strong, atom.args)


def is_strength(atom: Atom) -> bool:
    """Whether an atom reads how strong a concept is."""
    return atom.name == STRENGTH and len(atom.args) == 2 and not atom.strong


def check_name(name: str) -> str:
    """The same name, if a rule can use it.

    Raises:
        RuleError: it is no lower-case identifier.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise RuleError(
            f"{name!r} can't be a name in a rule; expected a lower-case letter, then letters, "
            f"digits or '_', and not the word 'not'{lower_case(name)}."
        )
    return name


def lower_case(name: str) -> str:
    """The name with a lower-case first letter, as a hint, if it has an upper-case one."""
    lower = name[:1].lower() + name[1:]
    return f"; did you mean '{lower}'?" if name[:1].isupper() else ""


def _constant(text: str) -> Term:
    term = Term(text.strip())
    return term if term.is_integer else Term(check_name(term.text))


def _general(atom: Atom) -> Atom:
    return Atom(atom.name, atom.strong, tuple(Term(f"X{i}") for i in range(len(atom.args))))


def _rank(term: Term) -> tuple[int, int, str]:
    return (0, int(term.text), "") if term.is_integer else (1, 0, term.text)
