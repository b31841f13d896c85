"""What a rule gate has ready on one device, so that a pass moves nothing there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from operator import gt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from saesteer.features.concepts import Concept, ConceptReader
from saesteer.rules.causal_scores import CAUSAL, NOTHING
from saesteer.rules.compile import BooleanProgram
from saesteer.rules.evidence import Concluded, HostConcluded
from saesteer.rules.grounded import GroundedProgram
from saesteer.rules.late import Waiting
from saesteer.rules.opened import OpenProgram, judge_any
from saesteer.rules.prompt_scores import Kinds
from saesteer.rules.terms import Atom, Program, contrary
from saesteer.steer.frame import Frame

PROMPT = ("prompt",)


def with_aggregate(concepts: Sequence[Concept], kinds: Collection[str]) -> list[int]:
    """Which concepts are aggregated in one of these ways."""
    return [i for i, concept in enumerate(concepts) if concept.aggregate in kinds]


class Compiled(NamedTuple):
    """The tensors of a gate on one device, so that a pass moves none.

    `order` puts the readers' columns into the concepts' order (None: they are), `hushed` marks the
    concepts that special tokens say nothing about (None: all; `over: last` reads them), `prompt`
    and `causal` pick those that are aggregated and `resets` what these count from; `late_*` mark
    what waits for the prompt's end. `floors` are the thresholds on the host, in numbers that the
    dtype of the scores holds exactly, and `forced` what is said of concepts whatever their scores.
    `denied` are the columns of -p for every open p that is forced off.
    """

    readers: tuple[ConceptReader, ...]
    order: Int[Tensor, " n_concepts"] | None
    hushed: Bool[Tensor, " n_concepts"] | None
    thresholds: Float[Tensor, " n_concepts"]
    floors: tuple[float, ...]
    forced: tuple[tuple[int, bool], ...]
    prompt: Int[Tensor, " n_prompt"]
    causal: Int[Tensor, " n_causal"]
    resets: Int[Tensor, " n_causal"]
    kinds: Kinds
    logic: BooleanProgram | GroundedProgram | OpenProgram
    forced_on: Bool[Tensor, " n_concepts"]
    forced_off: Bool[Tensor, " n_concepts"]
    denied: Int[Tensor, " n_denied"] | None
    late_atoms: Bool[Tensor, " n_atoms"]
    late_alarms: Bool[Tensor, " n_constraints"]

    def read(self, activations: Sequence[Tensor], frame: Frame) -> Tensor:
        """Each concept's score at every token, `[batch, pos, n_concepts]`; special ones have none.

        Args:
            activations: one for each reader.
        """
        valid = frame.valid
        if not self.readers:
            return torch.zeros(*valid.shape, 0, device=valid.device)
        parts: list[Tensor] = []
        for reader, resid in zip(self.readers, activations, strict=True):
            parts.append(reader.scores(resid).to(valid.device))
        read = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        read = read if self.order is None else read[..., self.order]
        if frame.special is None:
            return read
        silent = frame.special[..., None]
        return read.masked_fill(silent if self.hushed is None else silent & self.hushed, NOTHING)

    def given(self, scores: Tensor) -> Tensor:
        """Which concepts hold by their scores `[batch, pos, n_concepts]`, or are said to."""
        over = scores > self.thresholds
        return (over | self.forced_on) & ~self.forced_off if self.forced else over

    def strengths(self, scores: Tensor) -> Tensor:
        """Scores `[..., n_concepts]` as rules read them: forced on, not below the threshold.

        A concept that is forced off scores nothing, so that it has no strength.
        """
        if not self.forced:
            return scores
        raised = torch.where(self.forced_on, scores.maximum(self.thresholds), scores)
        return raised.masked_fill(self.forced_off, NOTHING)

    def conclude_on_host(self, scores: Tensor, frame: Frame) -> HostConcluded | None:
        """What follows from the scores `[batch, pos, n_concepts]`, worked out without tensors.

        None where that is not the fastest way, or the rules are no propositions.
        """
        logic, (batch, pos, _) = self.logic, scores.shape
        is_plain = isinstance(logic, BooleanProgram)
        plain = logic.on_host(scores, batch * pos) if is_plain else None
        if plain is None:
            return None
        facts: list[list[bool]] = []
        for row in chain.from_iterable(scores.tolist()):
            given = [*map(gt, row, self.floors)]
            for column, said in self.forced:
                given[column] = said
            facts.append(given)
        held = plain.close(facts)
        if not frame.whole:
            for real, *rows in zip(frame.valid.flatten().tolist(), facts, held, strict=True):
                for row in () if real else rows:
                    row[:] = [False] * len(row)
        return HostConcluded(facts, held, (batch, pos), len(logic.atoms), len(logic.watched))

    def conclude(self, scores: Tensor, frame: Frame, *, late: bool) -> Concluded:
        """The same of any rules, by tensors; nothing of it before it is decided.

        Args:
            late: whether some concepts are taken over the prompt.
        """
        given = self.given(scores)
        decided, at_atoms, at_alarms = frame.valid[..., None], None, None
        facts = pad(
            given if frame.whole else given & decided, (0, len(self.logic.atoms) - given.shape[-1])
        )
        if self.denied is not None:
            facts[..., self.denied] = decided
        atoms, alarms, unknown = judge_any(self.logic, facts, self.strengths(scores))
        if frame.prompt_lengths is not None and late:
            ended = decided & (frame.logical >= frame.prompt_lengths[:, None] - 1)[..., None]
            at_atoms = torch.where(self.late_atoms, ended, decided)
            at_alarms = torch.where(self.late_alarms, ended, decided)
        elif not frame.whole:
            at_atoms = at_alarms = decided
        if at_atoms is not None and at_alarms is not None:
            atoms, alarms = atoms & at_atoms, alarms & at_alarms
            unknown = None if unknown is None else unknown & at_atoms
        return Concluded(facts, atoms, alarms, unknown)

    @staticmethod
    def on(
        device: torch.device,
        program: Program,
        concepts: Sequence[Concept],
        readers: Sequence[ConceptReader],
        logic: BooleanProgram | GroundedProgram | OpenProgram,
        forced: Mapping[str, bool],
    ) -> Compiled:
        """Everything on one device."""
        prompt, causal = (with_aggregate(concepts, kind) for kind in (PROMPT, CAUSAL))
        names = [concept.name for concept in concepts]
        late = Waiting.of(program, [names[i] for i in prompt])
        columns = [i for reader in readers for i in reader.concepts]
        hushed = [concept.over != "last" for concept in concepts]
        resets = [names.index(concepts[i].of) if concepts[i].of else i for i in causal]

        off = [atom for atom in program.open if forced.get(str(atom)) is False]
        denied = [logic.atoms.index(str(contrary(atom))) for atom in off]

        def numbers(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long).to(device)

        def flags(values: Sequence[bool]) -> Tensor:
            return torch.tensor(values, dtype=torch.bool).to(device)

        thresholds = torch.tensor([c.threshold for c in concepts])
        return Compiled(
            readers=tuple(reader.to(device) for reader in readers),
            order=None if columns == sorted(columns) else numbers(columns).argsort(),
            hushed=None if all(hushed) else flags(hushed),
            thresholds=thresholds.to(device),
            floors=tuple(thresholds.tolist()),
            forced=tuple((names.index(name), said) for name, said in forced.items()),
            prompt=numbers(prompt),
            causal=numbers(causal),
            resets=numbers(resets),
            kinds=Kinds.of([concepts[i].over for i in prompt], device),
            logic=logic.to(device),
            forced_on=flags([forced.get(name) is True for name in names]),
            forced_off=flags([forced.get(name) is False for name in names]),
            denied=numbers(denied) if denied else None,
            late_atoms=flags([late.has(Atom.parse(atom)) for atom in logic.atoms]),
            late_alarms=flags([any(late.has(b.atom) for b in r.body) for r in logic.watched]),
        )
