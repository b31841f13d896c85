"""A fact as its model is asked for it: after several prefixes, with the subject's place in each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.data.contrast import Example
from saesteer.features.activations import prefix_ids, read_activations
from saesteer.methods.projections import Projection
from saesteer.methods.scoring import Texts, teacher_forced
from saesteer.models import Model
from saesteer.models.sites import Site

PREFIX_WORDS = 4


class Asked(NamedTuple):
    """The fact after its prefixes, and which token of each row is the subject's last."""

    texts: Texts
    at: Float[Tensor, "rows pos"]


def asked_after(model: Model, fact: Example, prefixes: Sequence[str], subject: str | None) -> Asked:
    """The fact after each prefix.

    Args:
        subject: a part of the prompt; None for all of it, without the line break that may part it
            from the text. Without a prompt it is the prefix, or the text's first token.
    """
    examples = [replace(fact, prompt=(p + (fact.prompt or "")) or None) for p in prefixes]
    texts = teacher_forced(model, examples)
    at = torch.zeros(texts.asked.shape)
    for row, example in enumerate(examples):
        until = example.prompt or ""
        if subject and until:
            until = until[: until.rindex(subject) + len(subject)]
        at[row, max(len(prefix_ids(model, until)), 1) - 1] = 1.0
    return Asked(texts, at)


def at_subject(asked: Asked, delta: Float[Tensor, " out"]) -> Callable[[Tensor, Tensor], Tensor]:
    """For `Projection.adding`: δ at the subject's last token of each row."""

    def fn(_x: Tensor, y: Tensor) -> Tensor:
        return y + (asked.at.to(y.device)[..., None] * delta).to(y.dtype)

    return fn


def read_keys(
    model: Model, writes: Projection, asked: Asked
) -> tuple[Float[Tensor, " in"], Float[Tensor, " out"]]:
    """What a projection reads and writes at the subject's last token, means over the rows."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(x: Tensor, y: Tensor) -> Tensor:
        chosen = asked.at.to(x.device) > 0
        seen.append((x[chosen].float().mean(0), y[chosen].float().mean(0)))
        return y

    with writes.adding(keep):
        model.forward(asked.texts.tokens, base_only=True)
    return seen[-1]


def next_token(model: Model, asked: Asked) -> Float[Tensor, " vocab"]:
    """Log probabilities of what follows the subject in the first row."""
    logits = model.forward(asked.texts.tokens)[0]
    return logits[int(asked.at[0].argmax())].float().log_softmax(-1)


def beginnings(examples: Sequence[Example], n: int) -> list[str]:
    """The first words of n texts, each as a sentence to stand before a fact."""
    words = [example.text.split()[:PREFIX_WORDS] for example in examples[:n]]
    return [" ".join(each) + ". " for each in words]


def second_moment(
    model: Model, examples: Sequence[Example], site: Site, shrinkage: float
) -> Float[Tensor, "width width"]:
    """Second moment of a site's activations over texts, in fp64 on the CPU.

    Args:
        shrinkage: share of it that its mean diagonal takes, since texts may be few.
    """
    rows = torch.cat(read_activations(model, examples, site)).double()
    second = rows.T @ rows / len(rows)
    floor = second.diagonal().mean() * torch.eye(len(second), dtype=second.dtype)
    return torch.lerp(second, floor, shrinkage)
