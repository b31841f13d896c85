"""What a controlled call of `generate` is made of, and which calls can't be controlled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.steer.frame import cache_in

_BY_COLUMN = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")
_MODES = ("greedy_search", "sample")


def check_call(
    ids: Tensor, config: Any, kwargs: Mapping[str, Any], synced_gpus: bool = False
) -> None:
    """Refuse what a controlled loop can't carry out.

    Raises:
        PlanError: another way of decoding than greedy or sampling, or a text of which only the
            end was given.
    """
    mode = str(getattr(config.get_generation_mode(), "value", config.get_generation_mode()))
    if mode not in _MODES:
        raise PlanError(
            f"a plan that controls decoding can't carry out {mode.replace('_', ' ')}; "
            "decode greedily or sample, with num_beams=1 and no assistant."
        )
    if synced_gpus or (config.return_dict_in_generate and _wants_states(config)):
        raise PlanError(
            "a plan that controls decoding can't return attentions or hidden states, or keep "
            "several GPUs in step; leave these options out."
        )
    mask = kwargs.get("attention_mask")
    if kwargs.get("inputs_embeds") is not None or (
        isinstance(mask, Tensor) and mask.shape[-1] != ids.shape[1]
    ):
        raise PlanError("a plan that controls decoding needs the whole text; give all input_ids.")


def refuse_uncontrolled(kwargs: dict[str, Any]) -> dict[str, Any]:
    """`kwargs`, unless they bring a loop or a second model of their own.

    Raises:
        PlanError: they do.
    """
    for name in ("custom_generate", "assistant_model", "inputs_embeds"):
        if kwargs.get(name) is not None:
            raise PlanError(
                f"a plan that controls decoding can't be combined with {name}; leave it out."
            )
    return kwargs


def _wants_states(config: Any) -> bool:
    return bool(config.output_attentions or config.output_hidden_states)


def choose(scores: Tensor, config: Any) -> Tensor:
    """Next tokens `[rows]` of scores `[rows, vocab]`: the likeliest, or a sample."""
    if config.do_sample:
        return torch.multinomial(scores.softmax(-1), 1).squeeze(1)
    return scores.argmax(-1)


def trimmed(kwargs: dict[str, Any], n: int) -> dict[str, Any]:
    """What `generate` knows by column, without the last n columns."""
    shorter = {
        name: value[..., :-n]
        for name in _BY_COLUMN
        if isinstance(value := kwargs.get(name), Tensor)
    }
    return {**kwargs, **shorter}


def cut_back(hf: Any, kwargs: dict[str, Any], n: int) -> dict[str, Any]:
    """The same without the cache's last n columns.

    A cache that has let go of what it would need (sliding windows) is made anew, which costs one
    pass over the text.
    """
    cache = cache_in(kwargs)
    if cache is None:
        return kwargs
    try:
        cache.crop(-n)
    except (RuntimeError, ValueError, AttributeError, NotImplementedError):
        return {**kwargs, "past_key_values": fresh_cache(hf)}
    return kwargs


def fresh_cache(hf: Any) -> Any:
    """An empty cache that grows."""
    from transformers import DynamicCache

    return DynamicCache(config=hf.config.get_text_config(decoder=True))


def result(
    ids: Tensor, scores: Sequence[Tensor], logits: Sequence[Tensor], config: Any, cache: Any
) -> Any:
    """What `generate` returns: token ids, or its output object."""
    if not config.return_dict_in_generate:
        return ids
    return _output(
        sequences=ids,
        scores=tuple(scores) if config.output_scores else None,
        logits=tuple(logits) if config.output_logits else None,
        past_key_values=cache,
    )


def row_of(row: int, ids: Tensor, mask: Tensor, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for one row alone, without its padding."""
    real = mask[row].bool()
    alone = {"input_ids": ids[row, real][None], "attention_mask": mask[row, real][None].long()}
    return {**kwargs, **alone, "num_return_sequences": 1}


def together(parts: Sequence[Any], ids: Tensor, lengths: Sequence[int], pad: int) -> Any:
    """The results of rows that were decoded alone, padded as `generate` would have."""
    news = [_sequences(part)[0, n:] for part, n in zip(parts, lengths, strict=True)]
    longest = max(len(new) for new in news)
    tails = [torch.nn.functional.pad(new, (0, longest - len(new)), value=pad) for new in news]
    whole = torch.cat([ids, torch.stack(tails)], -1)
    if isinstance(parts[0], Tensor):
        return whole
    found = {
        name: _stacked([part[name] for part in parts])
        for name in ("scores", "logits")
        if name in parts[0]
    }
    return _output(sequences=whole, **found)


def _output(**parts: Any) -> Any:
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    return GenerateDecoderOnlyOutput(**parts)


def _sequences(part: Any) -> Tensor:
    return part if isinstance(part, Tensor) else part.sequences


def _stacked(rows: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Step by step `[rows, vocab]`; zeros for rows that had ended."""
    longest = max(len(row) for row in rows)
    blank = torch.zeros_like(rows[0][0])
    return tuple(
        torch.cat([row[step] if step < len(row) else blank for row in rows])
        for step in range(longest)
    )
