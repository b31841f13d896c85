"""A steered model for EleutherAI's lm-evaluation-harness, so that its tasks run under a plan.

The harness scores a continuation behind a context. Here the context is the prompt and the
continuation what is generated, so `generated()` steers from the context's last token on, as it
would if the model wrote the continuation. Texts that are scored whole (`loglikelihood_rolling`)
have the harness's prefix token for a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from saesteer.errors import ConfigError, PlanError
from saesteer.models import Model, as_model
from saesteer.models.model import TokenBatch, pad_rows
from saesteer.steer import Plan

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""What the harness asks: the texts if it caches them, and the tokens of context and continuation.
"""


def lm_eval_model(model: Model | Any, plan: Plan, **options: Any) -> Any:
    """An `HFLM` of the harness under a plan; give it to `lm_eval.simple_evaluate(model=...)`.

    The plan is attached for each request and no longer, so the model stays as it is in between.
    Controls of decoding act in generation tasks only; a scored text leaves them nothing to decide.

    Args:
        options: what `HFLM` takes, such as batch_size or max_length.

    Raises:
        ConfigError: lm_eval is not installed.
        PlanError: the plan edits prompts, which the harness makes itself.
        SiteError, DimensionError: the model can't carry the plan out.
    """
    model = as_model(model)
    if plan.prompt_edits:
        raise PlanError(
            f"{plan.name} edits prompts, and lm_eval makes its own; use its system_instruction."
        )
    with plan.on(model):
        pass  # whatever the model can't carry is said now, not after an hour of requests
    settings = {"backend": "causal", "device": str(model.device), "batch_size": 8, **options}
    made = _steered_class()(pretrained=model.hf, tokenizer=model.tokenizer, **settings)
    made.steered, made.plan = model, plan
    return made


@cache
def _steered_class() -> Any:
    """The subclass of a library that need not be there."""
    try:
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "lm_eval is not installed; pip install lm-eval to run its tasks under a plan."
        ) from error

    class SteeredLM(HFLM):
        """`HFLM` whose passes a plan steers, knowing where each context ends."""

        steered: Model
        plan: Plan

        def _loglikelihood_tokens(
            self, requests: Sequence[Request], **_progress: Any
        ) -> list[tuple[float, bool]]:
            scored: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
            for indices in _batches(requests, self.batch_size):
                rows = [requests[i] for i in indices]
                found = score(self.steered, self.plan, rows, self.max_length)
                for index, (texts, _, _), answer in zip(indices, rows, found, strict=True):
                    scored[index] = answer
                    if texts is not None:
                        self.cache_hook.add_partial("loglikelihood", texts, answer)
            return scored

        def _model_generate(self, *args: Any, **kwargs: Any) -> Tensor:
            with self.plan.on(self.steered):
                return super()._model_generate(*args, **kwargs)

    return SteeredLM


@torch.no_grad()
def score(
    model: Model, plan: Plan, requests: Sequence[Request], max_length: int
) -> list[tuple[float, bool]]:
    """Log likelihood in nats of each continuation, and whether greedy decoding would say it.

    Args:
        max_length: tokens that the model reads; a longer context loses its front.

    Raises:
        PlanError: a request without context or continuation.
    """
    if any(not context or not said for _, context, said in requests):
        raise PlanError("lm_eval gave a request without context or continuation; give both.")
    ids = [(context + said)[-(max_length + 1) :][:-1] for _, context, said in requests]
    news = [said[-len(row) :] for row, (_, _, said) in zip(ids, requests, strict=True)]
    lengths = [len(row) - len(new) + 1 for row, new in zip(ids, news, strict=True)]
    longest = max(len(new) for new in news)
    with plan.on(model, prompt_lengths=lengths):
        logits = model.forward(_padded(ids, model.pad_id), last=longest).float()
    return [_score(rows[-len(new) :], new) for rows, new in zip(logits, news, strict=True)]


def _padded(ids: Sequence[Sequence[int]], pad_id: int) -> TokenBatch:
    """Padded on the left, so that every row ends with what it is asked about."""
    return pad_rows(ids, pad_id, "left")


def _score(logits: Tensor, new: Sequence[int]) -> tuple[float, bool]:
    """Of one row: logits `[n, vocab]` and the n tokens that they should choose."""
    chosen = torch.tensor(new, device=logits.device)
    found = logits.log_softmax(-1).gather(-1, chosen[:, None])
    return float(found.sum()), bool((logits.argmax(-1) == chosen).all())


def _batches(requests: Sequence[Request], size: Any) -> Iterator[list[int]]:
    """Requests of like length together, the longest first; a size that is no number means 8."""
    step = int(size) if str(size).isdigit() else 8
    order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
    for start in range(0, len(order), step):
        yield order[start : start + step]
