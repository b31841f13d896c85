"""The generate loop while plans control decoding; `transformers` prepares it and hands it over.

Prompts, logits processors, stopping criteria and the cache are those that `generate` makes, given
to `custom_generate`. Rows go on together, as in `transformers`; where a control takes tokens back,
rows are decoded one after the other, since a cache can be cut at one column only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.steer.control import Control
from saesteer.steer.decoding import check_call, choose, cut_back, fresh_cache, result, trimmed
from saesteer.steer.frame import ASIDE, Prompt, cache_in
from saesteer.steer.gate import Gate
from saesteer.steer.schedule import DialRow, Dials

if TYPE_CHECKING:
    from collections.abc import Iterator


@runtime_checkable
class Controller(Protocol):
    """An attached plan, as the loop sees it."""

    def opened(self, gate: Gate) -> Tensor:
        """Where a control's gate was open in the latest pass, `[batch, pos]`."""
        ...

    def notes(self, gate: Gate) -> Mapping[str, Any]:
        """What it noted there."""
        ...

    def tell(self, control: Control, row: int, at: int, what: str) -> None:
        """Write down what a control did after the latest pass: `row` of it, the caller's `at`."""
        ...

    def dialled(self, rows: Sequence[DialRow]) -> None:
        """Write down what dials stood at in a call that is over, one entry per row."""
        ...


@final
class Loop:
    """One call of `generate`; what `custom_generate` is given.

    Args:
        controllers: attached plans and their controls, in order.
        prompt: the call's, which carries the dials.
        encode: text to token ids.
        first_row: which of the caller's rows the first one here is.
    """

    def __init__(
        self,
        controllers: Sequence[tuple[Controller, Control]],
        prompt: Prompt,
        encode: Any,
        first_row: int = 0,
        streamer: Any = None,
    ) -> None:
        self.prompt, self.encode, self.first_row = prompt, encode, first_row
        self.dials = prompt.memo[Dials] = Dials()
        self.steps = [LoopStep(self, by, control) for by, control in controllers]
        self.banned: dict[int, set[int]] = {}
        self.cut = 0
        self._streamer = streamer
        self._asides: dict[tuple[tuple[str, float], ...], Any] = {}
        self._looks: dict[tuple[tuple[str, float], ...], Tensor] = {}
        self._started = False
        self._kept: tuple[list[Tensor], list[Tensor]] = ([], [])

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        synced_gpus: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """Decode; the arguments are those of `GenerationMixin._sample`.

        Raises:
            PlanError: a way of decoding that can't be controlled.
        """
        check_call(input_ids, generation_config, model_kwargs, synced_gpus)
        self.hf, self.config, self.kwargs = model, generation_config, model_kwargs
        self.ids, self.n_prompt = input_ids, input_ids.shape[1]
        self.live = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        self.forced: list[list[int]] = [[] for _ in input_ids]
        self.ending = [False] * len(input_ids)
        while bool(self.live.any()):
            self._turn(logits_processor, stopping_criteria)
        self._report_dials()
        if self._streamer is not None:
            self._streamer.end()
        return result(self.ids, *self._kept, self.config, cache_in(self.kwargs))

    def next_logits(self, dials: Mapping[str, float]) -> Tensor:
        """Logits `[rows, vocab]` of the text so far with dials at these values, on the side."""
        key = tuple(sorted(dials.items()))
        if key in self._looks:  # its cache holds the newest token already
            return self._looks[key]
        own = cache_in(self.kwargs)
        cache = None if own is None else self._asides.get(key) or fresh_cache(self.hf)
        with self._aside(dials):
            outputs = self._read({**self.kwargs, "past_key_values": cache})
        self._asides[key] = cache_in(outputs) if own is not None else None
        logits = self._looks[key] = outputs.logits[:, -1].float()
        return logits

    def _turn(self, processors: Any, criteria: Any) -> None:
        """Read the newest tokens and choose the next ones."""
        self._looks.clear()
        for step in self.steps:
            step.control.before(step)
        outputs = self._first() if not self._started else self._read(self.kwargs)
        self._started = True
        for step in self.steps:
            step.control.after(step)
            if self.cut:  # what the others would be asked about is gone
                outputs = self._go_back()
                break
        update = self.hf._update_model_kwargs_for_generation
        self.kwargs = update(outputs, self.kwargs, is_encoder_decoder=False)
        raw = outputs.logits[:, -1].to(copy=True, dtype=torch.float32, device=self.ids.device)
        scores = processors(self.ids, raw)
        if taken := self.banned.get(self.ids.shape[1]):
            scores = scores.index_fill(1, torch.tensor(list(taken), device=raw.device), -torch.inf)
        self._kept[0].append(scores)
        self._kept[1].append(raw)
        tokens = self._overruled(choose(scores, self.config))
        self.ids = torch.cat([self.ids, tokens[:, None]], -1)
        if self._streamer is not None:
            self._streamer.put(tokens.cpu())
        done = torch.tensor([e and not q for e, q in zip(self.ending, self.forced, strict=True)])
        self.live &= ~done.to(self.live.device) & ~criteria(self.ids, tuple(self._kept[0]))

    def _report_dials(self) -> None:
        """Tell each plan's trace, so that the text can be read again as it was written."""
        mask = self.ids.new_ones(self.ids.shape, dtype=torch.bool)
        if self.prompt.mask is not None:
            mask[:, : self.n_prompt] = self.prompt.per_row(self.prompt.mask, len(mask))
        rows = self.dials.rows(mask)
        for by in dict.fromkeys(step.by for step in self.steps):
            by.dialled(rows)

    def _first(self) -> Any:
        return self.hf._prefill(self.ids, self.config, self.kwargs)

    def _read(self, kwargs: dict[str, Any]) -> Any:
        """One pass over whatever the cache does not hold yet."""
        cache = cache_in(kwargs)
        n_unread = None if cache is None else self.ids.shape[1] - int(cache.get_seq_length())
        inputs = self.hf.prepare_inputs_for_generation(
            self.ids, next_sequence_length=n_unread, **kwargs
        )
        return self.hf(**inputs, return_dict=True)

    def _go_back(self) -> Any:
        """Cut the text, and read its newest token again without asking anybody about it."""
        n, self.cut = self.cut, 0
        self.ids = self.ids[:, :-n]
        self.kwargs = cut_back(self.hf, trimmed(self.kwargs, n), n + 1)
        for kept in self._kept:
            del kept[-n:]
        self._asides.clear()
        return self._read(self.kwargs)

    def _overruled(self, tokens: Tensor) -> Tensor:
        """Chosen tokens, or forced ones where there are any; padding in rows that have ended."""
        for row, queue in enumerate(self.forced):
            if queue:
                tokens[row] = queue.pop(0)
        return torch.where(self.live, tokens, self.pad_id)

    @contextmanager
    def _aside(self, dials: Mapping[str, float]) -> Iterator[None]:
        self.dials.fixed = dials
        self.prompt.memo[ASIDE] = True
        try:
            yield
        finally:
            self.dials.fixed = None
            del self.prompt.memo[ASIDE]

    @property
    def end_id(self) -> int:
        """What closes a row."""
        eos = self.config._eos_token_tensor
        return self.pad_id if eos is None else int(eos.flatten()[0])

    @property
    def pad_id(self) -> int:
        """What follows the end."""
        pad = self.config._pad_token_tensor
        return 0 if pad is None else int(pad)


