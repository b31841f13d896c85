"""Order rules so that whatever stands under `not` is settled before it is used.

The strata here are finer than the textbook's: one per level of the dependency graph's strongly
connected components. A stratum without a positive cycle therefore needs a single pass, and one
with a cycle of n atoms at most n, a bound known before any fact is, so that the tensor program can
run its fixpoints without asking the device whether anything changed.
Source: Apt, Blair, Walker 1988, Towards a Theory of Declarative Knowledge.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar, final

from saesteer.errors import RuleError
from saesteer.rules.syntax import Atom, Program, Rule

N = TypeVar("N", bound=Hashable)


@final
@dataclass(frozen=True)
class Stratum:
    """Rules evaluated together; every atom under `not` in them is derived in an earlier stratum."""

    rules: tuple[Rule, ...]
    passes: int


class Edge(NamedTuple):
    """The head of `rule` depends on `to`; `negative` for one or two `not`."""

    to: Atom
    negative: bool
    rule: Rule


Graph = Mapping[Atom, tuple[Edge, ...]]


def stratify(program: Program) -> tuple[Stratum, ...]:
    """The strata of a program, first to last; constraints are left out.

    With variables, predicates are ordered instead of atoms.

    Raises:
        RuleError: an atom depends on its own negation; the text names the cycle.
    """
    return strata_of(program if program.is_ground else schema_of(program))


def strata_of(program: Program) -> tuple[Stratum, ...]:
    """The strata of rules taken as they stand, atom by atom; for instances of rules.

    Raises:
        RuleError: as for `stratify`.
    """
    graph = dependencies(program)
    components = list(_components({atom: [e.to for e in graph[atom]] for atom in graph}))
    member = {atom: i for i, component in enumerate(components) for atom in component}
    _refuse_negative_cycles(graph, member, program.source)
    level: dict[int, int] = {}
    for i, component in enumerate(components):
        below = {member[edge.to] for atom in component for edge in graph[atom]} - {i}
        level[i] = 1 + max((level[j] for j in below), default=-1)
    derived: dict[int, list[Rule]] = {}
    for rule in program.rules:
        if rule.head is not None:
            derived.setdefault(level[member[rule.head]], []).append(rule)
    passes: dict[int, int] = {}
    for i, component in enumerate(components):
        passes[level[i]] = max(passes.get(level[i], 1), len(component))
    return tuple(Stratum(tuple(derived[n]), passes[n]) for n in sorted(derived))


def schema_of(program: Program) -> Program:
    """The program with `_` for every argument: what depends on what, whoever it is about."""
    return Program(
        tuple(
            Rule(
                None if rule.head is None else rule.head.schema,
                tuple(replace(literal, atom=literal.atom.schema) for literal in rule.body),
                rule.line,
            )
            for rule in program.statements
        ),
        program.source,
        tuple(dict.fromkeys(atom.schema for atom in program.open)),
    )


def dependencies(program: Program) -> Graph:
    """What each atom depends on directly; atoms that no rule derives depend on nothing."""
    edges: dict[Atom, list[Edge]] = {atom: [] for atom in program.atoms}
    for rule in program.rules:
        if rule.head is not None:
            edges[rule.head] += [Edge(b.atom, b.nots > 0, rule) for b in rule.body]
    return {atom: tuple(out) for atom, out in edges.items()}


def downstream(program: Program, sources: Collection[Atom]) -> frozenset[Atom]:
    """The sources and every atom that depends on one of them, through `not` or without."""
    reached, grown = set(sources), True
    while grown:
        new = {
            r.head
            for r in program.rules
            if r.head is not None and any(b.atom in reached for b in r.body)
        }
        grown = not new <= reached
        reached |= new
    return frozenset(reached)


def _components(graph: Mapping[N, list[N]]) -> Iterator[tuple[N, ...]]:
    """Strongly connected components, dependencies first. Source: Tarjan 1972, made iterative."""
    index: dict[N, int] = {}
    low: dict[N, int] = {}
    stack: dict[N, None] = {}
    for root in graph:
        work = [(root, iter(graph[root]))] if root not in index else []
        while work:
            node, successors = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack[node] = None
            for successor in successors:
                if successor not in index:
                    work.append((successor, iter(graph[successor])))
                    break
                if successor in stack:
                    low[node] = min(low[node], index[successor])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    yield _pop_component(stack, node)


def _pop_component(stack: dict[N, None], root: N) -> tuple[N, ...]:
    component: list[N] = []
    while not component or component[-1] != root:
        component.append(stack.popitem()[0])
    return tuple(reversed(component))


def _refuse_negative_cycles(graph: Graph, member: Mapping[Atom, int], source: str) -> None:
    for atom, edges in graph.items():
        for edge in edges:
            if edge.negative and member[edge.to] == member[atom]:
                path = [(atom, edge), *_path(graph, edge.to, atom)]
                cycle = ", ".join(_describe(step, via) for step, via in path)
                raise RuleError(
                    f"{source} line {edge.rule.line}: cycle through negation: {cycle}. "
                    "What holds must not depend on its own absence; break the cycle at one 'not'."
                )


def _path(graph: Graph, start: Atom, goal: Atom) -> list[tuple[Atom, Edge]]:
    """Shortest chain of dependencies from `start` to `goal`."""
    came: dict[Atom, tuple[Atom, Edge]] = {}
    queue = deque([start])
    while queue and goal not in came and start != goal:
        atom = queue.popleft()
        for edge in graph[atom]:
            if edge.to not in came and edge.to != start:
                came[edge.to] = (atom, edge)
                queue.append(edge.to)
    path: list[tuple[Atom, Edge]] = []
    while goal != start:
        path.insert(0, came[goal])
        goal = came[goal][0]
    return path


def _describe(atom: Atom, edge: Edge) -> str:
    literal = next(b for b in edge.rule.body if b.atom == edge.to and (b.nots > 0) == edge.negative)
    return f"{atom} needs {literal} (line {edge.rule.line})"
