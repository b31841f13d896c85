"""Control of decoding: the loop is transformers' own until a control acts, and then row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from gates import AtToken
from laws import PROMPTS, Run, direction, fresh, generate, latch_plan, same
from torch import Tensor

from saesteer import steer
from saesteer.errors import PlanError
from saesteer.models import Model
from saesteer.steer import Always, Backtrack, Control, Edit, Frame, Plan, Refuse, Step, Stop

ARCHES = ("llama", "gpt2", "gemma3", "neox")


NEVER = AtToken(-1)


@pytest.fixture(params=ARCHES)
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Model:
    return tiny_model(request.param)


@pytest.fixture
def llama(tiny_model: Any) -> Model:
    return tiny_model("llama")


def said(model: Model, row: int, at: int) -> int:
    """The token that the plain model says."""
    return int(generate(model, PROMPTS).tokens[row, at])


WAYS: list[dict[str, Any]] = [
    {},
    {"use_cache": False},
    {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
    {"do_sample": True, "temperature": 1.4, "top_k": 9, "num_return_sequences": 2},
    {"prefill_chunk_size": 3},
    {"cache_implementation": "static"},
]


@pytest.mark.parametrize("options", WAYS, ids=lambda w: "-".join(w) or "plain")
def test_a_control_that_never_acts_changes_nothing(model: Model, options: dict[str, Any]) -> None:
    torch.manual_seed(5)
    plain = generate(model, PROMPTS, **options)
    for control in (Stop(gate=NEVER), Refuse(gate=NEVER)):
        torch.manual_seed(5)
        with Plan(control).on(model):
            same(plain, generate(model, PROMPTS, **options), tolerance=0)


def test_ends_of_text_are_those_of_transformers(llama: Model) -> None:
    eos = said(llama, 0, 3)
    plain = llama.generate(list(PROMPTS), max_new_tokens=8, eos_token_id=eos)
    for control in (Stop(gate=NEVER), Backtrack(gate=NEVER)):
        with Plan(control).on(llama):
            assert llama.generate(list(PROMPTS), max_new_tokens=8, eos_token_id=eos) == plain


def test_a_row_that_stops_leaves_the_others_alone(model: Model) -> None:
    plain = generate(model, PROMPTS).tokens
    token = int(plain[0, 3])
    with Plan(Stop(gate=AtToken(token))).on(model) as trace:
        stopped = generate(model, PROMPTS).tokens
    for row, (before, after) in enumerate(zip(plain.tolist(), stopped.tolist(), strict=True)):
        end = before.index(token) + 1 if token in before else len(before)
        assert after[:end] == before[:end]
        assert set(after[end:]) <= {0}
        assert any(event.row == row for event in trace.events) == (end < len(before))
    assert all(event.why == f"token {token}" for event in trace.events)


def test_a_prompt_may_be_stopped_before_a_word_is_said(llama: Model) -> None:
    with Plan(Stop()).on(llama) as trace:
        assert llama.generate(list(PROMPTS), max_new_tokens=8) == ["", "", ""]
    assert [event.row for event in trace.events] == [0, 1, 2]
    assert "stop: stopped" in trace.explain(row=2)


@pytest.mark.parametrize("then", ["stop", "continue"])
def test_a_refusal_is_said_in_the_rows_that_ask_for_it(model: Model, then: Any) -> None:
    ids = model.tokenize([PROMPTS[1]]).input_ids
    last = int(ids[0, -1])
    gate = AtToken(last, generated=False)
    text = "the sun"
    words = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    plain = generate(model, PROMPTS).tokens
    with Plan(Refuse(text, then, gate=gate)).on(model) as trace:
        refused = generate(model, PROMPTS).tokens
    rows = {event.row for event in trace.events}
    assert 1 in rows
    forced = refused[1].tolist()
    assert forced[: len(words)] == words
    if then == "stop":
        assert set(forced[len(words) :]) == {0}
    else:
        whole = torch.cat([ids, torch.tensor([words])], 1)
        more = model.hf.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            max_new_tokens=10 - len(words),
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert forced[len(words) :] == more[0, whole.shape[1] :].tolist()
    for row in {0, 1, 2} - rows:
        assert torch.equal(refused[row], plain[row])


def banned(model: Model, prompt: str, column: int, new: int = 10) -> Tensor:
    """What greedy decoding says when its own choice at one place is taken away."""
    plain = generate(model, [prompt], new=new).tokens[0]
    start = model.tokenize([prompt]).input_ids.shape[1]

    def forbid(ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] == start + column:
            scores[:, plain[column]] = -torch.inf
        return scores

    return generate(model, [prompt], new=new, logits_processor=[forbid]).tokens[0]


@pytest.mark.parametrize("cached", [True, False])
def test_tokens_taken_back_are_as_if_never_said(model: Model, cached: bool) -> None:
    token = said(model, 1, 4)
    first = generate(model, PROMPTS).tokens[1].tolist().index(token)
    cut = min(3, first + 1)
    plan = Plan(Backtrack(3, limit=1, gate=AtToken(token)))
    with plan.on(model) as trace:
        got = generate(model, [PROMPTS[1]], use_cache=cached)
    expected = banned(model, PROMPTS[1], first + 1 - cut)
    assert torch.equal(got.tokens[0], expected)
    assert [e.what for e in trace.events] == [f"took back {cut}"]
    plain = generate(model, [PROMPTS[1]])
    assert not torch.equal(plain.tokens, got.tokens)


def test_what_was_taken_back_stays_banned_while_more_is(llama: Model) -> None:
    best = generate(llama, ["the sea"], new=2).logits[0, 0].topk(3).indices.tolist()
    plan = Plan(*(Backtrack(1, gate=AtToken(token)) for token in best[:2]))
    with plan.on(llama) as trace:
        assert generate(llama, ["the sea"], new=2).tokens[0, 0] == best[2]
    assert len(trace.events) >= 2


def test_a_ban_is_lifted_where_the_text_before_it_has_changed(llama: Model) -> None:
    """Fixed scores: 11 before 12 at first, then 13 before 14; 13 and then all goes once."""
    start = llama.tokenize(["the sea"]).input_ids.shape[1]

    def fixed(ids: Tensor, scores: Tensor) -> Tensor:
        wanted = ([11, 12], [13, 14], [15])[ids.shape[1] - start]
        ranks = torch.arange(2.0, 2.0 - len(wanted), -1.0)
        return torch.full_like(scores, -1.0).index_copy_(1, torch.tensor(wanted), ranks[None])

    takes = [Backtrack(n, limit=1, gate=AtToken(token)) for n, token in ((1, 13), (2, 14))]
    with Plan(*takes).on(llama) as trace:
        run = generate(llama, ["the sea"], new=3, logits_processor=[fixed])
    assert [event.what for event in trace.events] == ["took back 1", "took back 2"]
    assert run.tokens.tolist() == [[12, 13, 15]]


def test_rows_are_taken_back_each_for_itself(model: Model) -> None:
    token = said(model, 1, 4)
    plan = Plan(Backtrack(2, limit=2, gate=AtToken(token)))
    with plan.on(model) as trace:
        whole = generate(model, PROMPTS)
        rows = {event.row for event in trace.events}
        for row, prompt in enumerate(PROMPTS):
            alone = generate(model, [prompt])
            same(Run(whole.tokens[row, None], whole.logits[row, None]), alone)
    assert 1 in rows
    plain = generate(model, PROMPTS)
    for row in {0, 1, 2} - rows:
        assert torch.equal(whole.tokens[row], plain.tokens[row])


def test_a_latch_forgets_what_was_taken_back(llama: Model) -> None:
    """A gate that remembers, beside a control that rewinds it: cached equals uncached."""
    token = said(llama, 1, 4)
    plan = latch_plan(llama) + Plan(Backtrack(4, gate=AtToken(token)))
    with latch_plan(llama).on(llama):
        steered = generate(llama, PROMPTS, new=16)
    every = [Plan(Backtrack(4, gate=AtToken(int(t)))) for t in steered.tokens[1].unique()[:6]]
    cuts = 0
    for control in every:
        plan = latch_plan(llama) + control
        with plan.on(llama) as trace:
            runs = [generate(llama, PROMPTS, new=16, use_cache=c) for c in (True, False)]
        same(*runs)
        cuts += len(trace.events)
    assert cuts > 6


def test_a_window_that_has_slid_is_read_again(tiny_model: Any) -> None:
    model = fresh(tiny_model("mistral"))
    model.hf.config.sliding_window = 6
    token = said(model, 1, 6)
    with Plan(Backtrack(3, gate=AtToken(token))).on(model) as trace:
        runs = [generate(model, [PROMPTS[1]], use_cache=c) for c in (True, False)]
    same(*runs)
    assert trace.events


def test_sampling_goes_on_after_a_cut(llama: Model) -> None:
    token = said(llama, 0, 2)
    options = {"do_sample": True, "top_k": 2, "temperature": 2.0, "num_return_sequences": 3}
    runs = []
    with Plan(Backtrack(2, gate=AtToken(token))).on(llama):
        for cached in (True, False):
            torch.manual_seed(1)
            runs.append(generate(llama, PROMPTS, use_cache=cached, **options))
    assert runs[0].tokens.shape == (9, 10)
    same(*runs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 2}, "beam search"),
        ({"prompt_lookup_num_tokens": 3}, "assisted generation"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
        ({"output_hidden_states": True}, "hidden states"),
        ({"guidance_scale": 2.0}, "guidance"),
        ({"custom_generate": lambda: None}, "custom_generate"),
    ],
)
def test_what_can_t_be_controlled_is_refused(
    llama: Model, options: dict[str, Any], words: str
) -> None:
    before = sorted(llama.hf.__dict__)
    with Plan(Stop(gate=NEVER)).on(llama), pytest.raises(PlanError, match=words):
        generate(llama, ["hello"], **options)
    with Plan(Stop(gate=NEVER)).on(llama), pytest.raises(PlanError, match="assistant_model"):
        generate(llama, ["hello"], assistant_model=llama.hf)
    assert sorted(llama.hf.__dict__) == before


def test_bad_settings_are_refused(llama: Model) -> None:
    with pytest.raises(PlanError, match="n 0"):
        Backtrack(0)
    wrong: Any = 3
    for make in (lambda: Refuse(""), lambda: Refuse(wrong)):
        with pytest.raises(PlanError, match="text to say"):
            make()
    with pytest.raises(PlanError, match=r"n 1\.5"):
        Backtrack(1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(PlanError, match="stop: its gate is a int, expected a gate"):
        Plan(Stop(gate=wrong))
    refuse = Refuse("no")
    object.__setattr__(refuse, "then", "perhaps")
    with pytest.raises(PlanError, match="'perhaps'"):
        refuse.__post_init__()


def test_streamers_hear_what_is_said(llama: Model) -> None:
    class Ear:
        def __init__(self) -> None:
            self.heard: list[int] = []
            self.ended = False

        def put(self, ids: Tensor) -> None:
            self.heard += ids.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    ear = Ear()
    with Plan(Refuse("the sea", "continue")).on(llama):
        run = generate(llama, ["hello"], streamer=ear)
    assert ear.heard[-10:] == run.tokens[0].tolist()
    assert ear.ended
    with Plan(Backtrack(gate=NEVER)).on(llama), pytest.raises(PlanError, match="streamer"):
        generate(llama, ["hello"], streamer=Ear())


def test_no_strength_is_no_control_and_sums_keep_order(llama: Model) -> None:
    plain = generate(llama, PROMPTS)
    stop, refuse = Plan(Stop()), Plan(Refuse("no"))
    with (stop * 0.0).on(llama):
        same(plain, generate(llama, PROMPTS), tolerance=0)
    assert [type(c) for c in (refuse + stop).controls] == [Refuse, Stop]
    assert (stop * 0.0 + refuse).controls == refuse.controls
    with (refuse + stop).on(llama):
        assert llama.generate("hello", max_new_tokens=5).strip() == "no"
    with (stop + refuse).on(llama):
        assert llama.generate("hello", max_new_tokens=5) == ""


def test_a_saved_plan_controls_as_before(llama: Model, tmp_path: Path) -> None:
    token = said(llama, 1, 4)
    edit = Edit(steer.add("resid_post.1", direction(llama, 1)), schedule=steer.dial("key", 0.5))
    plan = Plan(
        edit,
        Edit(steer.add("resid_post.1", direction(llama, 2)), schedule=steer.linear(5, 0.25)),
        Backtrack(2, gate=AtToken(token)),
        Refuse("no", "continue", gate=AtToken(token)),
        Stop(gate=NEVER),
    )
    plan.save(tmp_path / "plan", llama)
    runs = []
    for each in (plan, Plan.load(tmp_path / "plan", llama)):
        with each.on(llama):
            runs.append(generate(llama, PROMPTS))
    same(*runs, tolerance=0)


@dataclass(frozen=True, eq=False)
class TurnUp(Control):
    """Sets a dial to the number of tokens said so far, and looks aside."""

    seen: list[Tensor]

    @property
    def label(self) -> str:
        return "turn up"

    def before(self, step: Step) -> None:
        self.seen.append(step.aside({"key": 0.0}))
        step.dial("key", torch.full((len(self.seen[-1]),), float(step.n_new)), step.n_columns - 1)


@pytest.mark.parametrize("cached", [True, False])
def test_a_dial_multiplies_by_column_and_a_look_aside_leaves_no_trace(
    model: Model, cached: bool
) -> None:
    seen: list[Tensor] = []
    push = steer.add("resid_post.2", 3 * direction(model, 1))
    plan = Plan(Edit(push, schedule=steer.dial("key")), TurnUp(seen))
    with plan.on(model) as trace:
        run = generate(model, PROMPTS, new=6, use_cache=cached)
    text = torch.cat([model.tokenize(list(PROMPTS)).input_ids, run.tokens], 1)
    mask = torch.cat([model.tokenize(list(PROMPTS)).attention_mask, run.tokens >= 0], 1)
    prompt = text.shape[1] - 6
    places = (mask.long().cumsum(-1) - 1).clamp(min=0)
    for n, aside in enumerate(seen):
        end = prompt + n
        inputs = {"input_ids": text[:, :end], "attention_mask": mask[:, :end].long()}
        inputs["position_ids"] = places[:, :end]
        with torch.no_grad():
            plain = model.hf(**inputs).logits[:, -1]
        assert (plain - aside).abs().max() <= 1e-5 * plain.abs().max()
    sizes = torch.stack([d.norm[:, -1] for p in trace.passes for d in p.deeds], 1)
    assert torch.allclose(sizes, 3 * torch.arange(6.0).expand(3, -1), atol=1e-4)
    assert len(trace.passes) == 6


def test_a_look_aside_forgets_what_was_taken_back(llama: Model) -> None:
    push = Edit(steer.add("resid_post.2", 3 * direction(llama, 1)), schedule=steer.dial("key"))
    with Plan(push, TurnUp([])).on(llama):
        token = int(generate(llama, [PROMPTS[1]], new=8).tokens[0, 4])
    runs, looks = [], []
    for cached in (True, False):
        seen: list[Tensor] = []
        with Plan(push, TurnUp(seen), Backtrack(3, gate=AtToken(token))).on(llama) as trace:
            runs.append(generate(llama, [PROMPTS[1]], new=8, use_cache=cached))
        assert trace.events
        looks.append(torch.stack(seen))
    same(*runs)
    assert (looks[0] - looks[1]).abs().max() <= 1e-5 * looks[1].abs().max()


def test_outside_generate_a_dial_is_at_its_start(llama: Model) -> None:
    push = steer.add("resid_post.2", 3 * direction(llama, 1))
    ids, outputs = torch.tensor([[5, 6, 7, 8]]), []
    for plan in (Plan(Edit(push, schedule=steer.dial("key", 0.5))), Plan(push) * 0.5):
        with plan.on(llama, prompt_lengths=2), torch.no_grad():
            outputs.append(llama.hf(ids).logits)
    assert torch.equal(*outputs)


def test_linear_goes_straight_to_its_end(llama: Model) -> None:
    edit = Edit(steer.add("resid_post.1", torch.ones(32)), schedule=steer.linear(4, 0.5))
    with Plan(edit).on(llama) as trace:
        generate(llama, ["the sea"], new=7)
    sizes = torch.cat([d.norm[d.mask] for p in trace.passes for d in p.deeds]) / 32**0.5
    assert torch.allclose(sizes, torch.tensor([1, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5]))
    with pytest.raises(PlanError, match="more than 0 tokens"):
        steer.linear(0)


@pytest.mark.parametrize("schedule", [steer.linear(4), steer.linear(4, 2.0), steer.decay(2)])
def test_a_schedule_begins_behind_the_last_prompt_token(schedule: steer.Schedule) -> None:
    lengths = [3, 5]
    factor = schedule.factor(Frame.of(torch.ones(2, 7).long(), prompt_lengths=lengths))
    for row, n in zip(factor, lengths, strict=True):
        assert (row[:n] == 1).all()
        assert (row[n:] != 1).all()


def test_a_control_that_fails_leaves_the_model_plain(llama: Model) -> None:
    @dataclass(frozen=True, eq=False)
    class Fails(Control):
        @property
        def label(self) -> str:
            return "fails"

        def after(self, step: Step) -> None:
            step.rewind(1, ban=False)

    plain = generate(llama, PROMPTS)
    with Plan(Fails(gate=Always())).on(llama):
        with pytest.raises(PlanError, match="can't be taken back"):
            generate(llama, PROMPTS)
        with steer.unsteered(llama):
            same(plain, generate(llama, PROMPTS), tolerance=0)
    same(plain, generate(llama, PROMPTS), tolerance=0)


def test_text_goes_in_and_comes_out(
    tiny_model: Callable[..., Model],
) -> None:
    model = tiny_model("llama")
    with Plan(Refuse("the sun")).on(model):
        assert [t.strip() for t in model.generate(["a", "b c"], max_new_tokens=6)] == [
            "the sun"
        ] * 2
