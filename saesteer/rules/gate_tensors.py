"""What a rule gate has ready on one device, so that a pass moves nothing there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.features.concepts import Concept, ConceptReader
from saesteer.rules.causal_scores import CAUSAL
from saesteer.rules.compile import BooleanProgram
from saesteer.rules.grounded import GroundedProgram
from saesteer.rules.late import Waiting
from saesteer.rules.prompt_scores import Kinds
from saesteer.rules.terms import Atom, Program

PROMPT = ("prompt",)


def with_aggregate(concepts: Sequence[Concept], kinds: Collection[str]) -> list[int]:
    """Which concepts are aggregated in one of these ways."""
    return [i for i, concept in enumerate(concepts) if concept.aggregate in kinds]


class Compiled(NamedTuple):
    """The tensors of a gate on one device, so that a pass moves none.

    `order` puts the readers' columns into the concepts' order (None: they are), `prompt` and
    `causal` pick those that are aggregated and `resets` what these count from; `late_*` mark what
    waits for the prompt's end.
    """

    readers: tuple[ConceptReader, ...]
    order: Int[Tensor, " n_concepts"] | None
    thresholds: Float[Tensor, " n_concepts"]
    prompt: Int[Tensor, " n_prompt"]
    causal: Int[Tensor, " n_causal"]
    resets: Int[Tensor, " n_causal"]
    kinds: Kinds
    logic: BooleanProgram | GroundedProgram
    forced_on: Bool[Tensor, " n_concepts"]
    forced_off: Bool[Tensor, " n_concepts"]
    late_atoms: Bool[Tensor, " n_atoms"]
    late_alarms: Bool[Tensor, " n_constraints"]

    @staticmethod
    def on(
        device: torch.device,
        program: Program,
        concepts: Sequence[Concept],
        readers: Sequence[ConceptReader],
        logic: BooleanProgram | GroundedProgram,
        forced: Mapping[str, bool],
    ) -> Compiled:
        """Everything on one device."""
        prompt, causal = (with_aggregate(concepts, kind) for kind in (PROMPT, CAUSAL))
        names = [concept.name for concept in concepts]
        late = Waiting.of(program, [names[i] for i in prompt])
        columns = [i for reader in readers for i in reader.concepts]
        resets = [names.index(concepts[i].of) if concepts[i].of else i for i in causal]

        def numbers(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long).to(device)

        def flags(values: Sequence[bool]) -> Tensor:
            return torch.tensor(values, dtype=torch.bool).to(device)

        return Compiled(
            readers=tuple(reader.to(device) for reader in readers),
            order=None if columns == sorted(columns) else numbers(columns).argsort(),
            thresholds=torch.tensor([c.threshold for c in concepts]).to(device),
            prompt=numbers(prompt),
            causal=numbers(causal),
            resets=numbers(resets),
            kinds=Kinds.of([concepts[i].over for i in prompt], device),
            logic=logic.to(device),
            forced_on=flags([forced.get(name) is True for name in names]),
            forced_off=flags([forced.get(name) is False for name in names]),
            late_atoms=flags([late.has(Atom.parse(atom)) for atom in logic.atoms]),
            late_alarms=flags([any(late.has(b.atom) for b in r.body) for r in logic.watched]),
        )
