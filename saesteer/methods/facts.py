"""A fact as its model is asked for it: after several prefixes, with the subject's place in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.data.contrast import Example
from saesteer.methods.scoring import Texts, teacher_forced
from saesteer.models import Model


class Asked(NamedTuple):
    """The fact after its prefixes, and which token of each row is the subject's last."""

    texts: Texts
    at: Float[Tensor, "rows pos"]


def asked_after(model: Model, fact: Example, prefixes: Sequence[str], subject: str | None) -> Asked:
    """The fact after each prefix; without a prompt its first token is the subject."""
    examples = [replace(fact, prompt=(p + (fact.prompt or "")) or None) for p in prefixes]
    texts = teacher_forced(model, examples)
    at = torch.zeros(texts.asked.shape)
    for row, example in enumerate(examples):
        last = texts.prompt_lengths[row] - 1
        if subject and example.prompt:
            until = example.prompt[: example.prompt.rindex(subject) + len(subject)]
            last = teacher_forced(model, [replace(example, prompt=until)]).prompt_lengths[0] - 1
        at[row, last] = 1.0
    return Asked(texts, at)
