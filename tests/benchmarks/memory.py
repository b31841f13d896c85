"""Memory that plans add to a model while it decodes, counted allocation by allocation.

A process's resident size moves by more than a plan does, so every allocation and release of PyTorch
on the CPU is taken down from before the plan is made until a text is written, and their running
sum is read: its highest point, and what is left of it while the plan is still attached. The plan's
own vectors and compiled state, the trace and the passing tensors of an edit are all in it; an SAE
that was loaded before is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

import saesteer as ss
from saesteer.models import Model

N_TOKENS = 16


class Held(NamedTuple):
    """Bytes at the highest point, and at the end with the plan attached and its trace cleared."""

    peak: int
    at_end: int


def memory_rows(
    model: Model, prompt: str, plans: Mapping[str, Callable[[], ss.Plan]]
) -> list[dict[str, Any]]:
    """What each plan adds, as shares of the model's parameters and buffers."""
    tensors = [*model.hf.parameters(), *model.hf.buffers()]
    whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    decoded(model, prompt, ss.Plan)  # what is made once, such as the profiler's own state
    plain = decoded(model, prompt, ss.Plan)
    rows = []
    for name, make in plans.items():
        found = decoded(model, prompt, make)
        rows.append(
            {
                "name": name,
                "peak": (found.peak - plain.peak) / whole,
                "held": (found.at_end - plain.at_end) / whole,
            }
        )
    return rows


def decoded(model: Model, prompt: str, make: Callable[[], ss.Plan]) -> Held:
    """Bytes while a plan is made and attached and writes `N_TOKENS` tokens."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        plan = make()
        trace = plan.attach(model.hf)
        model.generate(prompt, max_new_tokens=N_TOKENS, eos_token_id=None)
        trace.clear()
    plan.detach(model.hf)
    results: Any = seen.profiler
    changes = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    sums = torch.tensor([event.nbytes() for event in changes]).cumsum(0)
    return Held(int(sums.max()), int(sums[-1]))
