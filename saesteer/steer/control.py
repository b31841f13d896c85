"""Acts on decoding itself: stop, refuse, take tokens back, or turn other edits up and down.

A control is asked twice for each token: `before` the pass that reads the text so far, where it may
look at the same text steered otherwise (`Step.aside`) and set dials, and `after` it, where its
gate's answer at the newest token is known and it may stop a row, force tokens on it or rewind it.
Controls decide row by row; a row with forced tokens ahead of it is left alone until they are out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, final, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.steer.gate import Always, Gate
from saesteer.steer.where import is_count


@runtime_checkable
class Step(Protocol):
    """One token of one call of `generate`, as a control sees it."""

    state: Any
    """What the control's `new_state` returned for this call."""

    @property
    def n_new(self) -> int:
        """Tokens generated so far."""
        ...

    @property
    def n_columns(self) -> int:
        """Columns of the text so far, padding included."""
        ...

    def rows(self) -> list[int]:
        """Rows that go on and whose gate is open at the newest token; `after` only."""
        ...

    def evidence(self, kind: str) -> Tensor:
        """What the gate noted under `kind` about the newest tokens, `[rows, ...]`; `after` only."""
        ...

    def aside(self, dials: Mapping[str, float]) -> Float[Tensor, "rows vocab"]:
        """Logits for the next token with dials at these values from the prompt's end on.

        Every other dial is at 0, also those of other plans. Each setting has a cache of its own, so
        that a step costs one pass of one token, whoever asks for it and how often.
        """
        ...

    def dial(self, key: str, values: Tensor, column: int) -> None:
        """Set a dial to `values [rows]` from a physical column on, until it is set again."""
        ...

    def stop(self, row: int) -> None:
        """End a row; nothing more is chosen in it."""
        ...

    def force(self, row: int, text: str, *, stop: bool) -> None:
        """Make a row say `text` next, and then end or go on."""
        ...

    def rewind(self, n: int, *, ban: bool) -> None:
        """Take n generated tokens back; only in a control that says that it `rewinds`.

        Args:
            ban: never choose the first of them at that place again.
        """
        ...

    def log(self, row: int, what: str) -> None:
        """Tell the trace."""
        ...


@dataclass(frozen=True, eq=False)
class Control(ABC):
    """One act on decoding. Subclasses are frozen values and override what they need.

    Attributes:
        rewinds: whether it takes tokens back; then rows are decoded one after the other.
    """

    rewinds: ClassVar[bool] = False

    gate: Gate = field(default_factory=Always, kw_only=True)

    @property
    @abstractmethod
    def label(self) -> str:
        """What it does, in a few words."""

    def new_state(self) -> Any:
        """What it remembers during one call; with `rewinds`, of one row."""
        return None

    def before(self, step: Step) -> None:
        """The newest token has not been read yet."""
        del step

    def after(self, step: Step) -> None:
        """The newest token has been read, and the next one not been chosen."""
        del step


@final
@dataclass(frozen=True, eq=False)
class Stop(Control):
    """End a row at the first token at which the gate is open, the prompt's last one included."""

    @property
    def label(self) -> str:
        """`stop`."""
        return "stop"

    def after(self, step: Step) -> None:
        """End the rows whose gate is open."""
        for row in step.rows():
            step.log(row, "stopped")
            step.stop(row)


@dataclass(frozen=True, eq=False)
class OncePerRow(Control):
    """A control that acts in each row where its gate first opens, and never again in it."""

    @final
    def new_state(self) -> set[int]:
        """Rows in which it has acted."""
        return set()

    @final
    def after(self, step: Step) -> None:
        """Act on the rows whose gate is open for the first time."""
        for row in step.rows():
            if row not in step.state:
                step.state.add(row)
                self.act(step, row)

    @abstractmethod
    def act(self, step: Step, row: int) -> None:
        """What it does to a row, once."""


@final
@dataclass(frozen=True, eq=False)
class Refuse(OncePerRow):
    """Say `text` where the gate first opens, once a row, then end or go on from there.

    What stands before it stays: a gate that opens at the prompt's end refuses from the start.

    Raises:
        PlanError: nothing to say.
    """

    text: str = "I'm sorry, but I can't help with that."
    then: Literal["stop", "continue"] = "stop"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not isinstance(self.text, str) or not self.text:
            raise PlanError("Refuse: give the text to say.")
        if self.then not in ("stop", "continue"):
            raise PlanError(f"Refuse: then is {self.then!r}, expected 'stop' or 'continue'.")

    @property
    def label(self) -> str:
        """`refuse with "..."`."""
        return f'refuse with "{self.text}"'

    def act(self, step: Step, row: int) -> None:
        """Force the text on the row."""
        step.log(row, f"refused, then {self.then}")
        step.force(row, self.text, stop=self.then == "stop")


@final
@dataclass(frozen=True, eq=False)
class Backtrack(Control):
    """Where the gate opens at a generated token, take up to `n` back and choose otherwise.

    The first token taken back is banned at its place, so that greedy decoding differs too.

    Attributes:
        limit: times that a row may be taken back.

    Raises:
        PlanError: n or limit below 1.
    """

    rewinds: ClassVar[bool] = True

    n: int = 1
    limit: int = 3

    def __post_init__(self) -> None:
        """Check the settings."""
        if not (is_count(self.n, 1) and is_count(self.limit, 1)):
            raise PlanError(f"Backtrack: n {self.n} and limit {self.limit} must be 1 or more.")

    @property
    def label(self) -> str:
        """`take back 3 tokens`."""
        return f"take back {self.n} token{'s'[: self.n != 1]}"

    def new_state(self) -> list[int]:
        """How many tokens were taken back, time by time."""
        return []

    def after(self, step: Step) -> None:
        """Take tokens back unless the limit is reached."""
        for row in step.rows():
            if step.n_new and len(step.state) < self.limit:
                cut = min(self.n, step.n_new)
                step.state.append(cut)
                step.log(row, f"took back {cut}")
                step.rewind(cut, ban=True)


def rewinding(controls: Sequence[Control]) -> bool:
    """Whether any of them takes tokens back."""
    return any(control.rewinds for control in controls)
