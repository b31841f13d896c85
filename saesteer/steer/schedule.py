"""How strongly an edit acts over time: a factor of Δh, from positions or from activations.

A dial is set while a text is generated, by a control of the same plan.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from saesteer.axes import Resid, TokenFloat, TokenMask
from saesteer.errors import PlanError
from saesteer.models.sites import Site
from saesteer.steer.frame import Frame

DialRow = Mapping[str, Tensor]
"""What one row's dials stood at, `[tokens]` counted from its first real token; NaN at the start."""


@dataclass(frozen=True)
class Schedule(ABC):
    """A factor per position, from positions alone."""

    @abstractmethod
    def factor(self, frame: Frame) -> TokenFloat:
        """What Δh is multiplied by, `[batch, pos]`, beside the strength."""


@dataclass(frozen=True, eq=False)
class ReadingSchedule(ABC):
    """A factor per position, from activations at that position and nowhere else.

    So it needs no memory, and is the same with a cache and without. Readings are taken before the
    plan's own edits at their site; an edit that a pass reaches before them is refused.
    """

    @property
    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """What it reads."""

    @abstractmethod
    def factor(self, readings: Mapping[Site, Resid], memo: dict[Any, Any]) -> TokenFloat:
        """What Δh is multiplied by, `[batch, pos]`, beside the strength.

        Args:
            readings: `[batch, pos, width]` for each of `sites`, in the model's dtype.
            memo: of this pass, for what several edits' schedules have in common.
        """


@final
@dataclass(frozen=True)
class Constant(Schedule):
    """The same all along; an edit without a schedule has this one."""

    def factor(self, frame: Frame) -> TokenFloat:
        """One."""
        return torch.ones_like(frame.valid, dtype=torch.float32)


@final
@dataclass(frozen=True)
class Decay(Schedule):
    """Halves every `half_life` generated tokens; 1 up to the last prompt token."""

    half_life: float

    def __post_init__(self) -> None:
        """Check the half-life.

        Raises:
            PlanError: it is not positive.
        """
        if not self.half_life > 0:
            raise PlanError(f"decay: half_life is {self.half_life}, expected more than 0 tokens.")

    def factor(self, frame: Frame) -> TokenFloat:
        """0.5 ** (generated tokens so far / half_life)."""
        since = frame.logical - (frame.need_prompt_lengths("decay()") - 1)
        return 0.5 ** (since.clamp(min=0).float() / self.half_life)


@final
@dataclass(frozen=True)
class Linear(Schedule):
    """1 at the last prompt token and before, then straight to `end` over `n_tokens`, and so on."""

    n_tokens: float
    end: float = 0.0

    def __post_init__(self) -> None:
        """Check the length.

        Raises:
            PlanError: it is not positive, or the end is not finite.
        """
        if not self.n_tokens > 0 or not math.isfinite(self.end):
            raise PlanError(
                f"linear: {self.n_tokens} tokens to {self.end}; give more than 0 tokens and a "
                "finite end."
            )

    def factor(self, frame: Frame) -> TokenFloat:
        """1 + (end - 1) * min(generated tokens so far / n_tokens, 1)."""
        since = frame.logical - (frame.need_prompt_lengths("linear()") - 1)
        return 1 + (self.end - 1) * (since / self.n_tokens).clamp(0, 1)


@final
@dataclass(frozen=True)
class Dial(Schedule):
    """What a control sets it to, by row and column; `start` where none has set it.

    Attributes:
        key: what the control calls it; make it different for different plans.
    """

    key: str
    start: float = 1.0

    def factor(self, frame: Frame) -> TokenFloat:
        """The values of this pass's columns."""
        plain = torch.full_like(frame.valid, self.start, dtype=torch.float32)
        dials = None if frame.prompt is None else frame.prompt.memo.get(Dials)
        return plain if dials is None else dials.of(self.key, frame, plain)


