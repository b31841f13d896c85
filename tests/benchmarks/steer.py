"""What steering adds to a decoding step: plans, other libraries' hooks and nothing, interleaved.

Every contender has a copy of the model of its own that shares the weights, with its hooks in place
from the start, and takes a few steps in a row in every round, in an order drawn anew; the cache is
cropped back behind each. Decoding is one step after another, so the first of a turn, which finds
the processor's caches as another contender left them, is not timed; `--in-a-row 1` times that one
alone. A step is one call of the model with the arguments that `generate` gives it, inside the
extent of a `generate`, so prompts and ends of text are known as they would be there. `a/a` is a
second model with nothing on it: what it shows is noise. Copies are made anew for each part of a
run, as where a copy's memory lies counts too, and overheads are over two unsteered ones.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any

import rivals
import torch
from memory import memory_rows
from timing import Progress
from torch import Tensor

import saesteer as ss
from saesteer.errors import ConfigError
from saesteer.models import Model, load_model
from saesteer.models.layout import layout_of
from saesteer.rules import RuleBook
from saesteer.saes import SAE, load_sae
from saesteer.steer.calls import read_prompt
from saesteer.steer.session import session_of

MODEL, SAE_NAME, N_PARTS = "smollm2-135m-instruct", "smollm2-135m-instruct/resid_post.9", 5
LAYERS = tuple(range(7, 23))
N_CLAMPED, N_RULES, N_CONCEPTS, TOP_K = 64, 20, 12, 32
PROMPT = "The ferry left the harbour a little after seven, with the lamps still lit along the quay."

Step = Callable[[], float]
BASELINE = ("unsteered", "unsteered too")
CLOCKS = {"wall": time.perf_counter, "cpu": time.thread_time}


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Overheads of each contender, at every batch size and dtype that was asked for.

    Raises:
        ConfigError: no step to take.
    """
    if min(args.steps, args.in_a_row) < 1:
        raise ConfigError(f"{args.steps} steps, {args.in_a_row} in a row: give 1 or more of each.")
    rows: list[dict[str, Any]] = []
    settings = [(d, b) for d in args.dtypes for b in args.batches]
    left_out: dict[str, str] = {}
    for index, (dtype, batch) in enumerate(settings):

        def told(done: int, total: int, note: str, index: int = index) -> None:
            progress(index * total + done, len(settings) * total, note)

        setting = {"batch": batch, "dtype": dtype}
        make = contenders(dtype, batch, args, left_out)
        rows += measured(make, args.steps, args.in_a_row, setting, told)
    return {
        "rows": rows,
        "left_out": left_out,
        "memory": memory(args),
        "setting": {
            "overhead": "fraction of an unsteered step: median of all, least and greatest of parts",
            "memory": "share of the model's own, at its peak while decoding and while attached",
            "steps": args.steps,
            "in_a_row": args.in_a_row,
            "clock": args.clock,
            "parts": N_PARTS,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def measured(
    make: Callable[[ExitStack], dict[str, Step]],
    n_steps: int,
    in_a_row: int,
    setting: Mapping[str, Any],
    progress: Progress,
) -> list[dict[str, Any]]:
    """One row per contender, from rounds in which each takes some steps; the first warms up.

    A step is set against the median unsteered one of its round, as a shared machine changes its
    pace within seconds. Copies are made anew for each part: where the memory of one happens to lie
    makes it faster or slower than its equal by half a per cent, for as long as it lives.
    """
    parts: list[dict[str, list[float]]] = []
    milliseconds: dict[str, list[float]] = {}
    rounds, draw = -(-n_steps // (in_a_row * N_PARTS)) + 1, random.Random(0)
    for part in range(N_PARTS):
        with ExitStack() as stack:
            steps = make(stack)
            over: dict[str, list[float]] = {name: [] for name in steps if name not in BASELINE}
            milliseconds = milliseconds or {name: [] for name in over}
            for turn in range(rounds):
                seconds: dict[str, list[float]] = {}
                for name in draw.sample(list(steps), len(steps)):
                    if in_a_row > 1:
                        steps[name]()
                    seconds[name] = [steps[name]() for _ in range(in_a_row)]
                plain = statistics.median(chain(*(seconds.pop(name) for name in BASELINE)))
                for name in seconds.keys() & over.keys() if turn > 0 else ():
                    over[name] += [one / plain - 1 for one in seconds[name]]
                    milliseconds[name] += [1e3 * one for one in seconds[name]]
                note = "{batch} rows, {dtype}".format_map(setting)
                progress(part * rounds + turn + 1, N_PARTS * rounds, note)
        parts.append(over)
    return [
        {
            "name": name,
            **setting,
            "overhead": summary([over[name] for over in parts]),
            "milliseconds": statistics.median(times),
        }
        for name, times in milliseconds.items()
    ]


def summary(parts: Sequence[Sequence[float]]) -> dict[str, float]:
    """The median of all steps, and the least and greatest of the parts' own."""
    medians = [statistics.median(part) for part in parts]
    whole = statistics.median(chain(*parts))
    return {"median": whole, "min": min(medians), "max": max(medians)}


def contenders(
    dtype: str, batch: int, args: argparse.Namespace, left_out: dict[str, str]
) -> Callable[[ExitStack], dict[str, Step]]:
    """What makes a timed step for each contender, around one set of weights.

    A rival that can't be had is left out with its reason.
    """
    model = load_model(args.model, device="cpu", dtype=dtype)
    sae, clock = load_sae(SAE_NAME), CLOCKS[args.clock]
    if args.against == "none":
        left_out.update(dict.fromkeys(rival_hooks(sae), "--against none"))

    def make(stack: ExitStack) -> dict[str, Step]:
        found = {name: stepper(twin(model), batch, clock, stack) for name in (*BASELINE, "a/a")}
        for name, plan in plans(sae).items():
            found[name] = stepper(twin(model), batch, clock, stack, plan())
        for name, put in rival_hooks(sae).items():
            if name in left_out:
                continue
            other = twin(model)
            try:
                put(other.hf)
            except OSError as error:
                left_out[name] = str(error)
                continue
            found[name] = stepper(other, batch, clock, stack)
        return found

    return make


def plans(sae: SAE) -> dict[str, Callable[[], ss.Plan]]:
    """What makes our contenders; vectors are small against ‖h‖ of some 130: texts stay texts."""
    vectors = directions()
    full = replace(sae, activation="topk", k=TOP_K)
    return {
        "add-1": lambda: ss.Plan(ss.add(f"resid_post.{LAYERS[0]}", vectors[LAYERS[0]])),
        "add-16": lambda: ss.Plan(*(ss.add(f"resid_post.{i}", v) for i, v in vectors.items())),
        "clamp-64-rules-20": lambda: rule_book().plan(sae),
        "full-encode": lambda: ss.Plan(ss.clamp(full, 7, 2.0)),
    }


def memory(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What each of our plans adds to the model's memory, one row in fp32."""
    model, sae = load_model(args.model, device="cpu", dtype="float32"), load_sae(SAE_NAME)
    return memory_rows(model, PROMPT, plans(sae))


def directions() -> dict[int, Tensor]:
    """One vector a layer."""
    generator = torch.Generator().manual_seed(0)
    return {i: 0.1 * torch.randn(576, generator=generator) for i in LAYERS}


def rule_book() -> RuleBook:
    """20 rules over 12 features, chained five deep with negation; the last one clamps 64 features.

    It ends in an act that is open in most texts, so that the clamp is not only gated but done.
    """
    concepts = {f"c{i}": {"feature": 100 + i, "threshold": 0.5} for i in range(N_CONCEPTS)}
    rules = [f"d{i} :- c{i % N_CONCEPTS}, not c{(i + 5) % N_CONCEPTS}." for i in range(15)]
    rules += [f"e{i} :- {'not d0' if i == 0 else f'e{i - 1}'}, not d{i + 1}." for i in range(4)]
    rules.append("act :- e3.")
    assert len(rules) == N_RULES
    act = {"clamp": list(range(1000, 1000 + N_CLAMPED)), "value": 0.5}
    text = "\n".join(rules)
    return RuleBook.from_dict({"concepts": concepts, "rules": text, "acts": {"act": act}})


def rival_hooks(sae: SAE) -> dict[str, Callable[[Any], object]]:
    """What puts each rival's own hooks on a model, for good."""
    vectors, one = directions(), {LAYERS[0]: directions()[LAYERS[0]]}
    return {
        "repeng": lambda hf: put_repeng(hf, vectors),
        "repeng-1": lambda hf: put_repeng(hf, one),
        "steering-vectors": lambda hf: put_steering_vectors(hf, vectors),
        "steering-vectors-1": lambda hf: put_steering_vectors(hf, one),
        "encode-decode": lambda hf: put_encode_decode(hf, sae),
    }


def put_repeng(hf: Any, vectors: Mapping[int, Tensor]) -> None:
    """repeng's ControlModel, which wraps layers of the model it is given."""
    control = rivals.repeng_control().ControlModel(hf, list(vectors))
    control.set_raw_control({i: v.to(hf.dtype) for i, v in vectors.items()})


def put_steering_vectors(hf: Any, vectors: Mapping[int, Tensor]) -> None:
    """steering-vectors' patch of every position."""
    vector = rivals.steering_vectors().SteeringVector(dict(vectors)).to(hf.dtype)
    vector.patch_activations(hf)


def put_encode_decode(hf: Any, sae: SAE) -> None:
    """The usual hook around an SAE: encode all latents, clamp one, decode, keep the error."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        resid = output[0] if isinstance(output, tuple) else output
        latents = sae.encode(resid)
        error = resid - sae.decode(latents)
        latents[..., 7] = 2.0
        new = (sae.decode(latents) + error).to(resid.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    hf.model.layers[sae.site.layer].register_forward_hook(hook)


def twin(model: Model) -> Model:
    """A model of its own modules and hooks around the same weights."""
    tensors = [*model.hf.parameters(), *model.hf.buffers()]
    hf = deepcopy(model.hf, {id(tensor): tensor for tensor in tensors})
    hf.__dict__.pop("_saesteer_model", None)
    copy = Model(hf, model.tokenizer, model.name, layout_of(hf))
    hf.__dict__["_saesteer_model"] = copy
    return copy


def stepper(
    model: Model,
    batch: int,
    clock: Callable[[], float],
    stack: ExitStack,
    plan: ss.Plan | None = None,
) -> Step:
    """One decoding step behind a prompt, as a function that returns its seconds.

    Rows end in prompts of different lengths, as in a real batch, so that there is padding.
    """
    words = PROMPT.split()
    texts = [" ".join(words[: len(words) - row % 4]) for row in range(batch)]
    prompt = model.tokenize(texts)
    mask = prompt.attention_mask.long()
    given = {"input_ids": prompt.input_ids, "attention_mask": mask}
    if plan is not None:
        trace = plan.attach(model.hf)
        stack.callback(plan.detach, model.hf)
        stack.enter_context(session_of(model).call(read_prompt(model.hf, (), given)))
        stack.callback(trace.clear)
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    whole = None if bool(mask.all()) else mask
    with torch.no_grad():
        out = model.hf(
            input_ids=prompt.input_ids, attention_mask=whole, position_ids=position, use_cache=True
        )
    step: dict[str, Any] = {
        "input_ids": out.logits[:, -1:].argmax(-1),
        "attention_mask": None if whole is None else torch.cat([mask, mask[:, -1:]], 1),
        "position_ids": position[:, -1:] + 1,
        "past_key_values": out.past_key_values,
        "use_cache": True,
    }

    @torch.no_grad()
    def run_once() -> float:
        began = clock()
        model.hf(**step)
        elapsed = clock() - began
        step["past_key_values"].crop(-1)
        return elapsed

    return run_once
