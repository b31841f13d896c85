"""`saesteer steer chat`: talk to a model, its plan on and off, side by side, in a terminal.

Each side keeps its own history, so that the steered talk goes on from steered answers. Both replies
stream, but for those of plans that take tokens back; where the output is no terminal each is a
line. `+` and `-` on a line change the dose by a quarter of the plan's own, `/dose X` sets it,
`/why` tells what acted at the latest token, `/reset` starts again, `/quit` (or the end of the
input) leaves.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING, Any, final

from saesteer.cli.common import check_json, write_json
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
    """Run a talk on this process's own streams; `--json` gets it however it ends."""
    from rich.console import Console

    check_json(args)
    plan, model = load_steered(args)
    talk = Talk(model, plan, args.max_new_tokens, plain=args.plain)
    try:
        talk.run(sys.stdin, Console(file=sys.stdout, highlight=False))
    finally:
        write_json(args, {"plan": plan.name, "turns": talk.turns})


@final
@dataclass
class Talk:
    """One conversation in two versions.

    Attributes:
        strength: of the plan, now; starts at its own.
        histories: messages by side, "off" and "on".
        turns: every text with both replies and the strength of the steered one, also of before
            a `/reset`.
    """

    model: Model
    plan: Plan
    max_new_tokens: int = 60
    plain: bool = False
    strength: float = field(init=False)
    histories: dict[str, list[dict[str, str]]] = field(init=False)
    turns: list[dict[str, Any]] = field(init=False, default_factory=list)
    trace: Trace | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Begin with nothing said."""
        self.strength = self.plan.strength
        self.reset()

    def run(self, lines: Iterable[str], console: Console) -> None:
        """Answer line by line until `/quit` or the end of the input."""
        console.print(f"{self.plan.name}, strength {self.strength:g}. {_COMMANDS}", markup=False)
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
        """Replies by side as they grow, first the unsteered one and then both."""
        replies: dict[str, str] = {}
        for side in SIDES:
            replies[side] = ""
            yield dict(replies)
            for piece in self._reply(side, text):
                replies[side] += piece
                yield dict(replies)
        for side, reply in replies.items():
            message = {"role": "user", "content": text}
            self.histories[side] += [message, {"role": "assistant", "content": reply}]
        self.turns.append({"text": text, "strength": self.strength, **replies})

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
        shown = ""
        try:
            for replies in self.say(text):
                told = "\n".join(f"{self._head(side)}: {said}" for side, said in replies.items())
                console.print(told[len(shown) :], end="", markup=False, soft_wrap=True)
                shown = told
        finally:
            console.print()

    def _head(self, side: str) -> str:
        return "off" if side == "off" else f"on at {self.strength:g}"

    def _table(self, replies: dict[str, str]) -> Any:
        from rich.markup import escape
        from rich.table import Table

        table = Table(expand=True)
        for side in SIDES:
            table.add_column(self._head(side), ratio=1)
        table.add_row(*(escape(replies.get(side, "")) for side in SIDES))
        return table

    def _reply(self, side: str, text: str) -> Iterator[str]:
        """Pieces of one reply; all of it at once where the plan may take tokens back."""
        from saesteer.steer.control import rewinding

        prompt = self._prompt(side, text)
        if side == "off":
            yield from self._streamed(prompt)
            return
        with self.plan.with_strength(self.strength).on(self.model) as self.trace:
            if rewinding(self.plan.controls):
                yield str(self.model.generate(prompt, max_new_tokens=self.max_new_tokens))
            else:
                yield from self._streamed(prompt)

    def _streamed(self, prompt: Any) -> Iterator[str]:
        """The reply as it grows; generation runs in a thread and is waited for, come what may."""
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(
            self.model.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        failed: list[BaseException] = []

        def generate() -> None:
            try:
                self.model.generate(prompt, max_new_tokens=self.max_new_tokens, streamer=streamer)
            except BaseException as error:
                failed.append(error)
                streamer.end()

        thread = Thread(target=generate)
        thread.start()
        try:
            yield from streamer
        finally:
            thread.join()
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
