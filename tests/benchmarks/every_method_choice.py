"""A claim about one answer: which of two continuations the model finds likelier, and by how much.

Two words of text say little of a binding: the model may still say the right city first though the
other has come close. So what is measured is log p(wanted) - log p(usual) of the first token after
the prompt, in nats, as the papers on bindings do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from every_method_controls import scrambled
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.metrics import token_kl
from saesteer.metrics.intervals import bootstrap_interval, difference_to_sample
from saesteer.models import Model
from saesteer.steer import Plan

BATCH = 12


@dataclass(frozen=True)
class Choice:
    """Questions by split, each a prompt, the wanted and the usual continuation.

    Neighbours (the two questions of one pair of people) count as one row of an interval.
    """

    name: str
    contrast: Contrast
    questions: Mapping[str, Sequence[tuple[str, str, str]]]

    def limited(self, n_validation: int | None = None, n_test: int | None = None) -> Choice:
        """The same with only the first questions of each split, in pairs."""
        kept = {
            split: asked[: n and 2 * n]
            for (split, asked), n in zip(
                self.questions.items(), (n_validation, n_test), strict=True
            )
        }
        return Choice(self.name, self.contrast, kept)


def judged_choice(
    model: Model, choice: Choice, split: str, plan: Plan, seeds: int
) -> dict[str, Any]:
    """What the plan does to the choice, beside what it does with its directions lost."""
    asked = choice.questions[split]
    plain, before = _gaps(model, asked, None)
    steered, after = _gaps(model, asked, plan)
    effects = _paired(steered - plain)
    lost = [scrambled(plan, model, seed) for seed in range(seeds)]
    random = torch.stack(
        [_gaps(model, asked, each)[0] - plain for each in lost if each is not None]
    )
    over = difference_to_sample(effects, [_paired(each) for each in random])
    whole = bootstrap_interval(effects)
    everywhere = torch.ones(len(asked), 1, dtype=torch.bool)
    return {
        **{"strength": plan.strength, "edits": len(plan.edits), "n_prompts": len(effects)},
        **{"effect": whole.mean, "effect_interval": [whole.low, whole.high], "unit": "nats"},
        "kl": float(token_kl(after[:, None], before[:, None], everywhere).mean()),
        "wanted_first": [float((gaps > 0).float().mean()) for gaps in (plain, steered)],
        "scrambled_effect": whole.mean - over.mean,
        "over_scrambled": [over.mean, over.low, over.high],
        "verdict": "works" if over.low > 0 else "wrong way" if over.high < 0 else "unclear",
    }


@torch.no_grad()
def _gaps(
    model: Model, asked: Sequence[tuple[str, str, str]], plan: Plan | None
) -> tuple[Tensor, Tensor]:
    """log p(wanted) - log p(usual) `[questions]`, and the logits `[questions, vocab]`."""
    rows: list[Tensor] = []
    for start in range(0, len(asked), BATCH):
        batch = model.tokenize([prompt for prompt, _, _ in asked[start : start + BATCH]])
        if plan is None:
            rows.append(model.forward(batch, last=1)[:, -1].float().cpu())
            continue
        with plan.on(model, prompt_lengths=[int(n) for n in batch.lengths]):
            rows.append(model.forward(batch, last=1)[:, -1].float().cpu())
    logits = torch.cat(rows)
    firsts = torch.tensor(
        [[model.tokenizer.encode(word)[0] for word in words] for _, *words in asked]
    )
    wanted, usual = logits.gather(1, firsts).T
    return wanted - usual, logits


def _paired(effects: Tensor) -> list[float]:
    return effects.view(-1, 2).mean(1).tolist()
