"""What a pass of a rule gate leaves behind, and what it says about one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from saesteer.features.concepts import Concept
from saesteer.rules.grounded import reads_strength, strength_facts, thousandths
from saesteer.rules.proof import Leaf
from saesteer.rules.terms import Atom, Program, is_strength


class Evidence(NamedTuple):
    """What one pass found, `[batch, pos, n]` each; every field is noted for the trace.

    `scores` and what they rest on have a column per concept, `facts` and `atoms` one per atom, and
    `alarms` one per constraint. `atoms` leaves out what is not decided before the prompt's end, and
    `unknown` (with open atoms only) too.
    """

    scores: Tensor
    position: Tensor
    token: Tensor
    facts: Tensor
    atoms: Tensor
    alarms: Tensor
    unknown: Tensor | None = None


def concept_of(atom: Atom) -> str:
    """The concept that an atom is about: itself, or what a strength is of."""
    return str(atom.args[0]) if is_strength(atom) else str(atom)


def strengths_of(
    program: Program,
    concepts: Sequence[Concept],
    evidence: Mapping[str, Any],
    row: int,
    index: int,
) -> list[Atom]:
    """The strengths that rules read at `[row, index]`, as facts."""
    names = [c.name for c in concepts]
    whole = thousandths(evidence["scores"][row, index]).tolist()
    read = {n: w for n, w in zip(names, whole, strict=True) if reads_strength(program, n)}
    return strength_facts(read)


def leaves_of(
    concepts: Sequence[Concept], evidence: Mapping[str, Any], row: int, index: int
) -> list[Leaf]:
    """What each concept's truth at `[row, index]` rests on."""
    return [_leaf(concept, i, evidence, row, index) for i, concept in enumerate(concepts)]


def _leaf(concept: Concept, column: int, evidence: Mapping[str, Any], row: int, index: int) -> Leaf:
    decode = evidence.get("decode")
    token = int(evidence["token"][row, index, column])
    return Leaf(
        concept=concept.name,
        readout=str(concept.readout),
        score=float(evidence["scores"][row, index, column]),
        threshold=concept.threshold,
        aggregate=concept.span,
        position=int(evidence["position"][row, index, column]),
        token=decode([token]) if decode is not None and token >= 0 else f"<{token}>",
    )
