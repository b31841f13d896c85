"""Pairs of prompts that differ in a few tokens and in their answer, and the metric over them.

A contrast pairs `{"prompt": ..., "text": " answer"}` of label 1, the clean run, with another of
label 0, the corrupted one. Both prompts have the same number of tokens (symmetric token
replacement: neither run leaves the data's distribution, as noise would). The metric is the logit of
the clean answer less that of the other, at the first tokens in which they differ (those before join
the prompts): it does not saturate as a probability does, and is blind to what raises both.

Source: Zhang and Nanda 2024, Towards Best Practices of Activation Patching (2309.16042).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import DataError
from saesteer.features.activations import text_ids
from saesteer.features.effects import common_length
from saesteer.models import Model, Site, TokenBatch, installed

Change = Callable[[Tensor], Tensor | None]


@final
@dataclass(frozen=True)
class PromptPair:
    """Two prompts of one length, `[1, pos]` each, and the ids of the two answers."""

    clean: TokenBatch
    corrupted: TokenBatch
    answer: int
    other: int

    @property
    def n_tokens(self) -> int:
        """Tokens of either prompt."""
        return self.clean.input_ids.shape[1]

    def metric(self, logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, " batch"]:
        """Logit difference, clean answer over the other."""
        return logits[:, self.answer].float() - logits[:, self.other].float()


def prompt_pairs(model: Model, contrast: Contrast) -> list[PromptPair]:
    """The contrast's pairs as clean and corrupted prompts with answers.

    Raises:
        ContrastError: it holds no pairs.
        DataError: a pair without prompts, with prompts of different lengths or none that differ,
            or with one and the same answer.
    """
    found: list[PromptPair] = []
    for number, sides in enumerate(contrast.pairs()):
        ids = [text_ids(model, example) for example in sides]
        shared = common_length(*(row[n_prefix:] for row, n_prefix in ids))
        prompts = [row[: n_prefix + shared] for row, n_prefix in ids]
        answers = [row[n_prefix + shared] for row, n_prefix in ids]
        fault = _fault([example.prompt for example in sides], prompts, answers)
        if fault is not None:
            raise DataError(
                f"{contrast.name}: pair {sides[0].pair or number} {fault}; patching needs "
                '{"prompt", "text"} pairs that swap tokens one for one and change the answer.'
            )
        clean, corrupted = (_row(model, row) for row in prompts)
        found.append(PromptPair(clean, corrupted, *answers))
    return found


def run(
    model: Model, batch: TokenBatch, changes: Sequence[tuple[Site, Change]] = (), n_rows: int = 1
) -> Float[Tensor, "batch vocab"]:
    """Logits at the last token with `changes` in place, of one prompt in `n_rows` copies."""
    rows = TokenBatch(batch.input_ids.expand(n_rows, -1), batch.attention_mask.expand(n_rows, -1))
    with installed((model.layout.point(site), change) for site, change in changes):
        return model.forward(rows, last=1)[:, -1]


def _fault(texts: list[str | None], prompts: list[list[int]], answers: list[int]) -> str | None:
    if not all(texts):
        return "has no prompts"
    if len(prompts[0]) != len(prompts[1]):
        return f"has prompts of {len(prompts[0])} and {len(prompts[1])} tokens"
    if prompts[0] == prompts[1]:
        return "has the same prompt twice"
    return "has answers that don't differ" if answers[0] == answers[1] else None


def _row(model: Model, ids: list[int]) -> TokenBatch:
    row = torch.tensor([ids], device=model.device)
    return TokenBatch(row, torch.ones_like(row, dtype=torch.bool))
