"""One plan on one set of prompts, measured: what it wrote, how far it moved, what that cost.

Every text of a comparison has the same number of tokens, greedily chosen, so no method wins by
length; only a plan that ends a text makes it shorter, and what it left out counts nowhere. For the
KL, steered and unsteered model read the same steered tokens, and their next-token distributions are
compared at the generated positions only. The steered ones are those that chose the tokens: with a
cache they equal a teacher-forced pass, which is a law of the engine. A prompt edit is compared with
the model that never saw it, on the same generated tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saesteer.evals.curves import Point
from saesteer.evals.scorers import Scorer
from saesteer.evals.tasks import Task
from saesteer.metrics import distinct_n, perplexity, token_ce, token_kl
from saesteer.models.model import Model, Prompt, TokenBatch
from saesteer.steer import Plan
from saesteer.steer.schedule import DialRow

BATCH_SIZE = 32
"""Rows generated together; a decoding step of a small model costs little more for 32 than for 8."""
SCORE_ROWS = 8
"""Rows scored together: two sets of logits of 8 x 80 tokens of 49,152 words are 250 MB."""


@dataclass(frozen=True)
class Written:
    """What a model wrote: batches of (prompt tokens, new ids `[rows, n_tokens]`) and the texts.

    `logits` has `[rows, n_tokens, vocab]` for each batch, empty where they were not kept; `dials`
    what each row's dials stood at, for reading the texts again; empty for plans without controls.
    """

    batches: tuple[tuple[TokenBatch, Tensor], ...]
    logits: tuple[Tensor, ...]
    texts: tuple[str, ...]
    relative_dose: float
    seconds_per_token: float
    dials: tuple[DialRow, ...] = ()


@dataclass(frozen=True)
class Bench:
    """Prompts of one split with what the unsteered model writes and scores on them."""

    model: Model
    prompts: tuple[Prompt, ...]
    scorer: Scorer
    n_tokens: int
    unsteered: Written
    scores: tuple[float, ...]


def make_bench(model: Model, task: Task, split: str, n_tokens: int) -> Bench:
    """Run the unsteered model once on a split of the task.

    Raises:
        DataError: the prompts are chats and the tokenizer has no chat template.
    """
    prompts = tuple(as_prompt(prompt, task.chat) for prompt in task.prompts[split])
    unsteered = write(model, prompts, None, n_tokens)
    scores = tuple(task.scorer(text) for text in unsteered.texts)
    return Bench(model, prompts, task.scorer, n_tokens, unsteered, scores)


def as_prompt(prompt: str, chat: bool) -> Prompt:
    """A text as it is, or as a user's message."""
    return [{"role": "user", "content": prompt}] if chat else prompt


def write(model: Model, prompts: Sequence[Prompt], plan: Plan | None, n_tokens: int) -> Written:
    """Generate exactly `n_tokens` new tokens for each prompt, greedily, with or without a plan."""
    started = time.perf_counter()
    logits: list[Tensor] = []
    dials: tuple[DialRow, ...] = ()
    if plan is None:
        batches, dose = _generate(model, prompts, n_tokens, None), 0.0
    else:
        with plan.on(model) as trace:
            batches = _generate(model, prompts, n_tokens, logits)
        dose, dials = trace.dose(), tuple(trace.dials)
    seconds = time.perf_counter() - started
    texts = tuple(
        model.tokenizer.decode(row, skip_special_tokens=True) for _, new in batches for row in new
    )
    n_written = sum(int(_written(model, new).sum()) for _, new in batches)
    per_token = seconds / max(1, n_written)
    return Written(batches, tuple(logits), texts, dose, per_token, dials)


def measure(bench: Bench, plan: Plan | None) -> Point:
    """One plan at its present strength, or no plan, as a point; see `curves.Point`."""
    written = bench.unsteered
    if plan is not None:
        written = write(bench.model, bench.prompts, plan, bench.n_tokens)
    kls, ce = damage(bench, plan, written)
    scores = tuple(bench.scorer(text) for text in written.texts)
    return Point(
        strength=0.0 if plan is None else plan.strength,
        relative_dose=written.relative_dose,
        texts=written.texts,
        scores=scores,
        effects=tuple(new - old for new, old in zip(scores, bench.scores, strict=True)),
        kls=kls,
        perplexity=perplexity(ce) if ce.numel() else math.nan,
        distinct_2=distinct_n(written.texts, 2),
        seconds_per_token=written.seconds_per_token,
    )


