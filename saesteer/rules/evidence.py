"""What a pass of a rule gate leaves behind, and what it says about one token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.axes import TokenMask
from saesteer.features.concepts import Concept
from saesteer.rules.grounded import reads_strength, strength_facts, thousandths
from saesteer.rules.plain import as_flags
from saesteer.rules.prompt_scores import OwnScores, Scored
from saesteer.rules.proof import Leaf
from saesteer.rules.terms import Atom, Program, is_strength
from saesteer.steer.frame import Frame

NOTE = "rules"
"""Where a gate of rules leaves its evidence among a pass's notes."""


class Concluded(NamedTuple):
    """The atoms of a pass as tensors `[batch, pos, n]`: one column per atom, or per constraint.

    `facts` are what was read, `atoms` what follows; `unknown` exists with open atoms only.
    """

    facts: Tensor
    atoms: Tensor
    alarms: Tensor
    unknown: Tensor | None = None

    def where(self, column: int, _frame: Frame) -> TokenMask:
        """Where one atom holds, `[batch, pos]`."""
        return self.atoms[..., column]


@final
class HostConcluded:
    """The same of a few rows whose rules ran on the host; tensors are made when somebody asks.

    Args:
        given: each position's facts, of the first columns; row by row.
        held: each position's facts and what follows from them.
        shape: of the pass, `(batch, pos)`.
        n_atoms: columns of atoms; `n_alarms` columns of constraints come after them.
    """

    __slots__ = ("_given", "_held", "_n_alarms", "_n_atoms", "_shape")
    unknown = None

    def __init__(
        self,
        given: Sequence[list[bool]],
        held: Sequence[list[bool]],
        shape: tuple[int, int],
        n_atoms: int,
        n_alarms: int,
    ) -> None:
        self._given, self._held, self._shape = given, held, shape
        self._n_atoms, self._n_alarms = n_atoms, n_alarms

    @property
    def facts(self) -> Tensor:
        """What was read."""
        return as_flags(self._given, self._n_atoms).view(*self._shape, self._n_atoms)

    @property
    def atoms(self) -> Tensor:
        """What follows."""
        return self._columns(0, self._n_atoms)

    @property
    def alarms(self) -> Tensor:
        """The constraints that are violated."""
        return self._columns(self._n_atoms, self._n_alarms)

    def where(self, column: int, frame: Frame) -> TokenMask:
        """Where one atom holds, `[batch, pos]`: what the frame has for everywhere and nowhere."""
        holds = [held[column] for held in self._held]
        if True not in holds:
            return frame.places.none
        if False not in holds and frame.whole:
            return frame.valid
        return torch.tensor(holds).view(self._shape)

    def _columns(self, first: int, n: int) -> Tensor:
        rows = [held[first : first + n] for held in self._held]
        return as_flags(rows, n).view(*self._shape, n)


class Evidence(NamedTuple):
    """What one pass found, noted for the trace under `NOTE`.

    `scored` has a column per concept. `atoms` leaves out what is not decided before the prompt's
    end, and `unknown` too.
    """

    scored: Scored | OwnScores
    concluded: Concluded | HostConcluded
    decode: Callable[[Sequence[int]], str] | None = None

    @property
    def scores(self) -> Float[Tensor, "batch pos n_concepts"]:
        """Each concept's score, aggregated as it says."""
        return self.scored.scores

    @property
    def facts(self) -> Bool[Tensor, "batch pos n_atoms"]:
        """What was read."""
        return self.concluded.facts

    @property
    def atoms(self) -> Bool[Tensor, "batch pos n_atoms"]:
        """What follows."""
        return self.concluded.atoms

    @property
    def alarms(self) -> Bool[Tensor, "batch pos n_constraints"]:
        """The constraints that are violated."""
        return self.concluded.alarms

    @property
    def unknown(self) -> Bool[Tensor, "batch pos n_atoms"] | None:
        """The atoms that are neither true nor false; None where none can be."""
        return self.concluded.unknown

    @staticmethod
    def noted(notes: Mapping[str, Any]) -> Evidence:
        """What a gate of rules has left among its notes on a pass."""
        return notes[NOTE]


def concept_of(atom: Atom) -> str:
    """The concept that an atom is about: itself, or what a strength is of."""
    return str(atom.args[0]) if is_strength(atom) else str(atom)


def strengths_of(
    program: Program, concepts: Sequence[Concept], scores: Float[Tensor, " n_concepts"]
) -> list[Atom]:
    """The strengths that rules read at one token, as facts."""
    names = [c.name for c in concepts]
    whole = thousandths(scores).tolist()
    read = {n: w for n, w in zip(names, whole, strict=True) if reads_strength(program, n)}
    return strength_facts(read)


def leaves_of(concepts: Sequence[Concept], evidence: Evidence, row: int, index: int) -> list[Leaf]:
    """What each concept's truth at `[row, index]` rests on."""
    return [_leaf(concept, i, evidence, row, index) for i, concept in enumerate(concepts)]


def _leaf(concept: Concept, column: int, evidence: Evidence, row: int, index: int) -> Leaf:
    decode = evidence.decode
    token = int(evidence.scored.token[row, index, column])
    return Leaf(
        concept=concept.name,
        readout=str(concept.readout),
        score=float(evidence.scores[row, index, column]),
        threshold=concept.threshold,
        aggregate=concept.span,
        position=int(evidence.scored.position[row, index, column]),
        token=decode([token]) if decode is not None and token >= 0 else f"<{token}>",
    )
