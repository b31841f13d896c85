"""Prompts in, new text out: what is tokenised, what is padded and what comes back."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from transformers import AddedToken

from saesteer.errors import DataError, ModelError
from saesteer.evals.first_letters import first_letters
from saesteer.evals.rows import token_rows
from saesteer.evals.sae_eval import evaluate_sae
from saesteer.models import Model, as_prompts, is_single, pad_rows
from saesteer.models import prompts as prompt_forms

CHAT = [{"role": "user", "content": "the rain"}]
OTHER_CHAT = [{"role": "system", "content": "the sea"}, {"role": "user", "content": "the sun in"}]
SOME = ("llama", "gpt2", "gemma3")


@pytest.fixture
def model(tiny_model) -> Model:
    return tiny_model("llama")


def test_a_text_gives_a_text_and_a_list_gives_a_list(model):
    one = model.generate("the rain in", max_new_tokens=4)
    assert isinstance(one, str)
    assert model.generate(["the rain in"], max_new_tokens=4) == [one]
    assert model.generate([], max_new_tokens=4) == []


def test_a_chat_gives_a_text_and_chats_give_a_list(model):
    one = model.generate(CHAT, max_new_tokens=4)
    assert isinstance(one, str)
    both = model.generate([CHAT, OTHER_CHAT], max_new_tokens=4)
    assert both[0] == one
    assert len(both) == 2


@pytest.mark.parametrize("name", SOME)
def test_only_new_text_comes_back_greedily(tiny_model, name):
    model = tiny_model(name)
    ids = torch.tensor([model.tokenizer("the rain in")["input_ids"]])
    wanted = ids
    for _ in range(5):
        with torch.no_grad():
            best = model.hf(wanted).logits[:, -1].argmax(-1, keepdim=True)
        wanted = torch.cat([wanted, best], 1)
        if int(best) == model.tokenizer.eos_token_id:
            break
    new = model.tokenizer.decode(wanted[0, ids.shape[1] :], skip_special_tokens=True)
    assert model.generate("the rain in", max_new_tokens=5) == new


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_batch_equals_its_prompts_one_by_one(tiny_model, prompts, name, batch_size):
    model = tiny_model(name)
    alone = [model.generate(prompt, max_new_tokens=6) for prompt in prompts]
    assert model.generate(prompts, max_new_tokens=6, batch_size=batch_size) == alone
    assert len(set(alone)) > 1, "prompts that all give one text prove nothing"


def test_the_template_is_for_chats_only(model):
    text, chat = "the rain", CHAT
    plain = model.tokenize(text).input_ids[0].tolist()
    assert plain == model.tokenizer(text)["input_ids"]
    templated = model.tokenize([chat]).input_ids[0].tolist()
    expected = model.tokenizer("<user>the rain<eos><assistant>")["input_ids"]
    assert templated == expected


def test_a_text_is_put_as_a_message_where_there_is_a_template(model):
    chat = model.as_prompt("the rain")
    assert chat == [{"role": "user", "content": "the rain"}]
    rendered = model.tokenizer(model.render(chat), add_special_tokens=False)["input_ids"]
    assert model.tokenize(chat).input_ids[0].tolist() == rendered
    mute = copy.copy(model)
    mute.tokenizer = copy.deepcopy(model.tokenizer)
    mute.tokenizer.chat_template = None
    assert mute.as_prompt("the rain") == "the rain"


def test_rows_are_padded_on_the_side_asked_for(model, prompts):
    for side in ("left", "right"):
        batch = model.tokenize(prompts, padding_side=side)
        for row, prompt in enumerate(prompts):
            ids = model.tokenizer(prompt)["input_ids"]
            assert batch.input_ids[row][batch.attention_mask[row]].tolist() == ids
            edge = batch.attention_mask[row][-1 if side == "left" else 0]
            assert bool(edge)
        assert batch.lengths.tolist() == [len(model.tokenizer(p)["input_ids"]) for p in prompts]
    assert batch.attention_mask.dtype == torch.bool


def test_pad_rows_fills_with_the_pad_id():
    batch = pad_rows([[5], [6, 7]], pad_id=9)
    assert batch.input_ids.tolist() == [[9, 5], [6, 7]]
    assert batch.attention_mask.tolist() == [[False, True], [True, True]]


def test_options_reach_the_model(model):
    def sampled():
        torch.manual_seed(3)
        return model.generate("the rain", max_new_tokens=8, do_sample=True, temperature=2.0)

    assert sampled() == sampled()
    assert sampled() != model.generate("the rain", max_new_tokens=8)


def test_ids_come_in_the_order_of_the_prompts(model, prompts):
    batches = list(model.generate_ids(prompts, max_new_tokens=3, batch_size=2))
    assert [len(new) for _, new in batches] == [2, 1]
    assert all(new.shape[1] <= 3 for _, new in batches)
    assert batches[1][0].input_ids[0].tolist() == model.tokenizer(prompts[2])["input_ids"]


def test_prompt_edits_apply_in_order(model):
    before = model.generate("sea the rain in", max_new_tokens=4)
    model.prompt_edits += [lambda p: f"rain {p}", lambda p: f"the {p}"]
    seen = next(model.generate_ids("in", max_new_tokens=1))[0].input_ids[0].tolist()
    model.prompt_edits.clear()
    assert seen == model.tokenizer("the rain in")["input_ids"]
    assert model.generate("sea the rain in", max_new_tokens=4) == before


@pytest.mark.parametrize("prompt", ["", ["the", ""]])
def test_a_prompt_without_tokens_is_refused(model, prompt):
    with pytest.raises(DataError, match="a prompt without tokens"):
        model.generate(prompt, max_new_tokens=2)


@pytest.mark.parametrize(
    ("prompt", "new", "message"),
    [
        ("the sea", 0, "max_new_tokens is 0, expected 1 or more"),
        ("the sea", -3, "max_new_tokens is -3, expected 1 or more"),
        ("the sea", 255, r"tokens with max_new_tokens 255 has \d+; tiny-llama reads at most 256"),
        ("the sea " * 200, 1, "tokens with max_new_tokens 1 has .*reads at most 256. Shorten the"),
    ],
)
def test_generating_nothing_or_too_much_is_refused(model, prompt, new, message):
    with pytest.raises(DataError, match=message):
        model.generate(prompt, max_new_tokens=new)


def test_a_model_without_tokenizer_or_template_says_so(model):
    mute = copy.copy(model)
    mute.tokenizer = None
    with pytest.raises(ModelError, match="tiny-llama has no tokenizer"):
        mute.generate("the rain")
    mute.tokenizer = copy.deepcopy(model.tokenizer)
    mute.tokenizer.chat_template = None
    with pytest.raises(DataError, match="tiny-llama has no chat template"):
        mute.generate(CHAT)
    assert isinstance(mute.generate("the rain", max_new_tokens=1), str)


def test_scoring_texts_takes_a_tokenizer(model, tiny_sae):
    mute = copy.copy(model)
    mute.tokenizer = None
    sae = tiny_sae(model, "resid_post.1")
    for score in (
        lambda: token_rows(mute, ["the rain in the town"], 8, 8),
        lambda: evaluate_sae(mute, sae, ["the rain in the town"]),
        lambda: first_letters(mute, sae),
    ):
        with pytest.raises(ModelError, match=r"tiny-llama has no tokenizer; pass one"):
            score()


def test_padding_falls_back_on_the_end_of_text(model):
    plain = copy.copy(model)
    plain.tokenizer = copy.deepcopy(model.tokenizer)
    plain.tokenizer.pad_token = None
    assert model.pad_id == 0
    assert plain.pad_id == 2


def test_special_ids_are_those_of_the_tokenizer(model):
    assert model.special_ids.tolist() == [0, 1, 2, 3]


def test_added_tokens_that_are_marked_special_are_special_too(model):
    marked = copy.copy(model)
    marked.__dict__.pop("special_ids", None)
    marked.tokenizer = copy.deepcopy(model.tokenizer)
    marked.tokenizer.add_tokens([AddedToken("<turn>", special=True), AddedToken("plain")])
    turn, plain = marked.tokenizer.convert_tokens_to_ids(["<turn>", "plain"])
    assert turn in marked.special_ids.tolist()
    assert plain not in marked.special_ids.tolist()
    marked.__dict__.pop("special_ids")
    marked.tokenizer = None
    assert marked.special_ids.tolist() == []


def test_what_counts_as_one_prompt():
    assert is_single("a")
    assert is_single(CHAT)
    assert not is_single(["a"])
    assert not is_single([CHAT])
    assert not is_single([])
    assert as_prompts(CHAT) == [CHAT]
    assert as_prompts([CHAT, "a"]) == [CHAT, "a"]


@pytest.mark.parametrize(
    "given",
    [CHAT[0], None, 3, b"Hi", ["Hi", 3], [None], [[]], [{"role": "user"}], [{"content": "Hi"}]]
    + [[*CHAT, "Hi"], [["Hi"]]],
)
def test_what_is_no_prompt(given, monkeypatch):
    read = inspect.unwrap(as_prompts)  # without the tests' own check of types
    single = inspect.unwrap(is_single)
    monkeypatch.setattr(prompt_forms, "is_single", single)
    monkeypatch.setattr(prompt_forms, "_is_chat", inspect.unwrap(prompt_forms._is_chat))
    with pytest.raises(DataError, match="is no prompt: give a text, or a chat, which is a list of"):
        read(given)


def test_a_message_that_calls_a_tool_needs_no_content():
    chat = [{"role": "assistant", "tool_calls": "f()"}]
    assert as_prompts([chat]) == [chat]


@pytest.mark.parametrize("batch_size", [0, -1])
@pytest.mark.parametrize("prompts", [["the rain"], []])
def test_batches_of_nothing_are_refused(model, prompts, batch_size):
    with pytest.raises(DataError, match=f"batch_size is {batch_size}, expected 1 or more"):
        model.generate(prompts, batch_size=batch_size)


@pytest.mark.parametrize(("rows", "side"), [([[1]], "x"), ([], "left")])
def test_rows_are_padded_on_a_side_that_there_is(rows, side):
    with pytest.raises(DataError, match="rows to pad on .* left or right"):
        pad_rows(rows, 0, side)
