"""Seeded random programs: stratified by construction, of any size, and clingo's answer to them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import clingo

from saesteer.rules.syntax import Program


def small(rng: random.Random, n_atoms: int = 10) -> str:
    """A few rules over a few atoms; `not` reaches into lower layers only, cycles are positive."""
    names = [f"{'-' * (rng.random() < 0.2)}a{i}" for i in range(n_atoms)]
    layer = [rng.randrange(4) for _ in names]
    lines: list[str] = []
    for _ in range(rng.randint(0, 2 * n_atoms)):
        head = rng.randrange(n_atoms)
        body: list[str] = []
        for nots in rng.choices((0, 1, 2), (6, 3, 1), k=rng.randint(0, 4)):
            below = [i for i in range(n_atoms) if layer[i] < layer[head] + (nots == 0)]
            if below:
                body.append("not " * nots + names[rng.choice(below)])
        lines.append(names[head] + " :- " * bool(body) + ", ".join(body) + ".")
    if rng.random() < 0.5:
        body = [rng.choice(("", "not ")) + a for a in rng.sample(names, rng.randint(1, 3))]
        lines.append(f":- {', '.join(body)}.")
    return "\n".join(lines)


def with_variables(rng: random.Random, entities: str = "abcd") -> str:
    """Random rules with variables over entities; `not` reaches into lower layers only."""
    layers = [["e"], ["p", "q"], ["r", "s"], ["t"]]
    lines = [f"{_edge(rng, entities)}." for _ in range(rng.randint(0, 3))]
    for level, heads in list(enumerate(layers))[1:]:
        for _ in range(rng.randint(1, 4)):
            below = [name for names in layers[: level + 1] for name in names]
            body = [f"{rng.choice(below)}(X,{rng.choice('YX_')})", f"{rng.choice(below)}(Y,Z)"]
            if rng.random() < 0.6:
                lower = [name for names in layers[:level] for name in names]
                body.append(f"{rng.choice(['not', 'not not'])} {rng.choice(lower)}(Z,X)")
            if rng.random() < 0.6:
                body.append(f"{rng.choice('XY')} {rng.choice(['!=', '<', '=', '>='])} Z")
            lines.append(f"{rng.choice(heads)}({rng.choice('XYZ')},Y) :- {', '.join(body)}.")
    return "\n".join([*lines, ":- t(X,Y), not p(X,Y)."])


def edges(rng: random.Random, entities: str = "abcd") -> list[str]:
    """Facts for them."""
    return [_edge(rng, entities) for _ in range(rng.randint(0, 6))]


def _edge(rng: random.Random, entities: str) -> str:
    return f"e({rng.choice(entities)},{rng.choice(entities)})"


def layered(seed: int, n_rules: int = 1000, n_concepts: int = 256, depth: int = 5) -> str:
    """Rules in `depth` layers, 1 to 4 literals a body, 30 % of them negated, 2 bodies a head.

    One literal of each body is of the layer below, so the depth is really there.
    """
    rng = random.Random(seed)
    below, last = [f"c{i}" for i in range(n_concepts)], [f"c{i}" for i in range(n_concepts)]
    lines: list[str] = []
    for d in range(depth):
        n = n_rules // depth
        heads = [f"h{d}_{i}" for i in range(max(1, n // 2))]
        for k in range(n):
            body = [rng.choice(last), *(rng.choice(below) for _ in range(rng.randint(0, 3)))]
            signed = ("not " * (rng.random() < 0.3) + atom for atom in body)
            lines.append(f"{heads[k % len(heads)]} :- {', '.join(signed)}.")
        below, last = below + heads, heads
    return "\n".join(lines)


def answer(program: Program, facts: Sequence[str]) -> tuple[set[str], list[bool]]:
    """The only answer set, and which constraints it violates (asked as rules, not as filters)."""
    watched = program.constraints()
    lines = [*map(str, program.rules), *(f"{fact}." for fact in facts)]
    lines += [f"alarm{i} {rule}" for i, rule in enumerate(watched)]
    control = clingo.Control(["--models=0"], logger=lambda *_: None)
    control.add("base", [], "\n".join(lines))
    control.ground([("base", [])])
    models: list[set[str]] = []
    control.solve(on_model=lambda m: models.append({str(s) for s in m.symbols(atoms=True)}))
    assert len(models) == 1
    alarms = [f"alarm{i}" in models[0] for i in range(len(watched))]
    return {atom for atom in models[0] if not atom.startswith("alarm")}, alarms
