"""Passes outside `generate`: what the caller has to say about texts that are only read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.models import Model
from saesteer.steer.frame import Prompt
from saesteer.steer.schedule import DialRow, Dials

Lengths = int | Sequence[int] | Tensor
"""Real tokens of each row's prompt; one number for all rows, or one each."""


def scored_prompt(lengths: Lengths | None, dials: Sequence[DialRow] | None = None) -> Prompt | None:
    """The prompts of a scored text, with its dials as they stood when it was written.

    Raises:
        PlanError: lengths that are none, or dials of other rows or without lengths.
    """
    if lengths is None:
        if dials is not None:
            raise PlanError("dials are those of generated rows; give their prompt_lengths too.")
        return None
    try:
        found = torch.atleast_1d(torch.as_tensor(lengths))
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(0)
    if found.ndim != 1 or not len(found) or found.is_floating_point() or int(found.min()) < 1:
        raise PlanError(f"prompt_lengths {lengths!r}: give tokens per row, 1 or more each.")
    prompt = Prompt(found.long())
    if dials is not None:
        if len(found) not in (1, len(dials)) or not dials:
            raise PlanError(
                f"dials are of {len(dials)} rows but prompt_lengths of {len(found)}; "
                "give trace.dials of the very rows that are read."
            )
        prompt.memo[Dials] = Dials.replaying(dials)
    return prompt


def together(prompts: Sequence[Prompt]) -> Prompt | None:
    """What plans that are attached to one text say of it, the latest last: the dials of all.

    Raises:
        PlanError: they differ in prompt lengths, or in where a dial stood.
    """
    if len(prompts) < 2:
        return prompts[0] if prompts else None
    given: list[list[int]] = [prompt.lengths.tolist() for prompt in prompts]
    rows = max(map(len, given))
    first, *others = (lengths * rows if len(lengths) == 1 else lengths for lengths in given)
    if any(lengths != first for lengths in others):
        raise PlanError(
            f"prompt_lengths {given[-1]} differ from {given[0]} of another plan on the same text; "
            "give both the same."
        )
    told: dict[str, Tensor] = {}
    for prompt in prompts:
        for key, values in prompt.memo.get(Dials, Dials()).told.items():
            known = told.setdefault(key, values)
            if known.shape != values.shape or not known.allclose(values, equal_nan=True):
                raise PlanError(
                    f"dial {key!r} stood elsewhere for another plan on the same text; give both "
                    "the trace.dials of one generation."
                )
    return Prompt(torch.tensor(first), memo={Dials: Dials(told=told)})


def refuse_unsteerable(model: Model) -> None:
    """Make sure that hooks run, and that passes hold the text's own positions.

    Compiled code ignores hooks that are added after it was made, in silence; PEFT's prompt and
    prefix tuning put virtual tokens in front, so that the prompt would end that much later.

    Raises:
        PlanError: the model is compiled, or its prompts are learned.
    """
    hf = model.hf
    if getattr(getattr(hf, "active_peft_config", None), "is_prompt_learning", False):
        raise PlanError(
            f"{model.name} is tuned by learned prompts (prompt or prefix tuning), whose virtual "
            "tokens shift all positions; steer it without that adapter, or with one such as LoRA."
        )
    if hasattr(hf, "_orig_mod") or getattr(hf, "_compiled_call_impl", None) is not None:
        raise PlanError(
            f"{model.name} is compiled, and compiled code ignores hooks; "
            "steer the model that was given to torch.compile."
        )
