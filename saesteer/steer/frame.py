"""One frame per forward pass: which positions these are, in coordinates that don't move.

Everything is absolute. `logical` counts a row's real tokens from 0 across passes, so padding,
caches, chunks and rollbacks don't shift it; `start` is the physical column at which the pass
begins. Positions that come with a pass are not trusted alone: padding has position 0 like the first
token, and "the first call" or "more than one token" does not mean prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from saesteer.axes import TokenIds, TokenMask
from saesteer.errors import PlanError
from saesteer.steer.ids import Ids
from saesteer.steer.positions import Places, positions

ASIDE = "aside"
"""Key in a prompt's memo: this pass is one that a control looks at on the side."""
_PACKED = frozenset({"cu_seq_lens_q", "cu_seq_lens_k", "block_table", "cu_seqlens"})


@final
@dataclass(eq=False)
class Prompt:
    """What the prompts of the current call are; rows as the caller gave them, before beams.

    Attributes:
        lengths: real tokens per prompt, `[rows]`.
        input_ids: the whole prompts `[rows, columns]`, or None if only their length is known.
        mask: their validity, `[rows, columns]`.
        stop_ids: tokens at generated positions that mean "this row has finished".
        memo: what has been worked out once per call (text spans).
        ids: tokens to look out for, once `know` was asked.
    """

    lengths: Tensor
    input_ids: Tensor | None = None
    mask: Tensor | None = None
    stop_ids: tuple[int, ...] = ()
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    ids: Ids | None = field(default=None, init=False, repr=False)

    def know(self, special: Ids | None) -> Ids:
        """`ids`: special tokens, if there are any, and those that end a row."""
        self.ids = Ids(*(() if special is None else special.sets), self.stop_ids)
        return self.ids

    def ended_before(self, column: int) -> bool:
        """Whether no prompt reaches this physical column; False where only lengths are known."""
        return self.mask is not None and column >= self.mask.shape[1]

    def lengths_of(self, batch: int, device: torch.device) -> Tensor:
        """`lengths` of the rows of a pass, `[batch]`, on its device; errors as for `per_row`."""
        key = ("lengths", batch, device)
        if key not in self.memo:
            self.memo[key] = self.per_row(self.lengths, batch).to(device)
        return self.memo[key]

    def pads_of(self, batch: int, device: torch.device) -> Tensor:
        """Columns of the prompts that are padding, `[batch]`, where the prompts are known.

        Errors as for `per_row`.
        """
        key = ("pads", batch, device)
        if key not in self.memo:
            assert self.mask is not None
            self.memo[key] = self.mask.shape[1] - self.lengths_of(batch, device)
        return self.memo[key]

    def per_row(self, values: Tensor, batch: int) -> Tensor:
        """`values [rows, ...]` repeated to the rows of a pass (beams, num_return_sequences).

        Raises:
            PlanError: the pass has a number of rows that is no multiple of the prompts'.
        """
        rows = values.shape[0]
        if rows == batch:
            return values
        if rows == 1:
            return values.expand(batch, *values.shape[1:])
        if batch % rows:
            raise PlanError(
                f"prompt_lengths are for {rows} rows but the pass has {batch}; "
                "give one length per row, or a single one for all."
            )
        return values.repeat_interleave(batch // rows, dim=0)


@final
@dataclass(eq=False, slots=True)
class Frame:
    """The positions of one forward pass, shared by all sites of that pass.

    Attributes:
        places: which positions are real, and where they stand in their rows.
        start: physical column of the pass's first position.
        input_ids: `[batch, pos]`, or None when the pass was given embeddings.
        special: True at BOS, EOS and other special tokens, `[batch, pos]`; None where none is.
        finished: True in rows whose generation has ended, `[batch, pos]`; None where none has.
        prompt_lengths: real tokens in each row's prompt, `[batch]`, or None if nobody said.
        prompt: the prompts themselves, before rows were expanded.
        answered: every position of the pass is known to lie behind its row's prompt.
        decode: token ids to text, or None without a tokenizer.
        memo: what was worked out for this pass already; dies with it.
        evidence: where `note` writes.
    """

    places: Places
    start: int = 0
    input_ids: TokenIds | None = None
    special: TokenMask | None = None
    finished: TokenMask | None = None
    prompt_lengths: Tensor | None = None
    prompt: Prompt | None = None
    answered: bool = False
    decode: Callable[[Sequence[int]], str] | None = None
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    evidence: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def valid(self) -> TokenMask:
        """True at real tokens, False at padding, `[batch, pos]`."""
        return self.places.valid

    @property
    def whole(self) -> bool:
        """Whether it is known that no position is padding, without asking a device."""
        return self.places.whole

    @property
    def logical(self) -> TokenIds:
        """Index among the row's real tokens from the start of the text, `[batch, pos]`.

        Meaningless where not valid.
        """
        return self.places.logical

    @property
    def first_pass(self) -> bool:
        """Whether the pass starts a text, at column 0; with a cache, later passes don't."""
        return self.start == 0

    @property
    def n_columns(self) -> int:
        """Columns of the text up to the end of this pass, padding included."""
        return self.start + self.valid.shape[1]

    @property
    def live(self) -> TokenMask:
        """Real tokens of rows that are still going, `[batch, pos]`."""
        return self.valid if self.finished is None else self.valid > self.finished

    @property
    def plain_answer(self) -> bool:
        """Whether all are known to be real tokens of answers, none special or behind an end."""
        unmarked = self.special is None and self.finished is None
        return unmarked and self.answered and self.places.whole

    @property
    def aside(self) -> bool:
        """Whether the pass only looks at the text steered otherwise, and leaves no trace."""
        return self.prompt is not None and ASIDE in self.prompt.memo

    def need_prompt_lengths(self, who: str) -> Tensor:
        """Prompt lengths as `[batch, 1]`.

        Raises:
            PlanError: the pass is not inside `generate` and nobody gave them.
        """
        if self.prompt_lengths is None:
            raise PlanError(
                f"{who} needs to know where the prompt ends, and this pass is not inside "
                "generate; pass plan.on(model, prompt_lengths=[...]), in tokens per row."
            )
        return self.prompt_lengths[:, None]

    def note(self, kind: str, payload: Any) -> None:
        """Leave evidence for the trace, such as scores `[batch, pos, n]`; kept as it is."""
        graph = isinstance(payload, Tensor) and payload.requires_grad
        self.evidence[kind] = payload.detach() if graph else payload

    def next_step(self, kwargs: Mapping[str, Any], special_ids: Ids | None) -> Frame | None:
        """The frame of the next pass of the same call, from what this one knows of it.

        None where it is not one more token in each row, behind the prompts as this pass was.
        """
        ids, prompt, latest = kwargs.get("input_ids"), self.prompt, self.places
        if ids is None or prompt is None or not self.answered:
            return None
        start = _past_length(cache_in(kwargs))
        if start < self.start or not latest.goes_on(ids):
            return None
        places = latest.next(kwargs, start, prompt.pads_of)
        special = stopped = None
        if prompt.ids is None or not prompt.ids.misses(ids):
            special, stopped = _marks(ids, special_ids, prompt)
        rows, decode = self.prompt_lengths, self.decode
        return Frame(places, start, ids, special, stopped, rows, prompt, True, decode, {}, {})

    @staticmethod
    def of(
        input_ids: Tensor,
        mask: Tensor | None = None,
        *,
        start: int = 0,
        prompt_lengths: Tensor | Sequence[int] | None = None,
        special_ids: Sequence[int] = (),
    ) -> Frame:
        """A frame made by hand, for tests and for reading gates outside a model.

        Args:
            mask: validity of all columns so far, `[batch, start + pos]`.
        """
        kwargs = {"input_ids": input_ids, "attention_mask": mask}
        prompt = None if prompt_lengths is None else Prompt(torch.as_tensor(prompt_lengths))
        return read_frame((), kwargs, prompt=prompt, start=start, special=Ids(special_ids))


def read_frame(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    prompt: Prompt | None = None,
    start: int | None = None,
    special: Ids | None = None,
    decode: Callable[[Sequence[int]], str] | None = None,
) -> Frame:
    """The frame of a pass, from the arguments of the base model's forward.

    Raises:
        PlanError: packed rows, or a mask or prompt lengths that don't fit the pass.
    """
    ids = args[0] if args else kwargs.get("input_ids")
    tokens = ids if ids is not None else kwargs.get("inputs_embeds")
    if tokens is None:
        raise PlanError("a forward pass without input_ids and inputs_embeds can't be steered.")
    if any(kwargs[name] is not None for name in _PACKED.intersection(kwargs)):
        raise PlanError("packed rows (continuous batching, padding-free) can't be steered.")
    if tokens.ndim != (2 if tokens is ids else 3):
        raise PlanError(
            f"a pass over {list(tokens.shape)} can't be steered; expected ids [batch, pos] or "
            "embeddings [batch, pos, d_model]."
        )
    begin = _past_length(cache_in(kwargs)) if start is None else start
    batch, n = tokens.shape[:2]
    answered = prompt is not None and prompt.ended_before(begin)
    pads = prompt.pads_of(batch, tokens.device) if answered and prompt is not None else None
    places = positions(kwargs, batch, n, begin, tokens.device, pads)
    lengths = None if prompt is None else prompt.lengths_of(batch, places.valid.device)
    marked, stopped = _marks(ids, special, prompt)
    if stopped is not None and not answered:
        assert lengths is not None
        stopped = stopped & (places.logical >= lengths[:, None])
    return Frame(
        places,
        start=begin,
        input_ids=ids,
        special=marked,
        finished=stopped,
        prompt_lengths=lengths,
        prompt=prompt,
        answered=answered,
        decode=decode,
    )


def _marks(
    ids: Tensor | None, special: Ids | None, prompt: Prompt | None
) -> tuple[Tensor | None, Tensor | None]:
    """Which tokens are special, and which mean that a row has finished; None where none is."""
    if ids is None:
        return None, None
    if prompt is None or not prompt.stop_ids:
        return (None if special is None else special.among(ids)[0]), None
    *marked, stopped = (prompt.ids or prompt.know(special)).among(ids)
    return (marked[0] if marked else None), stopped


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The KV cache among a pass's arguments or outputs, None without one.

    transformers calls it `cache` from 5.24 on, and called it `past_key_values` before.
    """
    cache = arguments.get("cache")
    return arguments.get("past_key_values") if cache is None else cache


def _past_length(cache: Any) -> int:
    """Columns already in the cache; read now, since a static cache's counter moves on its own."""
    return 0 if cache is None else int(cache.get_seq_length())
