"""A text read through a rule book, without steering: what holds at each token, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch

from saesteer.errors import RuleError
from saesteer.models.limits import check_prompt
from saesteer.models.record import record
from saesteer.rules.evidence import Evidence
from saesteer.rules.gate import RuleGate
from saesteer.rules.miss import NearMiss
from saesteer.rules.proof import Proof
from saesteer.shown import shown
from saesteer.steer.frame import Frame

if TYPE_CHECKING:
    from saesteer.models.model import Model
    from saesteer.rules.book import RuleBook
    from saesteer.saes.sae import SAE


@final
@shown
@dataclass(frozen=True, eq=False)
class RuleReading:
    """One row: its tokens and the evidence of the single pass over them."""

    tokens: tuple[str, ...]
    gate: RuleGate
    evidence: Evidence

    @property
    def holds(self) -> dict[str, tuple[int, ...]]:
        """For every atom, concepts first, the token positions where it holds."""
        atoms = self.evidence.atoms[0].tolist()
        return {
            atom: tuple(t for t, row in enumerate(atoms) if row[column])
            for column, atom in enumerate(self.gate.logic.atoms)
        }

    @property
    def unknown(self) -> dict[str, tuple[int, ...]]:
        """For every atom that is unknown somewhere, the token positions where it is."""
        if self.evidence.unknown is None:
            return {}
        rows = self.evidence.unknown[0].tolist()
        found = {
            atom: tuple(t for t, row in enumerate(rows) if row[column])
            for column, atom in enumerate(self.gate.logic.atoms)
        }
        return {atom: positions for atom, positions in found.items() if positions}

    @property
    def alarms(self) -> dict[str, tuple[int, ...]]:
        """For every constraint that is violated somewhere, the token positions where it is."""
        raised: dict[str, list[int]] = {}
        for t in range(len(self.tokens)):
            for rule in self.gate.alarms(self.evidence, 0, t):
                raised.setdefault(rule, []).append(t)
        return {rule: tuple(positions) for rule, positions in raised.items()}

    def proof(self, atom: str, index: int = -1) -> Proof:
        """Why an atom holds at a token, or does not.

        Raises:
            RuleError: no such atom or token.
        """
        return self.gate.prove(self.evidence, 0, self._position(index), self.gate.known(atom))

    def why_not(self, atom: str, index: int = -1) -> NearMiss | None:
        """What an atom misses at a token; None if it holds there.

        Raises:
            RuleError: no such atom or token.
        """
        return self.gate.why_not(self.evidence, 0, self._position(index), self.gate.known(atom))

    def proofs(self) -> list[tuple[int, Proof]]:
        """For every derived atom that holds, its first and its last token's proof."""
        holds, heads = self.holds, map(str, self.gate.program.heads)
        return [(t, self.proof(head, t)) for head in heads for t in _ends(holds[head])]

    def as_dict(self) -> dict[str, Any]:
        """Tokens, scores, positions and proofs as JSON values; a score of nothing is null."""
        scores = self.evidence.scores[0].tolist()
        told = {
            "tokens": list(self.tokens),
            "scores": {
                concept.name: [_finite(row[i]) for row in scores]
                for i, concept in enumerate(self.gate.concepts)
            },
            "holds": {atom: list(positions) for atom, positions in self.holds.items()},
            "alarms": {rule: list(positions) for rule, positions in self.alarms.items()},
            "proofs": [{"token": t, **proof.as_dict()} for t, proof in self.proofs()],
        }
        unknown = {atom: list(positions) for atom, positions in self.unknown.items()}
        return told | {"unknown": unknown} if self.gate.program.open else told

    def __str__(self) -> str:
        """Each atom with its tokens, the alarms, then a proof of every derived atom that holds."""
        width = max((len(atom) for atom in self.holds), default=0)
        lines = [f"{atom:<{width}}  {self._spell(at)}" for atom, at in self.holds.items()]
        lines += [f"unknown  {atom}  {self._spell(at)}" for atom, at in self.unknown.items()]
        lines += [f"alarm  {rule}  {self._spell(at)}" for rule, at in self.alarms.items()]
        for t, proof in self.proofs():
            lines += ["", f"at token {t} {self.tokens[t]!r}", *proof.lines()]
        return "\n".join(lines)

    def _position(self, index: int) -> int:
        """A token's position; a negative index counts from the end."""
        n = len(self.tokens)
        if not -n <= index < n:
            raise RuleError(f"no token {index}; the text has {n}, 0 to {n - 1}.")
        return index % n

    def _spell(self, positions: tuple[int, ...]) -> str:
        return "  ".join(f"{t} {self.tokens[t]!r}" for t in positions) or "nowhere"


@torch.no_grad()
def read_prompt(
    book: RuleBook,
    model: Model,
    sae: SAE | None,
    text: str,
    force: Mapping[str, bool] | None = None,
) -> RuleReading:
    """Read a text as one whole prompt: prompt-level concepts act at its last token.

    Raises:
        SaeError, FeatureError: concepts that `sae` can't give.
        SiteError: a concept's site that the model does not have.
        DataError: a text without tokens, or with more than the model can read.
    """
    batch = model.tokenize(text)
    check_prompt(model, batch.input_ids.shape[1])
    gate = RuleGate.of(book, sae, force)
    ids = batch.input_ids
    frame = Frame.of(
        ids,
        batch.attention_mask,
        prompt_lengths=batch.attention_mask.sum(-1),
        special_ids=model.special_ids.tolist(),
    )
    readings = record(model, batch, gate.sites) if gate.sites else {}
    evidence = gate.evaluate(readings, frame, gate.new_state())
    tokens = tuple(model.tokenizer.decode([token]) for token in ids[0].tolist())
    return RuleReading(tokens, gate, evidence._replace(decode=model.tokenizer.decode))


def _ends(positions: tuple[int, ...]) -> list[int]:
    return sorted({positions[0], positions[-1]}) if positions else []


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None
