"""Methods that own the loop, with the KV cache against the prefix recomputed at each step.

Both runs are the same plan through the same `generate`, with and without `use_cache`, greedy, in
the model's dtype; `same_output` says whether they chose the same tokens (asked of float32 only).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from timing import Progress, spread

from saesteer import methods
from saesteer.data.contrast import Contrast
from saesteer.models import Model, load_model
from saesteer.steer import Plan

PROMPT = "The ferry left the harbour a little after seven, with the lamps still lit"


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Seconds, ratio and equality of outputs for each method."""
    model = load_model(args.model, dtype=args.dtype)
    contrast = Contrast.read("sentiment")
    kinds = {
        "dynamic-activation-composition": methods.DynamicActivationComposition(),
        "fasb": methods.FASB(),
    }
    rows, turns = [], len(kinds) * args.rounds
    for number, (name, method) in enumerate(kinds.items()):
        plan, seconds, texts = method.fit(model, contrast), {True: [], False: []}, set()
        for turn in range(args.rounds):
            for cached in (True, False):
                elapsed, tokens, events = decode(model, plan, args.tokens, cached)
                seconds[cached].append(elapsed)
                texts.add(tokens)
            done = number * args.rounds + turn + 1
            progress(done, turns, f"{name} {seconds[True][-1]:.1f} s, {seconds[False][-1]:.1f} s")
        pairs = zip(seconds[False], seconds[True], strict=True)
        rows.append(
            {
                "name": name,
                "ratio": spread([slow / fast for slow, fast in pairs]),
                "seconds": {"cached": spread(seconds[True]), "recomputed": spread(seconds[False])},
                "same_output": len(texts) == 1,
                "events": events,
            }
        )
    return {"rows": rows, "tokens": args.tokens, "dtype": args.dtype}


def decode(model: Model, plan: Plan, n: int, cached: bool) -> tuple[float, tuple[int, ...], int]:
    """Seconds, new tokens and acts of control of one call."""
    batch = model.tokenize(PROMPT)
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "use_cache": cached}
    with plan.on(model) as trace, torch.no_grad():
        began = time.perf_counter()
        out = model.hf.generate(batch.input_ids, max_new_tokens=n, **options)
        elapsed = time.perf_counter() - began
    return elapsed, tuple(out[0, batch.input_ids.shape[1] :].tolist()), len(trace.events)