@final
class LoopStep:
    """The loop as one control sees it (`Step`)."""

    def __init__(self, loop: Loop, by: Controller, control: Control) -> None:
        self._loop, self.by, self.control = loop, by, control
        self.state: Any = control.new_state()

    @property
    def n_new(self) -> int:
        """Tokens generated so far."""
        return self._loop.ids.shape[1] - self._loop.n_prompt

    @property
    def n_columns(self) -> int:
        """Columns of the text so far, padding included."""
        return self._loop.ids.shape[1]

    def rows(self) -> list[int]:
        """Rows that go on, are not being forced, and whose gate is open at the newest token."""
        loop = self._loop
        opened = self.by.opened(self.control.gate)[:, -1].to(loop.live.device) & loop.live
        return [row for row in opened.nonzero().flatten().tolist() if not loop.forced[row]]

    def evidence(self, kind: str) -> Tensor:
        """What the gate noted about the newest tokens, `[rows, ...]`."""
        return self.by.notes(self.control.gate)[kind][:, -1]

    def aside(self, dials: Mapping[str, float]) -> Tensor:
        """Logits `[rows, vocab]` with dials at these values from the prompt's end on."""
        return self._loop.next_logits(dials)

    def dial(self, key: str, values: Tensor, column: int) -> None:
        """Set a dial to `values [rows]` from a column on."""
        self._loop.dials.turn(key, values, column)

    def stop(self, row: int) -> None:
        """End a row."""
        self._loop.forced[row], self._loop.ending[row] = [self._loop.end_id], True

    def force(self, row: int, text: str, *, stop: bool) -> None:
        """Make a row say `text`, then end or go on."""
        self._loop.forced[row], self._loop.ending[row] = self._loop.encode(text), stop

    def rewind(self, n: int, *, ban: bool) -> None:
        """Take n generated tokens back.

        Raises:
            PlanError: more than there are, or a control that does not say that it rewinds.
        """
        loop = self._loop
        if not self.control.rewinds or not 0 < n <= self.n_new:
            raise PlanError(
                f"{self.control.label}: {n} of {self.n_new} generated tokens can't be taken back; "
                "the control must set `rewinds`, and n lie within them."
            )
        column = loop.ids.shape[1] - n
        if ban:
            loop.banned.setdefault(column, set()).add(int(loop.ids[0, column]))
        for later in [at for at in loop.banned if at > column]:
            del loop.banned[later]
        loop.cut = n

    def log(self, row: int, what: str) -> None:
        """Tell the trace."""
        self.by.tell(self.control, row, self._loop.first_row + row, what)
