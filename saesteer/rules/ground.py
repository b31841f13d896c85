"""Rules with variables: how large their grounding can get, what clingo finds, and its instances.

clingo can't be stopped while it grounds, so the size is bounded before it starts: each argument of
each predicate gets the entities that can reach it, and a rule costs at most the product of what
its variables range over. Comparisons and `not` are left out of that bound, which keeps it above
what clingo does. There are no function terms, so the entities are those of the program and facts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import clingo

from saesteer.errors import RuleError
from saesteer.rules.safety import ANYTHING
from saesteer.rules.terms import Atom, Binding, Comparison, Program, Rule, Term

GROUND_LIMIT = 250_000
"""Instances that one program may have; grounding so many takes about a second and 200 MB."""

STRONG = "__strong"
"""`-p(a)` for clingo: `__strong(p(a))`, which no rule can say, since terms don't nest."""

Domains = Mapping[Atom, list[set[Term]]]


def domains_of(program: Program, facts: Iterable[Atom]) -> Domains:
    """The entities that can stand at each argument of each predicate."""
    domains: dict[Atom, list[set[Term]]] = {}
    for atom in program.atoms:
        domains.setdefault(atom.schema, [set() for _ in atom.args])
    for atom in facts:
        places = domains.setdefault(atom.schema, [set() for _ in atom.args])
        for place, term in zip(places, atom.args, strict=True):
            place.add(term)
    grew = True
    while grew:
        grew = False
        for rule in program.rules:
            grew |= _spread(rule, domains)
    return domains


def check_size(
    program: Program,
    facts: Iterable[Atom],
    limit: int = GROUND_LIMIT,
    domains: Domains | None = None,
) -> None:
    """Refuse a program whose grounding could exceed `limit` instances.

    Args:
        domains: those of `domains_of`, or wider ones.

    Raises:
        RuleError: naming the rule that costs most.
    """
    program = name_anything(program)
    domains = domains_of(program, facts) if domains is None else domains
    sizes = {rule: _instances(rule, domains) for rule in program.statements}
    if sum(sizes.values()) > limit:
        worst = max(sizes, key=lambda rule: sizes[rule])
        raise RuleError(
            f"{program.source} line {worst.line}: '{worst}' may have {_shown(sizes[worst])} "
            f"instances, and all rules together at most {limit:,} are grounded. Use fewer "
            "variables in one rule, or derive a smaller relation first."
        )


def solve(program: Program, facts: Iterable[Atom]) -> frozenset[Atom]:
    """Every atom that follows from the facts, found by clingo; constraints remove nothing.

    Raises:
        RuleError: a grounding that could exceed GROUND_LIMIT.
    """
    facts = list(facts)
    check_size(program, facts)
    control = clingo.Control(["--models=2"], logger=lambda *_: None)
    control.add("base", [], "".join(f"{for_clingo(rule)}\n" for rule in program.rules))
    control.add("base", [], "".join(f"{_positive_name(fact)}.\n" for fact in facts))
    control.ground([("base", [])])
    models: list[frozenset[Atom]] = []
    control.solve(on_model=lambda model: models.append(_atoms(model)))
    assert len(models) == 1, "a stratified program has one answer set"
    return models[0]


def instances(rules: Iterable[Rule], true: Iterable[Atom]) -> Iterator[Rule]:
    """The ground instances of some rules whose bodies hold, given every atom that is true."""
    true = frozenset(true)
    return (rule for rule in supported(rules, true) if satisfied(rule, true))


def supported(rules: Iterable[Rule], atoms: Iterable[Atom]) -> Iterator[Rule]:
    """The ground instances whose comparisons hold and whose atoms without `not` are among some."""
    index = Index(atoms)
    for rule in rules:
        rule = _named(rule)
        for binding in _bindings(_positive(rule), index, {}):
            bound = bind(rule, equalities(rule, binding))
            if not _unmet(bound):
                yield bound


def attempt(rule: Rule, goal: Atom, index: Index) -> Rule | None:
    """The instance of a rule for `goal` that gets furthest; None if its head is about others.

    Atoms of its body stay open where nothing fits them; comparisons that hold are left out.
    """
    rule = _named(rule)
    start = None if rule.head is None else match(rule.head, goal, {})
    if start is None:
        return None
    best = start = equalities(rule, start)
    wanted = _positive(rule)
    for n in range(len(wanted), 0, -1):
        found = [equalities(rule, b) for b in _bindings(wanted[:n], index, start)]
        if found:
            best = max(found, key=lambda b: _n_met(bind(rule, b), index.true))
            break
    bound = bind(rule, best)
    return replace(bound, tests=_unmet(bound))


def name_anything(program: Program) -> Program:
    """The program with every `_` as a variable of its own."""
    return replace(program, statements=tuple(map(_named, program.statements)))


def bind(rule: Rule, binding: Binding) -> Rule:
    """The rule with variables replaced."""
    return Rule(
        None if rule.head is None else rule.head.bind(binding),
        tuple(replace(literal, atom=literal.atom.bind(binding)) for literal in rule.body),
        rule.line,
        tuple(test.bind(binding) for test in rule.tests),
    )


def satisfied(rule: Rule, known: frozenset[Atom]) -> bool:
    """Whether the body of a ground instance holds."""
    return not _unmet(rule) and all((b.atom in known) != b.negated for b in rule.body)