@final
@dataclass(eq=False)
class Dials:
    """All dials of one call of `generate`: values `[rows, columns]`, the last one going on.

    Attributes:
        fixed: values from the prompt's end on for a pass on the side; every other dial is at 0.
        told: values `[rows, tokens]` of a text that is read again, counted in real tokens.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    fixed: Mapping[str, float] | None = None
    told: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def replaying(rows: Sequence[DialRow]) -> Dials:
        """Dials that stand where those of a generation stood, token by token."""
        keys = dict.fromkeys(key for row in rows for key in row)
        return Dials(told={key: _side_by_side([row.get(key) for row in rows]) for key in keys})

    def rows(self, mask: TokenMask) -> list[DialRow]:
        """What has been set, row by row, without padding.

        Args:
            mask: validity of the text's columns, `[rows, columns]`.
        """
        whole = {k: _reaching(v, mask.shape[1])[:, : mask.shape[1]] for k, v in self.values.items()}
        return [
            {key: values[row, mask[row].to(values.device)].cpu() for key, values in whole.items()}
            for row in range(len(mask))
        ]

    def turn(self, key: str, values: Tensor, column: int) -> None:
        """Set a dial to `values [rows]` from a column on."""
        known = self.values.get(key)
        if known is None:
            known = torch.full((len(values), 1), float("nan"))  # nobody has set these columns
        known = _reaching(known, column + 1)
        known[:, column:] = values.float().to(known.device)[:, None]
        self.values[key] = known

    def of(self, key: str, frame: Frame, plain: TokenFloat) -> TokenFloat:
        """A pass's values `[batch, pos]`; `plain` where nothing is set."""
        if self.fixed is not None:
            after = frame.logical >= frame.need_prompt_lengths("a dial") - 1
            return torch.where(after, self.fixed.get(key, 0.0), plain)
        if key in self.told:
            assert frame.prompt is not None
            known = frame.prompt.per_row(self.told[key].to(plain.device), len(plain))
            found = known.gather(1, frame.logical.clamp(max=known.shape[1] - 1))
            return torch.where(found.isnan(), plain, found)
        if key not in self.values or len(self.values[key]) != len(plain):
            return plain
        known = self.values[key] = _reaching(self.values[key], frame.n_columns)
        found = known[:, frame.start : frame.n_columns].to(plain.device)
        return torch.where(found.isnan(), plain, found)


def _reaching(values: Tensor, n: int) -> Tensor:
    """At least n columns, doubling; the last value goes on."""
    held = values.shape[1]
    if held >= n:
        return values
    return torch.cat([values, values[:, -1:].expand(-1, max(2 * held, n) - held)], 1)


def _side_by_side(rows: Sequence[Tensor | None]) -> Tensor:
    """`[rows, tokens]`, a shorter row's last value going on; NaN where nobody has set a dial."""
    unset = torch.full((1,), float("nan"))
    known = [unset if row is None or not len(row) else row.float() for row in rows]
    longest = max(len(row) for row in known)
    return torch.cat([_reaching(row[None], longest)[:, :longest] for row in known])


def constant() -> Schedule:
    """The same strength all along."""
    return Constant()


def decay(half_life: int | float) -> Schedule:
    """Full strength at the last prompt token, half of it `half_life` tokens later, and so on.

    Raises:
        PlanError: half_life is not positive.
    """
    return Decay(float(half_life))


def linear(n_tokens: int | float, end: float = 0.0) -> Schedule:
    """Full strength at the last prompt token, `end` of it `n_tokens` later and from there on.

    Raises:
        PlanError: n_tokens is not positive, or the end not finite.
    """
    return Linear(float(n_tokens), float(end))


def dial(key: str, start: float = 1.0) -> Schedule:
    """A strength that a control sets while it decodes, under the same key."""
    return Dial(key, float(start))


def key_of(name: str, vector: Tensor) -> str:
    """A key for the dial of an edit with this vector, which no other vector's has."""
    digest = hashlib.sha256(vector.detach().float().cpu().contiguous().numpy().tobytes())
    return f"{name} {digest.hexdigest()[:8]}"
