"""What makes a model say an answer: one learned vector a word, at one site, on the last token.

The vector is learned on generated problems so that the word comes next whatever the problem says;
its dose, in units of ‖h‖, is one step above the least at which it does on others: at the least
itself 2 of 20 test answers parted from their verdict. A rule's conclusion triggers it.

Measured with SmolLM2-135M at resid_post.9: the unit sum of the 16 decoder rows with the largest
gradient of the word's log-probability makes it say "True" from 0.25 ‖h‖ on, and "False" and
"Unknown" at no dose; a vector learned in 25 steps makes all three, from 0.5, 1 and 1 ‖h‖ on.
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
from saesteer.models import Model, Site, install, remove
from saesteer.steer import Plan, add_scaled, last

DOSES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Doses tried, in units of ‖h‖, upwards."""
STEPS, RATE = 25, 0.08
"""Adam's steps, and its rate in units of the last token's median norm."""


@final
@dataclass(frozen=True, eq=False)
class AnswerPlan:
    """The plan for one word, and how often it was obeyed where its dose was chosen."""

    word: str
    plan: Plan
    dose: float
    obeyed: float


def word_id(model: Model, word: str) -> int:
    """The first token of a word after a space."""
    return int(model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0])


def learn_answers(
    train: Prefill, validation: Prefill, words: Sequence[str], site: Site
) -> Mapping[str, AnswerPlan]:
    """A plan for each word, learned on one batch of prompts and dosed on another."""
    return {word: _learn(train, validation, word, site) for word in words}


def _learn(train: Prefill, validation: Prefill, word: str, site: Site) -> AnswerPlan:
    target = word_id(train.model, word)
    vector = learn_vector(train, target, site)
    best = AnswerPlan(word, Plan(name=word), 0.0, -1.0)
    for dose in DOSES:
        plan = Plan(add_scaled(site, dose * vector), where=last(), name=f"say {word}")
        said = validation.answer(plan).argmax(-1) == target
        found = AnswerPlan(word, plan, dose, float(said.float().mean()))
        if found.obeyed < 1.0 and best.obeyed == 1.0:
            break
        sure, best = best.obeyed == 1.0, max(best, found, key=_obedience)
        if sure:
            break
    return best


def learn_vector(prompts: Prefill, target: int, site: Site, steps: int = STEPS) -> Vector:
    """The unit direction along which, added at the last token, `target` becomes likeliest."""
    model, norm = prompts.model, _median_norm(prompts, site)
    vector = torch.zeros(model.layout.width(site), device=model.device, requires_grad=True)
    optimizer = torch.optim.Adam([vector], lr=RATE)
    point = model.layout.point(site)
    for _ in range(steps):
        handle = install(point, lambda resid: resid + (norm * vector).to(resid.dtype))
        try:
            logits = prompts.step(copy.deepcopy(prompts.cache))
        finally:
            remove([handle])
        loss = -torch.log_softmax(logits.float(), -1)[:, target].mean()
        (vector.grad,) = torch.autograd.grad(loss, [vector])
        optimizer.step()
    return torch.nn.functional.normalize(vector.detach(), dim=0).cpu()


def _obedience(plan: AnswerPlan) -> tuple[float, float]:
    """More obeyed first; among equals the higher dose, which leaves room on other prompts."""
    return plan.obeyed, plan.dose


@torch.no_grad()
def _median_norm(prompts: Prefill, site: Site) -> Tensor:
    seen: list[Tensor] = []
    point = prompts.model.layout.point(site)
    handle = install(point, lambda resid: seen.append(resid.float().norm(dim=-1)))
    try:
        prompts.step(copy.deepcopy(prompts.cache))
    finally:
        remove([handle])
    return seen[0].median()
