"""The chat answers on both sides, streams, and its dose can be changed; through its streams."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from rich.console import Console

from saesteer import steer
from saesteer.cli import main
from saesteer.cli.chat import Talk
from saesteer.errors import PlanError
from saesteer.steer import Backtrack, Plan


class Terminal(io.StringIO):
    """An output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def talk(tiny_model: Any) -> Iterator[Talk]:
    model = tiny_model("llama")
    vector = 40 * torch.randn(32, generator=torch.Generator().manual_seed(3))
    yield Talk(model, Plan(steer.add("resid_post.1", vector), name="push"), max_new_tokens=6)
    assert "generate" not in model.hf.__dict__  # nothing stays attached


def chat(talk: Talk, *lines: str) -> str:
    output = io.StringIO()
    talk.run([f"{line}\n" for line in lines], Console(file=output, highlight=False, width=200))
    return output.getvalue()


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_both_replies_are_what_the_model_says_with_and_without_the_plan(talk) -> None:
    plain = talk.model.generate(user("the rain"), max_new_tokens=6)
    with talk.plan.on(talk.model):
        steered = talk.model.generate(user("the rain"), max_new_tokens=6)
    assert plain != steered
    shown = chat(talk, "the rain")
    assert talk.histories["off"][-1]["content"].strip() == plain.strip()
    assert talk.histories["on"][-1]["content"].strip() == steered.strip()
    assert "off: " in shown
    assert "on at 1: " in shown


def test_replies_stream_one_side_after_the_other(talk) -> None:
    states = list(talk.say("the rain in the town and the sea in the sun"))
    assert len(states) > 3
    for before, after in pairwise(states):
        assert after["off"].startswith(before["off"])
        assert after.get("on", "").startswith(before.get("on", ""))
        assert "on" not in before or after["off"] == before["off"]


def test_the_dose_is_changed_by_a_key_and_by_a_command(talk) -> None:
    shown = chat(talk, "+", "+", "-", "/dose 0", "the rain")
    assert [f"strength {s}" in shown for s in ("1.25", "1.5", "0")] == [True] * 3
    assert talk.strength == 0.0
    assert talk.histories["on"] == talk.histories["off"]


def test_a_name_is_shown_as_it_is(talk) -> None:
    talk.plan = Plan(*talk.plan.acts, name="calm [v2] of [/tmp]")
    assert "calm [v2] of [/tmp], strength 1." in chat(talk)


def test_each_reply_is_a_line(talk) -> None:
    shown = chat(talk, "the rain")
    plain, steered = (talk.histories[side][-1]["content"] for side in ("off", "on"))
    assert f"> off: {plain}\non at 1: {steered}\n> " in shown


def test_a_plan_that_takes_tokens_back_answers_too(talk) -> None:
    talk.plan = talk.plan + Plan(Backtrack(1, limit=1))
    with talk.plan.on(talk.model) as trace:
        steered = talk.model.generate(user("the rain"), max_new_tokens=6)
    assert trace.events
    assert f"on at 1: {steered}\n" in chat(talk, "the rain")


def test_neither_side_remembers_what_only_one_answered(talk, monkeypatch) -> None:
    reply = Talk._reply

    def fails(self, side, text) -> Iterator[str]:
        if side == "on":
            raise PlanError("no more")
        return reply(self, side, text)

    monkeypatch.setattr(Talk, "_reply", fails)
    assert "no more" in chat(talk, "the rain")
    assert talk.histories == {"off": [], "on": []}
    assert talk.turns == []


def test_each_side_goes_on_from_its_own_answers(talk) -> None:
    chat(talk, "the rain", "the sea")
    with talk.plan.on(talk.model):
        expected = talk.model.generate(
            [*talk.histories["on"][:2], *user("the sea")], max_new_tokens=6
        )
    assert talk.histories["on"][3]["content"].strip() == expected.strip()
    chat(talk, "/reset")
    assert talk.histories == {"off": [], "on": []}


def test_why_tells_what_acted(talk) -> None:
    assert "nothing was said yet" in chat(talk, "/why")
    assert "resid_post.1" in chat(talk, "the rain", "/why")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/dose much", "expected a number"),
        ("/dose nan", "not a finite"),
        ("/wat", "/wat: expected"),
    ],
)
def test_a_mistake_is_told_and_the_talk_goes_on(talk, line, words) -> None:
    shown = chat(talk, line, "the rain")
    assert words in shown
    assert "on at 1: " in shown


def test_a_fault_while_generating_reaches_the_talk_and_leaves_nothing_attached(
    talk, monkeypatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no such option")

    monkeypatch.setattr(talk.model, "generate", fail)
    with pytest.raises(ValueError, match="no such option"):
        chat(talk, "the rain")


def test_more_than_the_model_can_read_is_told_and_the_talk_goes_on(talk) -> None:
    shown = chat(talk, "the rain " * 200, "/reset", "the rain")
    assert "reads at most 256" in shown
    assert "on at 1: " in shown


def test_a_terminal_gets_a_table(talk) -> None:
    output = Terminal()
    talk.run(["the rain\n", "/quit\n", "never read\n"], Console(file=output))
    assert "on at 1" in output.getvalue()
    assert "┏" in output.getvalue()
    assert len(talk.histories["on"]) == 2


def test_the_commands_run_on_a_folder(tiny_model, tmp_path, monkeypatch, capsys) -> None:
    model = tiny_model("llama")
    model.hf.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    Plan(steer.add("resid_post.1", torch.ones(32))).save(tmp_path / "plan")
    common = [str(tmp_path / "plan"), "--model", str(tmp_path / "model"), "--max-new-tokens", "4"]
    assert main(["steer", "run", *common, "--prompt", "the rain", "--strength", "2"]) == 0
    shown = capsys.readouterr().out
    assert "unsteered: " in shown
    assert "4 positions edited" in shown
    monkeypatch.setattr("sys.stdin", io.StringIO("the sea\n"))
    assert main(["steer", "chat", *common]) == 0
    assert "on at 1: " in capsys.readouterr().out


def test_the_talk_is_written_down_however_it_ends(talk, tmp_path, monkeypatch, capsys) -> None:
    def lines() -> Iterator[str]:
        yield from ("the rain\n", "/dose 2\n", "/reset\n", "the sea\n")
        raise KeyboardInterrupt

    monkeypatch.setattr("saesteer.cli.chat.load_steered", lambda args: (talk.plan, talk.model))
    monkeypatch.setattr("sys.stdin", lines())
    report = tmp_path / "talk.json"
    assert main(["steer", "chat", "PLAN", "--max-new-tokens", "3", "--json", str(report)]) == 130
    told = json.loads(report.read_text())
    assert told["plan"] == "push"
    assert [(turn["text"], turn["strength"]) for turn in told["turns"]] == [
        ("the rain", 1.0),
        ("the sea", 2.0),
    ]
    assert all(turn["on"] and turn["off"] for turn in told["turns"])
    missing = tmp_path / "missing" / "talk.json"
    assert main(["steer", "chat", "PLAN", "--json", str(missing)]) == 2
