"""Prompts read once and answered many times: what steers only from the last prompt token on.

The prompt without its last token goes through the model once, its activations are kept for reading
and its keys and values for answering; each plan then costs one token. Cached equals uncached, so
this is what `model.generate` with the same plan would say first (a test holds the two together).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Resid
from saesteer.models import Model, Site, TokenBatch, installed, record
from saesteer.steer import Plan


@final
@dataclass(frozen=True, eq=False)
class Prefill:
    """A left-padded batch of prompts whose last token is still to come.

    `resid` is of every column but the last, at each site asked for.
    """

    model: Model
    tokens: TokenBatch
    resid: tuple[Resid, ...]
    cache: Any = field(repr=False)

    def rows(self) -> list[tuple[Float[Tensor, "pos width"], ...]]:
        """Each row's activations at every site without its padding, fp32 on the CPU."""
        mask = self.tokens.attention_mask[:, :-1]
        return [
            tuple(at_site[row][real].float().cpu() for at_site in self.resid)
            for row, real in enumerate(mask)
        ]

    @torch.no_grad()
    def answer(self, plan: Plan | None = None) -> Float[Tensor, "batch vocab"]:
        """Logits of the first generated token under a plan, which must leave the prompt alone."""
        lengths = self.tokens.lengths
        steering = nullcontext() if plan is None else plan.on(self.model, prompt_lengths=lengths)
        with steering:
            logits = self.step(self.cache)
        self.cache.crop(-1)
        return logits.float()

    def step(self, cache: Any) -> Tensor:
        """One pass over the last token, which the cache then holds."""
        mask = self.tokens.attention_mask.long()
        out = self.model.hf(
            input_ids=self.tokens.input_ids[:, -1:],
            attention_mask=mask,
            position_ids=(mask.sum(-1, keepdim=True) - 1),
            past_key_values=cache,
            use_cache=True,
        )
        return out.logits[:, -1]


@torch.no_grad()
def prefill(model: Model, prompts: Sequence[str], *sites: Site) -> Prefill:
    """Read some prompts up to their last token."""
    tokens = model.tokenize(list(prompts))
    seen: dict[Site, Tensor] = {}
    mask = tokens.attention_mask[:, :-1].long()
    hooks = [(model.layout.point(site), partial(_keep, seen, site)) for site in sites]
    with installed(hooks):
        out = model.hf(
            input_ids=tokens.input_ids[:, :-1],
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
    return Prefill(model, tokens, tuple(seen[site] for site in sites), out.past_key_values)


def _keep(seen: dict[Site, Tensor], site: Site, resid: Tensor) -> None:
    seen[site] = resid


def read_texts(
    model: Model, texts: Sequence[str], *sites: Site
) -> list[tuple[Float[Tensor, "pos width"], ...]]:
    """Each text's activations at every site, in the model's dtype on the CPU, in one pass."""
    batch = model.tokenize(list(texts), padding_side="right")
    read = record(model, batch, sites)
    resid = [read[site].cpu() for site in sites]
    lengths = batch.lengths.tolist()
    return [tuple(rows[row, :n] for rows in resid) for row, n in enumerate(lengths)]


def token_positions(
    model: Model, text: str, spans: Sequence[tuple[int, int]]
) -> list[tuple[int, ...]]:
    """The tokens that overlap each span of characters, counted from the text's first token."""
    offsets = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return overlapping(offsets, spans)


def overlapping(
    offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> list[tuple[int, ...]]:
    """The same from where each token stands in the text; tokens that hold no text are in none."""
    return [
        tuple(t for t, (a, b) in enumerate(offsets) if a < b and b > start and a < end)
        for start, end in spans
    ]
