"""`saesteer steer chat`: talk to a model, its plan on and off, side by side, in a terminal.

Each side keeps its own history, so that the steered talk goes on from steered answers. Both replies
stream; where the output is no terminal each is a line. `+` and `-` on a line change the dose by a
quarter of the plan's own, `/dose X` sets it, `/why` tells what acted at the latest token, `/reset`
starts again, `/quit` (or the end of the input) leaves.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, Any, final

from saesteer.cli.steer import load_steered
from saesteer.errors import PlanError, SaesteerError

if TYPE_CHECKING:
    from rich.console import Console

    from saesteer.models import Model
    from saesteer.steer import Plan, Trace

SIDES: tuple[str, ...] = ("off", "on")
STEP = 0.25
_COMMANDS = "+ - /dose X /why /reset /quit"


def chat(args: argparse.Namespace) -> None:
    """Run a talk on this process's own streams."""
    from rich.console import Console

    plan, model = load_steered(args)
    console = Console(file=sys.stdout, highlight=False)
    Talk(model, plan, args.max_new_tokens, plain=args.plain).run(sys.stdin, console)


@final
@dataclass
class Talk:
    """One conversation in two versions.

    Attributes:
        strength: of the plan, now; starts at its own.
        histories: messages by side, "off" and "on".
    """

    model: Model
    plan: Plan
    max_new_tokens: int = 60
    plain: bool = False
    strength: float = field(init=False)
    histories: dict[str, list[dict[str, str]]] = field(init=False)
    trace: Trace | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Begin with nothing said."""
        self.strength = self.plan.strength
        self.reset()

    def run(self, lines: Iterable[str], console: Console) -> None:
        """Answer line by line until `/quit` or the end of the input."""
        console.print(f"{self.plan.name}, strength {self.strength:g}. {_COMMANDS}")
        console.print("[bold]> [/bold]", end="")
        for line in lines:
            text = line.strip()
            if text == "/quit":
                return
            try:
                if text:
                    self._answer(text, console)
            except SaesteerError as error:
                console.print(str(error), markup=False)
            console.print("[bold]> [/bold]", end="")

    def reset(self) -> None:
        """Forget what was said, on both sides."""
        self.histories = {side: [] for side in SIDES}

    def say(self, text: str) -> Iterator[dict[str, str]]:
        """Both replies to a message as they grow, the unsteered one first."""
        replies = dict.fromkeys(SIDES, "")
        for side in SIDES:
            for piece in self._reply(side, text):
                replies[side] += piece
                yield dict(replies)
            message = {"role": "user", "content": text}
            self.histories[side] += [message, {"role": "assistant", "content": replies[side]}]

    def _answer(self, text: str, console: Console) -> None:
        match text.split():
            case ["+" | "-" as sign]:
                change = STEP * (self.plan.strength or 1.0) * (1 if sign == "+" else -1)
                self._dose(self.strength + change, console)
            case ["/dose", number]:
                self._dose(_number(number), console)
            case ["/why"]:
                why = "nothing was said yet." if self.trace is None else self.trace.explain()
                console.print(why, markup=False)
            case ["/reset"]:
                self.reset()
                console.print("forgotten.")
            case [command, *_] if command.startswith("/"):
                raise PlanError(f"{command}: expected one of {_COMMANDS}.")
            case _:
                self._show(text, console)

    def _dose(self, strength: float, console: Console) -> None:
        self.strength = self.plan.with_strength(strength).strength
        console.print(f"strength {self.strength:g}")

    def _show(self, text: str, console: Console) -> None:
        """A table that grows in a terminal; elsewhere a line for each side, written as it grows."""
        if console.is_terminal:
            from rich.live import Live

            with Live(console=console, refresh_per_second=12) as live:
                for replies in self.say(text):
                    live.update(self._table(replies))
            return
        shown = dict.fromkeys(SIDES, "")
        for replies in self.say(text):
            for side, reply in replies.items():
                if new := reply[len(shown[side]) :]:
                    head = "" if shown[side] else f"{self._head(side)}: "
                    console.print(head + new, end="", markup=False, soft_wrap=True)
                    shown[side] = reply
            if replies["on"] and not shown["on"]:
                console.print()
        console.print()

    def _head(self, side: str) -> str:
        return "off" if side == "off" else f"on at {self.strength:g}"

    def _table(self, replies: dict[str, str]) -> Any:
        from rich.markup import escape
        from rich.table import Table

        table = Table(expand=True)
        for side in SIDES:
            table.add_column(self._head(side), ratio=1)
        table.add_row(*(escape(replies[side]) for side in SIDES))
        return table

    def _reply(self, side: str, text: str) -> Iterator[str]:
        """Pieces of one reply; generation runs in a thread and is waited for, come what may."""
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(
            self.model.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        failed: list[BaseException] = []

        def generate() -> None:
            try:
                self.model.generate(
                    self._prompt(side, text),
                    max_new_tokens=self.max_new_tokens,
                    streamer=streamer,
                )
            except BaseException as error:
                failed.append(error)
                streamer.end()

        steered = self.plan.with_strength(self.strength).on(self.model)
        with ExitStack() as stack:
            trace = stack.enter_context(steered if side == "on" else nullcontext())
            self.trace = trace or self.trace
            thread = Thread(target=generate)
            thread.start()
            stack.callback(thread.join)
            yield from streamer
        if failed:
            raise failed[0]

    def _prompt(self, side: str, text: str) -> Any:
        prompt = text if self.plain else self.model.as_prompt(text)
        if isinstance(prompt, str):
            said = "".join(message["content"] for message in self.histories[side])
            return said + prompt
        return [*self.histories[side], *prompt]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise PlanError(f"/dose {text}: expected a number.") from None
