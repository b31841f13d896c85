"""Rules as gates: one evaluation of all atoms per forward pass, and a gate per head that reads it.

`RuleGate` holds everything settled when a plan is made: one column slice per site, the thresholds
and the compiled program. Its heads' gates find its result in the pass's memo, so that ten edits
cost one evaluation. A pass leaves scores, facts and atoms behind as tensors; words are made from
them only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from saesteer.axes import TokenMask
from saesteer.errors import RuleError
from saesteer.features.concepts import (
    Concept,
    ConceptReader,
    CosineReadout,
    FeatureReadout,
    ProbeReadout,
    concept_readers,
)
from saesteer.features.trees import SlicedTree, TreeReadout
from saesteer.models.sites import Site
from saesteer.rules.causal_scores import CAUSAL
from saesteer.rules.compile import BooleanProgram
from saesteer.rules.evidence import NOTE, Evidence, concept_of, leaves_of, strengths_of
from saesteer.rules.gate_tensors import PROMPT, Compiled, with_aggregate
from saesteer.rules.grounded import GroundedProgram
from saesteer.rules.memory import RuleState, Seen
from saesteer.rules.miss import NearMiss, near_miss
from saesteer.rules.open_ground import spell_out
from saesteer.rules.opened import OpenProgram, compile_open
from saesteer.rules.prompt_scores import OwnScores, Scored, aggregate
from saesteer.rules.proof import LeafOf, Proof, closure, prove
from saesteer.rules.syntax import nearest
from saesteer.rules.terms import Atom, Comparison, Literal, Program, Rule, Term
from saesteer.steer.frame import Frame
from saesteer.steer.kinds import register_kind

if TYPE_CHECKING:
    from saesteer.rules.book import RuleBook
    from saesteer.saes.sae import SAE

NOTHING = Seen()
NOT_YET = "not decided before the prompt's end"


@register_kind
@final
@dataclass(frozen=True, eq=False)
class RuleGate:
    """All concepts and atoms of a rule book, evaluated together.

    Every head's gate reads all the book's sites, so an edit must lie at the latest of them or
    after. `logic` is the compiled program and `sites` what the concepts read; `key` is the same
    for gates that rest on the same tensors, such as those of one saved plan, and lets them share an
    evaluation.
    """

    program: Program
    concepts: tuple[Concept, ...]
    readers: tuple[ConceptReader, ...]
    forced: tuple[tuple[str, bool], ...] = ()
    logic: BooleanProgram | GroundedProgram | OpenProgram = field(init=False, repr=False)
    sites: tuple[Site, ...] = field(init=False, repr=False)
    key: str = field(init=False, repr=False)
    _remembers: tuple[bool, ...] = field(init=False, repr=False)
    _on: dict[torch.device, Compiled] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Compile the program, concepts in its first columns.

        Raises:
            RuleError: a cycle through negation, or a forced concept that there isn't.
        """
        names = [Atom.parse(concept.name) for concept in self.concepts]
        known = list(map(str, names))
        for name, said in self.forced:
            if not isinstance(said, bool):
                raise RuleError(f"{name} is forced to be {said!r}; expected True or False.")
            if name not in known:
                hint = nearest(name, known)
                raise RuleError(f"{name!r} can't be forced: it is no concept{hint or '.'}")
        object.__setattr__(self, "logic", compile_open(self.program, names))
        object.__setattr__(self, "sites", tuple(reader.site for reader in self.readers))
        remembers = (bool(with_aggregate(self.concepts, kind)) for kind in (PROMPT, CAUSAL))
        object.__setattr__(self, "_remembers", tuple(remembers))
        told = [(c.name, str(c.readout), c.threshold, c.span, c.aggregate) for c in self.concepts]
        held = [id(tensor) for reader in self.readers for tensor in reader.tensors]
        rules = (str(self.program), self.program.open)
        key = repr((rules, told, held, self.forced))  # text: hashed once, asked often
        object.__setattr__(self, "key", key)

    @classmethod
    def of(
        cls, book: RuleBook, sae: SAE | None, force: Mapping[str, bool] | None = None
    ) -> RuleGate:
        """Gather the columns that the book's concepts need.

        Args:
            force: concepts that hold everywhere or nowhere, whatever their scores; one that holds
                has its own score for a strength, or its threshold where that is higher, and one
                that doesn't has none.

        Raises:
            SaeError, FeatureError, DimensionError: concepts that `sae` can't give.
            RuleError: `force` says neither True nor False of a concept, or there is none of it.
        """
        if force is not None and not isinstance(force, Mapping):
            raise RuleError(f"force is {force!r}; expected concepts with True or False for each.")
        readers = tuple(concept_readers(book.concepts, sae))
        program = spell_out(book.program, [Atom.parse(c.name) for c in book.concepts])
        return cls(program, book.concepts, readers, tuple((force or {}).items()))

    def head(self, atom: Atom | str, *, alarms: bool = True) -> HeadGate:
        """The gate that is open where this atom holds.

        Args:
            alarms: whether its explanations name violated constraints; one gate of a plan does.
        """
        return HeadGate(self, str(atom), alarms)

    def new_state(self) -> RuleState | None:
        """What there is to remember of one text: nothing, if concepts are of single tokens."""
        prompt, causal = self._remembers
        return RuleState(prompt=prompt, causal=causal) if prompt or causal else None

    def evaluate(
        self, readings: Mapping[Site, Tensor], frame: Frame, state: RuleState | None
    ) -> Evidence:
        """Everything that holds in this pass; worked out once, however many gates ask.

        Plans attached one over the other read different activations, so each asks for itself.

        Args:
            state: what `new_state` gave the gate that asks; every gate's is kept up to date.
        """
        read = [*map(readings.__getitem__, self.sites)]
        key = (self.key, *map(id, read))
        known = frame.memo.get(key)
        if known is None:
            known = frame.memo[key] = (*self._evaluate(read, frame, state), read)
        elif state is not None:
            state.write(frame, known[1])
        frame.evidence[NOTE] = known[0]
        return known[0]

    def prove(self, evidence: Evidence, row: int, index: int, atom: Atom) -> Proof:
        """Why `atom` holds or not at `[row, index]` of a pass's evidence."""
        came, leaf_of = self._found(evidence, row, index)
        if atom in came and not evidence.atoms[row, index, self.logic.atoms.index(str(atom))]:
            return Proof(str(atom), holds=False, note=NOT_YET)
        proof = prove(self.program, came, atom, leaf_of)
        unknown = evidence.unknown if proof.unknown else None
        if unknown is not None and not unknown[row, index, self.logic.atoms.index(str(atom))]:
            return Proof(str(atom), holds=False, note=NOT_YET)
        return proof

    def why_not(self, evidence: Evidence, row: int, index: int, atom: Atom) -> NearMiss | None:
        """What `atom` misses at `[row, index]`; None if it holds, or will at the prompt's end."""
        came, leaf_of = self._found(evidence, row, index)
        return near_miss(self.program, came, atom, leaf_of)

    def known(self, name: str) -> Atom:
        """The atom of this name.

        Raises:
            RuleError: these rules have none.
        """
        if name not in self.logic.atoms:
            hint = nearest(name, self.logic.atoms)
            raise RuleError(f"{name!r} is no atom of these rules{hint or '.'}")
        return Atom.parse(name)

    def alarms(self, evidence: Evidence, row: int, index: int) -> list[str]:
        """The constraints violated at `[row, index]`, as they are written."""
        raised = evidence.alarms[row, index].tolist()
        return [str(r) for r, up in zip(self.logic.watched, raised, strict=True) if up]

    def _found(
        self, evidence: Evidence, row: int, index: int
    ) -> tuple[Mapping[Atom, Rule | None], LeafOf]:
        """What follows there from what was read, and what each concept's truth rests on."""
        facts = evidence.facts[row, index].tolist()
        given = [Atom.parse(a) for a, fact in zip(self.logic.atoms, facts, strict=True) if fact]
        forced = dict(self.forced)
        found = leaves_of(self.concepts, evidence, row, index)
        leaves = {leaf.concept: leaf for leaf in found if leaf.concept not in forced}
        scores = evidence.scores[row, index]
        strengths = self._compiled(scores.device).strengths(scores)
        given += strengths_of(self.program, self.concepts, strengths)
        return closure(self.program, given), lambda a: leaves.get(concept_of(a))

    def _evaluate(
        self, read: Sequence[Tensor], frame: Frame, state: RuleState | None
    ) -> tuple[Evidence, Seen]:
        device = frame.valid.device
        on = self._compiled(device)
        scored, seen = OwnScores(on.read(read, frame), frame.places, frame.input_ids), NOTHING
        if state is not None:
            scored, seen = self._aggregated(on, scored.told(), frame, state)
        late = seen.totals is not None
        found = None if late else on.conclude_on_host(scored.scores, frame)
        if found is None:
            found = on.conclude(scored.scores, frame, late=late)
        return Evidence(scored, found, frame.decode), seen

    def _aggregated(
        self, on: Compiled, own: Scored, frame: Frame, state: RuleState
    ) -> tuple[Scored, Seen]:
        """Every concept's score, taken over what it says."""
        scored, seen = own, NOTHING
        if state.prompt is not None:
            chosen = own.columns(on.prompt)
            totals = aggregate(chosen, on.kinds, frame, state.prompt.before(frame, chosen.scores))
            state.prompt.write(frame, totals)
            scored, seen = scored.put(on.prompt, totals.scored), seen._replace(totals=totals)
        if state.causal is not None:
            resets = on.given(own.scores)[..., on.resets]
            seen = seen._replace(own=own.columns(on.causal), resets=resets)
            state.write(frame, seen)
            concepts = [self.concepts[i] for i in with_aggregate(self.concepts, CAUSAL)]
            scored = scored.put(on.causal, state.causal.aggregate(concepts, frame))
        return scored, seen

    def _compiled(self, device: torch.device) -> Compiled:
        """The gate's tensors on one device; moved there once."""
        if device not in self._on:
            parts = (self.program, self.concepts, self.readers, self.logic)
            self._on[device] = Compiled.on(device, *parts, forced=dict(self.forced))
        return self._on[device]


