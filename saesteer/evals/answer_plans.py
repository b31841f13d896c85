"""What makes a model say an answer: one learned direction a word, at one site, on the last token.

The direction is learned on generated problems so that the word comes next whatever the problem
says, and at the very dose at which it is applied: one learned at any length and cut afterwards
says its word at some doses and another one at others. A rule's conclusion triggers it.

Measured with SmolLM2-135M at resid_post.9: the unit sum of the 16 decoder rows with the largest
gradient of the word's log-probability makes it say "True" from 0.25 ‖h‖ on, and "False" and
"Unknown" at no dose. Of 24 problems of another source, a vector learned at free length and cut to
a dose that 8 of 8 validation problems obeyed makes 92 % say "False" and gives it 0.23 where it gets
least; a direction learned at 0.75 ‖h‖ makes all of them, and gives it 0.97.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from saesteer.axes import Vector
from saesteer.evals.prefill import Prefill
from saesteer.models import Model, Site, installed
from saesteer.steer import Plan, add_scaled, last

DOSES = (0.75, 1.5)
"""Doses tried, in units of ‖h‖, upwards; each has its own direction."""
SURE = 0.9
"""Probability of the word on every validation problem from which on no higher dose is tried."""
STEPS, RATE = 25, 0.1
"""Adam's steps, and its rate as a share of the direction's length."""


@final
@dataclass(frozen=True, eq=False)
class AnswerPlan:
    """The plan for one word; on other problems than it was learned on, how well it was obeyed.

    Attributes:
        obeyed: share of the problems on which the word came out likeliest.
        least: the word's probability where it was lowest.
    """

    word: str
    plan: Plan
    dose: float
    obeyed: float
    least: float


def word_id(model: Model, word: str) -> int:
    """The first token of a word after a space."""
    return int(model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0])


def learn_answers(
    train: Prefill, validation: Prefill, words: Sequence[str], site: Site
) -> Mapping[str, AnswerPlan]:
    """A plan for each word, learned on one batch of prompts and dosed on another."""
    return {word: _learn(train, validation, word, site) for word in words}


def _learn(train: Prefill, validation: Prefill, word: str, site: Site) -> AnswerPlan:
    """The first dose that is sure on every problem, or the surest where each is least so."""
    target = word_id(train.model, word)
    found: list[AnswerPlan] = []
    for dose in DOSES:
        vector = dose * learn_direction(train, target, site, dose)
        plan = Plan(add_scaled(site, vector), where=last(), name=f"say {word}")
        logits = validation.answer(plan)
        obeyed = (logits.argmax(-1) == target).float().mean()
        least = logits.softmax(-1)[:, target].min()
        found.append(AnswerPlan(word, plan, dose, float(obeyed), float(least)))
        if least >= SURE:
            break
    return max(found, key=lambda one: one.least)


def learn_direction(
    prompts: Prefill, target: int, site: Site, dose: float, steps: int = STEPS
) -> Vector:
    """The unit direction of which `dose` · ‖h‖, added at the last token, makes `target` likely."""
    model = prompts.model
    width, generator = model.layout.width(site), torch.Generator().manual_seed(0)
    start = torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    vector = start.to(model.device).requires_grad_()
    optimizer = torch.optim.Adam([vector], lr=RATE / width**0.5)
    point = model.layout.point(site)

    def push(resid: Tensor) -> Tensor:
        norm = resid.float().norm(dim=-1, keepdim=True)
        unit = torch.nn.functional.normalize(vector, dim=0)
        return resid + (dose * norm * unit).to(resid.dtype)

    for _ in range(steps):
        with installed([(point, push)]):
            logits = prompts.step(copy.deepcopy(prompts.cache))
        loss = -torch.log_softmax(logits.float(), -1)[:, target].mean()
        (vector.grad,) = torch.autograd.grad(loss, [vector])
        optimizer.step()
    return torch.nn.functional.normalize(vector.detach(), dim=0).cpu()