@torch.no_grad()
def damage(bench: Bench, plan: Plan | None, written: Written) -> tuple[tuple[float, ...], Tensor]:
    """KL of each text in nats per token, and the unsteered cross entropy of every new token.

    Of a row that a plan ended early only what it wrote counts; the KL of nothing is 0.
    """
    kls: list[float] = []
    losses: list[Tensor] = []
    for steered, plain, new in _chunks(bench, written):
        clean = bench.model.forward(_joined(plain, new), last=new.shape[1] + 1)
        there = _written(bench.model, new)
        losses.append(_new_token_ce(clean, new)[there.flatten().cpu()])
        if plan is None:
            kls += [0.0] * len(new)
            continue
        everywhere = torch.ones(steered.shape[:2], dtype=torch.bool, device=steered.device)
        found = token_kl(steered, clean[:, :-1], everywhere).view(len(new), -1)
        sums = torch.where(there.to(found.device), found, 0.0).sum(-1)
        kls += (sums.cpu() / there.sum(-1).clamp(min=1).cpu()).clamp(min=0).tolist()
    return tuple(kls), torch.cat(losses)


def dose_of(bench: Bench, plan: Plan, n_prompts: int) -> float:
    """Relative dose of `plan` on the unsteered texts of the first prompts, in a forward pass each
    batch, up to the first batch in which it acts.

    At one site an edit can't change the norms it is measured against, so this is linear in the
    plan's strength; a plan that edits several sites, or through gates, only nearly so. A plan that
    controls decoding sets its dose while it writes, so it writes on the same prompts instead.
    """
    if plan.controls:
        return write(bench.model, bench.prompts[:n_prompts], plan, bench.n_tokens).relative_dose
    dose, left = 0.0, n_prompts
    for prompt, new in bench.unsteered.batches:
        if not dose and left > 0:
            dose = _dose_on(bench.model, plan, _rows(prompt, slice(left)), new[:left])
            left -= len(new)
    return dose


def _dose_on(model: Model, plan: Plan, prompt: TokenBatch, new: Tensor) -> float:
    lengths = [int(n) for n in prompt.lengths]
    with torch.no_grad(), plan.on(model, prompt_lengths=lengths) as trace:
        model.forward(_joined(prompt, new), base_only=True)
    return trace.dose()


def _generate(
    model: Model, prompts: Sequence[Prompt], n_tokens: int, logits: list[Tensor] | None
) -> tuple[tuple[TokenBatch, Tensor], ...]:
    found = model.generate_ids(
        list(prompts), max_new_tokens=n_tokens, min_new_tokens=n_tokens, batch_size=BATCH_SIZE,
        logits=logits,
    )  # fmt: skip
    return tuple(found)


def _chunks(bench: Bench, written: Written) -> Iterator[tuple[Tensor, TokenBatch, Tensor]]:
    """A few rows at a time: steered logits (empty without), the task's prompt, the new ids."""
    start = 0
    for index, (_, new) in enumerate(written.batches):
        plain = bench.model.tokenize(list(bench.prompts[start : start + len(new)]))
        logits = written.logits[index] if written.logits else new.new_empty(len(new), 0, 0)
        start += len(new)
        for first in range(0, len(new), SCORE_ROWS):
            rows = slice(first, first + SCORE_ROWS)
            yield logits[rows], _rows(plain, rows), new[rows]


def _rows(batch: TokenBatch, rows: slice) -> TokenBatch:
    return TokenBatch(batch.input_ids[rows], batch.attention_mask[rows])


def _joined(prompt: TokenBatch, new: Tensor) -> TokenBatch:
    """Left-padded prompts followed by their new tokens."""
    ids = torch.cat([prompt.input_ids, new.to(prompt.input_ids.device)], dim=1)
    valid = torch.ones(new.shape, dtype=torch.bool, device=prompt.attention_mask.device)
    return TokenBatch(ids, torch.cat([prompt.attention_mask, valid], dim=1))


def _written(model: Model, new: Tensor) -> Tensor:
    """Which new ids a row wrote, `[rows, n_tokens]`: all before its end and the padding behind it.

    A model that must write so many tokens never ends by itself: only a plan does.
    """
    eos = getattr(getattr(model.hf, "generation_config", None), "eos_token_id", None)
    eos = eos if isinstance(eos, list) else [eos]
    ends = torch.tensor([model.pad_id, *(i for i in eos if i is not None)], device=new.device)
    return torch.isin(new, ends, invert=True).flip(-1).cumsum(-1).flip(-1) > 0


def _new_token_ce(clean: Tensor, new: Tensor) -> Tensor:
    """Cross entropy of the new tokens from logits that start one position before them."""
    padded = torch.cat([new.new_zeros(len(new), 1), new], dim=1).to(clean.device)
    return token_ce(clean, padded, torch.ones_like(padded, dtype=torch.bool)).cpu()