@register_kind
@final
@dataclass(frozen=True, eq=False)
class HeadGate:
    """Open where one derived atom holds."""

    rules: RuleGate
    atom: str
    names_alarms: bool = True
    column: int = field(init=False, repr=False)
    sites: tuple[Site, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find the atom's column, and what the rules read."""
        object.__setattr__(self, "column", self.rules.logic.atoms.index(self.atom))
        object.__setattr__(self, "sites", self.rules.sites)

    def new_state(self) -> RuleState | None:
        """Running aggregates over the prompt, of one text."""
        return self.rules.new_state()

    def open(
        self, readings: Mapping[Site, Tensor], frame: Frame, state: RuleState | None
    ) -> TokenMask:
        """Where the atom holds, `[batch, pos]`; never at padding."""
        return self.rules.evaluate(readings, frame, state).concluded.where(self.column, frame)

    def proof(self, evidence: Mapping[str, Any], row: int, index: int) -> Proof:
        """The same as a tree."""
        return self.rules.prove(Evidence.noted(evidence), row, index, Atom.parse(self.atom))

    def why_not(
        self, evidence: Mapping[str, Any], row: int, index: int, atom: str
    ) -> NearMiss | None:
        """What any atom of the rules misses there; None if it holds."""
        known = self.rules.known(atom)
        return self.rules.why_not(Evidence.noted(evidence), row, index, known)

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        """The proof that the atom holds there, or does not, and the alarms raised there."""
        found = Evidence.noted(evidence)
        proof = self.rules.prove(found, row, index, Atom.parse(self.atom))
        alarms = self.rules.alarms(found, row, index) if self.names_alarms else []
        return "\n".join([*proof.lines(), *(f"alarm: {rule}" for rule in alarms)])


for _kind in (Term, Comparison, Atom, Literal, Rule, Program):
    register_kind(_kind)
for _kind in (Concept, ConceptReader, FeatureReadout, CosineReadout, ProbeReadout):
    register_kind(_kind)
for _kind in (TreeReadout, SlicedTree):
    register_kind(_kind)
