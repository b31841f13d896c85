"""What the laws are tried with: a few plans, a gate that remembers, and ways to run a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from saesteer import steer
from saesteer.models import Model, Site, layout_of, record
from saesteer.steer import ColumnHistory, Frame, Plan

CACHE = next(
    n for n in ("cache", "past_key_values") if n in signature(LlamaForCausalLM.forward).parameters
)
"""What this version of transformers calls the KV cache."""
ARCHES = ("llama", "gpt2", "neox", "gemma3", "qwen3", "mixtral")
FAST_ARCHES = ("llama", "gpt2", "gemma3")
"""Of the default run: rotary, absolute and sliding positions; the full run has all of them."""
PROMPTS = ("a short one", "something a good deal longer than that", "x")


@dataclass(frozen=True, eq=False)
class LatchGate:
    """Open from the first token on whose reading along `direction` exceeds `threshold`."""

    sites: tuple[Site, ...]
    direction: Tensor
    threshold: float

    def new_state(self) -> ColumnHistory:
        """Which columns fired."""
        return ColumnHistory(fill=False)

    def open(self, readings: Mapping[Site, Tensor], frame: Frame, state: ColumnHistory) -> Tensor:
        """The running OR over columns."""
        score = readings[self.sites[0]].float() @ self.direction
        fired = (score > self.threshold) & frame.valid
        state.write(frame, fired[..., None])
        so_far = state.so_far(frame)[..., 0].int().cummax(1).values.bool()
        frame.note("score", score)
        return so_far[:, frame.start :]

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        """The score."""
        return f"score {float(evidence['score'][row, index]):.2f}"


@dataclass(frozen=True, eq=False)
class TokenLatch:
    """Open from the first occurrence of a token on; reads no site."""

    token: int
    sites: tuple[Site, ...] = ()

    def new_state(self) -> ColumnHistory:
        """Which columns held the token."""
        return ColumnHistory(fill=False)

    def open(self, readings: Mapping[Site, Tensor], frame: Frame, state: ColumnHistory) -> Tensor:
        """The running OR over columns."""
        assert frame.input_ids is not None
        state.write(frame, ((frame.input_ids == self.token) & frame.valid)[..., None])
        return state.so_far(frame)[..., 0].int().cummax(1).values.bool()[:, frame.start :]


class Run(NamedTuple):
    """New tokens `[rows, new]` and the logits that chose them `[rows, new, vocab]`."""

    tokens: Tensor
    logits: Tensor


def arches(names: Sequence[str] = ARCHES, fast: Sequence[str] = FAST_ARCHES) -> list[Any]:
    """Architectures as parameters, those that are not of the default run marked so."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.full) for name in names]


def direction(model: Model, seed: int, site: str = "resid_post.2") -> Tensor:
    """A fixed random unit vector."""
    width = model.layout.width(Site.parse(site))
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def latch_plan(model: Model, strength: float = 1.0) -> Plan:
    """Adds a vector at resid_post.2 once one token in ten has fired at resid_post.1."""
    site, along = Site(1, "resid_post"), direction(model, 5)
    batch = model.tokenize(list(PROMPTS))
    scores = record(model, batch, [site])[site][batch.attention_mask] @ along
    gate = LatchGate((site,), along, float(scores.quantile(0.9)))
    return Plan(
        steer.add("resid_post.2", 12 * direction(model, 1)),
        where=steer.all(),
        gate=gate,
        strength=strength,
    )


def token_plan(model: Model, token: int) -> Plan:
    """Adds a vector at resid_post.2 once a token has occurred."""
    edit = steer.add("resid_post.2", 12 * direction(model, 1))
    return Plan(edit, where=steer.all(special=True), gate=TokenLatch(token))


def clamp_plan(model: Model, sae: Any) -> Plan:
    """Edits of features and dense ones at one site, and a dense one at another."""
    return Plan(
        steer.clamp(sae, [3, 7], 6.0),
        steer.scale(sae, 11, 3.0),
        steer.add("resid_post.2", 2 * direction(model, 1)),
        steer.add_scaled("resid_post.2", 0.3 * direction(model, 4)),
        steer.project_out("resid_pre.1", direction(model, 2)),
    )


def generate(model: Model, prompts: Sequence[str], new: int = 10, **options: Any) -> Run:
    """Greedy tokens and logits of left-padded prompts, without ending early."""
    batch = model.tokenize(list(prompts))
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, **options}
    out = model.hf.generate(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        max_new_tokens=new,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )
    return Run(out.sequences[:, batch.input_ids.shape[1] :], torch.stack(out.logits, 1))


def same(a: Run, b: Run, tolerance: float = 1e-5) -> None:
    """Equal tokens, and logits equal within `tolerance` of the largest one."""
    assert torch.equal(a.tokens, b.tokens)
    assert (a.logits - b.logits).abs().max() <= tolerance * a.logits.abs().max()


def fresh(model: Model) -> Model:
    """A copy that a test may change."""
    hf = deepcopy(model.hf)
    copied = Model(hf, model.tokenizer, model.name, layout_of(hf))
    hf.__dict__["_saesteer_model"] = copied
    return copied


def hooks(model: Model) -> list[tuple[str, list[int]]]:
    """Every hook of every module, by identity, in order."""
    found = []
    for name, module in model.hf.named_modules():
        for kind in ("_forward_hooks", "_forward_pre_hooks"):
            found.append((name + kind, [id(fn) for fn in getattr(module, kind).values()]))
    return found


def state(model: Model) -> tuple[Any, ...]:
    """What a plan or a fit might leave behind on a model."""
    flags = [
        (m.training, [p.requires_grad for p in m.parameters(False)]) for m in model.hf.modules()
    ]
    return hooks(model), sorted(model.hf.__dict__), list(model.prompt_edits), flags
