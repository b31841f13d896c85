"""Small rule sets from truth tables: which concepts hold in a text, and whether it has the label.

A tree is grown on the truths, its ways to a positive leaf become bodies, and whatever can go
without harm on the train texts goes: literals first, then bodies that are still too long, then
rules. (A tree must repeat one rule below the other's questions, so its ways are longer than the
rules in it.) Trees of several sizes are tried, and the smallest rule set within `NEARLY` of the
best on validation is kept.
Source: Quinlan 1987, Simplifying decision trees, for rules from trees and their pruning; chosen:
balanced accuracy decides throughout, so that a rare label is not pruned away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from saesteer.errors import ConfigError, ContrastError
from saesteer.rules.compile import compile_program
from saesteer.rules.terms import Atom, Literal, Program, Rule

NEARLY = 0.01
"""Balanced accuracy on validation that a smaller rule set may be worse by."""

Truths = Bool[Tensor, "texts concepts"]
Labels = Bool[Tensor, " texts"]


@final
@dataclass(frozen=True)
class Bounds:
    """How large a rule set may be: literals of a body, and bodies.

    Raises:
        ConfigError: one of them is below 1.
    """

    literals: int = 3
    rules: int = 4

    def __post_init__(self) -> None:
        """Check that something fits."""
        if min(self.literals, self.rules) < 1:
            raise ConfigError(
                f"rules of at most {self.literals} literals, at most {self.rules} of them; "
                "expected 1 or more of both."
            )


@final
@dataclass(frozen=True, eq=False)
class Table:
    """Which concepts hold in which texts, and the texts' labels."""

    truths: Truths
    labels: Labels

    def balanced(self, predicted: Labels) -> float:
        """Mean of the shares of positives and negatives told right."""
        right = predicted == self.labels
        return float((right[self.labels].float().mean() + right[~self.labels].float().mean()) / 2)


def learn_rules(
    head: Atom,
    concepts: Sequence[Atom],
    train: Table,
    validation: Table,
    bounds: Bounds | None = None,
    seed: int = 0,
) -> Program:
    """The smallest rule set for `head` that is nearly the best on validation.

    Args:
        concepts: what the columns of the tables stand for.

    Raises:
        ContrastError: no concept tells the labels apart better than chance.
    """
    bounds = bounds or Bounds()
    found: list[tuple[float, Program]] = []
    for leaves in range(2, 2 * bounds.literals * bounds.rules + 2):
        bodies = list(_bodies(train, concepts, leaves, seed))
        program = _pruned(head, bodies, concepts, train, bounds)
        if program.statements:
            found.append((validation.balanced(predict(program, concepts, validation)), program))
    best = max((merit for merit, _ in found), default=0.0)
    if best <= 0.5:
        raise ContrastError(
            f"no rule over {len(concepts)} concepts tells texts with {head} from those without; "
            "give other concepts, or more texts."
        )
    good = [program for merit, program in found if merit >= best - NEARLY]
    return min(good, key=size)


def predict(program: Program, concepts: Sequence[Atom], table: Table) -> Labels:
    """Where the head of a program's rules holds, by the engine that runs them."""
    logic = compile_program(program, concepts)
    mask = torch.zeros(1, len(table.truths), len(logic.atoms), dtype=torch.bool)
    mask[0, :, : len(concepts)] = table.truths
    return logic.run(mask)[0, :, logic.atoms.index(str(program.heads[0]))]


def size(program: Program) -> int:
    """Literals, and one for each rule."""
    return sum(1 + len(rule.body) for rule in program.rules)


def _bodies(
    train: Table, concepts: Sequence[Atom], leaves: int, seed: int
) -> Iterator[tuple[Literal, ...]]:
    """The ways to a positive leaf of a tree with so many leaves."""
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier(
        max_leaf_nodes=leaves,
        min_samples_leaf=max(1, len(train.labels) // 50),
        class_weight="balanced",
        random_state=seed,
    )
    tree = model.fit(train.truths.numpy(), train.labels.numpy()).tree_
    ways: list[tuple[int, tuple[Literal, ...]]] = [(0, ())]
    for node, body in ways:
        asked = int(tree.feature[node])
        if asked >= 0:
            sides = ((tree.children_right[node], 0), (tree.children_left[node], 1))
            ways += [(int(at), (*body, Literal(concepts[asked], nots))) for at, nots in sides]
        elif body and tree.value[node, 0, 1] > tree.value[node, 0, 0]:
            yield body


def _pruned(
    head: Atom,
    bodies: list[tuple[Literal, ...]],
    concepts: Sequence[Atom],
    train: Table,
    bounds: Bounds,
) -> Program:
    """The rules without what the train texts do not miss; of too many the least missed go."""

    at = {concept: column for column, concept in enumerate(concepts)}

    @cache
    def holds(body: tuple[Literal, ...]) -> Labels:
        parts = [train.truths[:, at[b.atom]] != b.negated for b in body]
        return torch.stack(parts).all(0)

    def merit(some: Sequence[tuple[Literal, ...]]) -> float:
        return train.balanced(torch.stack([*map(holds, some)]).any(0)) if some else 0.5

    for i in range(len(bodies)):
        for literal in bodies[i]:
            shorter = tuple(b for b in bodies[i] if b != literal)
            changed = [*bodies[:i], shorter, *bodies[i + 1 :]]
            if shorter and merit(changed) >= merit(bodies):
                bodies = changed
    bodies = [body for body in dict.fromkeys(bodies) if len(body) <= bounds.literals]
    while bodies:
        without = [bodies[:i] + bodies[i + 1 :] for i in range(len(bodies))]
        best = max(without, key=merit)
        if len(bodies) <= bounds.rules and merit(best) < merit(bodies):
            break
        bodies = best
    return _program(head, bodies)


def _program(head: Atom, bodies: Sequence[tuple[Literal, ...]]) -> Program:
    return Program(tuple(Rule(head, body, line) for line, body in enumerate(bodies, 1)), "learned")