def match(pattern: Atom, atom: Atom, binding: Binding) -> dict[Term, Term] | None:
    """`binding`, extended so that the pattern becomes the atom; None if it can't."""
    if pattern.schema != atom.schema:
        return None
    found = dict(binding)
    for term, value in zip(pattern.args, atom.args, strict=True):
        if found.setdefault(term, value) != value if term.is_variable else term != value:
            return None
    return found


def equalities(rule: Rule, binding: Binding) -> dict[Term, Term]:
    """`binding` with what `X = gun` and `X = Y` add to it.

    A variable that only equals another one is bound to that one.
    """
    found = dict(binding)
    ranging = {v for atom in _positive(rule) for v in atom.variables}
    for test in [t for _ in rule.tests for t in rule.tests if t.sign == "="]:
        left, right = found.get(test.left, test.left), found.get(test.right, test.right)
        for one, other in ((left, right), (right, left)):
            bound = not other.is_variable or (other in ranging and one not in ranging)
            if one.is_variable and one not in found and one != other and bound:
                found[one] = other
                break
    return found


class Index:
    """True atoms, found by predicate and by any one argument."""

    def __init__(self, true: Iterable[Atom]) -> None:
        self.true = frozenset(true)
        self._held: dict[object, list[Atom]] = {}
        for atom in self.true:
            keys = [atom.schema, *((atom.schema, i, term) for i, term in enumerate(atom.args))]
            for key in keys:
                self._held.setdefault(key, []).append(atom)

    def fitting(self, pattern: Atom, binding: Binding) -> list[Atom]:
        """The shortest list that has everything which matches."""
        bound = pattern.bind(binding)
        keys = [(bound.schema, i, t) for i, t in enumerate(bound.args) if not t.is_variable]
        return min((self._held.get(key, []) for key in (bound.schema, *keys)), key=len)


def _bindings(
    patterns: list[Atom], index: Index, binding: dict[Term, Term]
) -> Iterator[dict[Term, Term]]:
    if not patterns:
        yield binding
        return
    for atom in index.fitting(patterns[0], binding):
        found = match(patterns[0], atom, binding)
        if found is not None:
            yield from _bindings(patterns[1:], index, found)


def _named(rule: Rule) -> Rule:
    """The rule with `_Any0`, `_Any1`, ... for every `_`."""
    number = itertools.count()

    def name(term: Term) -> Term:
        return Term(f"_Any{next(number)}") if term == ANYTHING else term

    body = tuple(
        replace(b, atom=Atom(b.atom.name, b.atom.strong, tuple(map(name, b.atom.args))))
        for b in rule.body
    )
    return replace(rule, body=body)


def _n_met(rule: Rule, known: frozenset[Atom]) -> int:
    return sum((b.atom in known) != b.negated for b in rule.body) - len(_unmet(rule))


def _unmet(rule: Rule) -> tuple[Comparison, ...]:
    """The comparisons that do not hold, or can't be decided yet."""
    return tuple(test for test in rule.tests if not (_is_ground(test) and test.holds()))


def _positive(rule: Rule) -> list[Atom]:
    return [literal.atom for literal in rule.body if not literal.nots]


def _is_ground(test: Comparison) -> bool:
    return not (test.left.is_variable or test.right.is_variable)


def _ranges(rule: Rule, domains: Domains) -> dict[Term, set[Term]]:
    """What each variable of a body ranges over: the narrowest argument it stands in."""
    ranges: dict[Term, set[Term]] = {}
    for atom in _positive(rule):
        for term, place in zip(atom.args, domains[atom.schema], strict=True):
            if term.is_variable:
                ranges[term] = ranges[term] & place if term in ranges else place
    return ranges


def _spread(rule: Rule, domains: Domains) -> bool:
    """Let the head take what its variables range over; True if that was news."""
    if rule.head is None or not all(map(all, (domains[a.schema] for a in _positive(rule)))):
        return False
    ranges, grew = _ranges(rule, domains), False
    same = equalities(rule, {})
    for term, place in zip(rule.head.args, domains[rule.head.schema], strict=True):
        term = same.get(term, term)
        new = ranges.get(term, set()) if term.is_variable else {term}
        grew |= not new <= place
        place |= new
    return grew


def _instances(rule: Rule, domains: Domains) -> int:
    """At most how many bindings a join of the body looks at."""
    return math.prod(max(1, len(found)) for found in _ranges(rule, domains).values())


def _shown(n: int) -> str:
    return f"{n:,}" if n < 10**12 else f"{n:.1e}"


def _atoms(model: clingo.Model) -> frozenset[Atom]:
    return frozenset(map(atom_of, model.symbols(atoms=True)))


def atom_of(symbol: clingo.Symbol) -> Atom:
    """The atom that clingo calls so."""
    strong = symbol.name == STRONG
    symbol = symbol.arguments[0] if strong else symbol
    args = tuple(Term(str(argument)) for argument in symbol.arguments)
    return Atom(symbol.name, strong, args)


def for_clingo(rule: Rule) -> Rule:
    """The rule with `-p` as an atom of its own; clingo would drop an answer with `p` and `-p`."""
    head = None if rule.head is None else _positive_name(rule.head)
    body = tuple(replace(b, atom=_positive_name(b.atom)) for b in rule.body)
    return replace(rule, head=head, body=body)


def _positive_name(atom: Atom) -> Atom:
    return Atom(STRONG, args=(Term(str(replace(atom, strong=False))),)) if atom.strong else atom
