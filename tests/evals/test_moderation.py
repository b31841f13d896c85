"""Pairs in both formats, folds by prompt, and verdicts from planted activations."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from saesteer.config.answers import AnswerConfig, AnswerTaskConfig
from saesteer.errors import TaskError
from saesteer.evals.answer_moderation import ModerationTask, pool_pairs, with_shuffled_labels
from saesteer.evals.answer_rows import Answered
from saesteer.evals.logic_reader import ReadText
from saesteer.evals.moderation_data import (
    HARMLESS,
    Pair,
    everyday_pairs,
    harmless_pairs,
    practice_pairs,
    read_pairs,
    read_two,
)
from saesteer.evals.moderation_reader import (
    EVERY,
    ModerationReader,
    fit_pair_reader,
    moderation_rules,
    pool_pair,
    spaces,
)
from saesteer.models import Site
from saesteer.saes import SAE

WIDTH, SITE = 12, Site.parse("resid_post.1")
SPANS = ((0, 1, 2), (3, 4, 5, 6))


def planted_sae() -> SAE:
    eye, zeros = torch.eye(WIDTH), torch.zeros(WIDTH)
    return SAE(w_enc=eye, b_enc=zeros, w_dec=eye, b_dec=zeros, threshold=zeros + 0.1, site=SITE)


def activations(unsafe: bool, seed: int) -> torch.Tensor:
    """Harm lies along direction 0 of the reply and, less surely, along 1 of the request."""
    generator = torch.Generator().manual_seed(seed)
    resid = torch.rand(7, WIDTH, generator=generator)
    resid[3:, 0] += 0.7 * unsafe
    resid[:3, 1] += 0.3 * unsafe
    return resid


def planted(n: int, start: int = 0):
    pairs = [Pair(f"prompt {start + i}", f"reply {i}", safe=i % 2 == 0) for i in range(n)]
    resid = [activations(not pair.safe, start + i) for i, pair in enumerate(pairs)]
    return pairs, resid


def pooled_rows(sae: SAE | None, n: int = 120):
    pairs, resid = planted(n)
    spans = [(rows[:3], rows[3:]) for rows in resid]
    return pool_pairs(spans, pairs, sae)


@pytest.fixture(scope="module", params=["latents", "activations"])
def pooled(request):
    sae = planted_sae() if request.param == "latents" else None
    return sae, pooled_rows(sae)


def fitted(rows, sae: SAE | None):
    return fit_pair_reader(rows, sae, torch.ones(len(rows.unsafe), dtype=torch.bool))


def share_right(reader) -> float:
    pairs, resid = planted(60, 5000)
    task = ModerationReader((reader,), {})
    found = [
        task.conclude(ReadText((r,), SPANS), p.question("x"))
        for p, r in zip(pairs, resid, strict=True)
    ]
    assert all(one.proof is not None for one in found)
    return sum(v.word == p.question("x").answer for v, p in zip(found, pairs, strict=True)) / 60


def test_planted_harm_is_found_and_shuffled_labels_find_nothing(pooled):
    sae, rows = pooled
    assert share_right(fitted(rows, sae)) > 0.9
    nulls = [share_right(fitted(with_shuffled_labels(rows, seed), sae)) for seed in range(6)]
    assert 0.3 < sum(nulls) / len(nulls) < 0.7


def test_a_span_is_read_by_the_mean_root_of_each_feature_that_is_on_at_least_faintly():
    request, reply = torch.zeros(4, WIDTH), torch.ones(2, WIDTH)
    request[0, 3], request[1, 3], request[2, 5], request[2, 6] = 4.0, 16.0, 0.02, 0.04
    read = spaces(planted_sae(), [[torch.rand(50, WIDTH)]], 0)["activation-reasoning"]
    of_request, of_reply = pool_pair([request, reply], read)
    assert of_request[3] == (2 + 4) / 4
    assert of_request[6] == pytest.approx(0.2 / 4), "below the threshold and not too faint to read"
    assert of_request[5] == 0, "what stays below a quarter of it counts as off"
    assert of_reply.tolist() == [1.0] * WIDTH
    mean, _ = pool_pair([request, reply], None)
    assert mean[3] == 5.0


def test_the_random_sae_has_as_many_latents_on_as_the_one_it_stands_beside():
    """Of all pairs, whichever come first in the file."""
    resid = torch.rand(12800, WIDTH, generator=torch.Generator().manual_seed(0)) / 7
    resid *= resid > torch.where(torch.arange(12800) < 6400, 0.1, 0.13)[:, None]
    pairs = [part.split(8) for part in resid.split(16) for _ in range(EVERY)]
    trained, other, none = spaces(planted_sae(), pairs, 0).values()
    shares = [float((one.encode(resid) > 0).float().mean()) for one in (trained, other) if one]
    assert shares[1] == pytest.approx(shares[0], rel=0.05)
    assert none is None


def test_readers_of_a_part_of_the_pairs_do_not_see_the_rest(pooled):
    sae, rows = pooled
    used = torch.arange(120) < 100
    turned = replace(rows, unsafe=torch.where(used, rows.unsafe, ~rows.unsafe))
    louder = replace(rows, blocks=tuple(b + 9.0 * ~used[:, None] for b in rows.blocks))
    text = ReadText((activations(True, 9),), SPANS)
    blocks = [b[None] for b in pool_pair([text.resid[0][list(at)] for at in SPANS], sae)]
    scores = [fit_pair_reader(one, sae, used).score.of(blocks) for one in (rows, turned, louder)]
    assert torch.equal(scores[0], scores[1])
    assert torch.allclose(scores[0], scores[2], atol=1e-4)
    assert not torch.allclose(scores[0], fitted(rows, sae).score.of(blocks), atol=1e-4)


def test_the_order_of_a_spans_tokens_changes_nothing_and_calm_is_no_harm(pooled):
    sae, rows = pooled
    reader = fitted(rows, sae)
    resid = activations(True, 9)
    turned = torch.cat([resid[:3].flip(0), resid[3:].flip(0)])
    found = reader.facts(ReadText((resid,), SPANS))
    assert found == reader.facts(ReadText((turned,), SPANS)) == {"harmful"}
    calm = activations(False, 9)
    calm[:, :2] = 0
    assert reader.facts(ReadText((calm,), SPANS)) == set()


def test_a_reply_is_unsafe_where_the_pair_is_harmful_and_safe_elsewhere():
    closure = moderation_rules().closure
    assert closure({"harmful"}) == {"harmful", "unsafe"}
    assert closure(set()) == {"safe"}


def test_pairs_of_one_prompt_share_a_fold_whatever_its_case_and_spaces():
    pair = Pair("How do I  bake?", "Slowly.", safe=True)
    assert pair.fold(5) == replace(pair, prompt="how do i bake?", response="x").fold(5)
    assert {Pair(f"p{i}", "r", safe=True).fold(5) for i in range(50)} == set(range(5))


def test_spans_are_the_request_and_the_reply():
    question = Pair("Can I?\n", "No,\nnever.", safe=True).question("q")
    assert [question.prompt[a:b] for a, b in question.sentences()] == ["Can I?", "No, never."]
    assert question.answer == "No"


def test_both_formats_are_read(tmp_path):
    rows = [
        {"prompt": "p", "response": "r\u2028s", "is_safe": flag, "category": {}}
        for flag in (True, False)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (tmp_path / "a.jsonl").write_text("".join(lines), encoding="utf-8-sig")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert read_pairs(tmp_path / "a.jsonl") == read_pairs(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(
        json.dumps([{"instruction": "i", "input": "p", "output": "r\u2028s"}])
    )
    assert read_two(tmp_path / "b.json", tmp_path / "b.json") == read_pairs(tmp_path / "a.json")


@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_half_a_character_is_read_as_everywhere(tmp_path, form):
    row = json.dumps({"prompt": "p \ud83d", "response": "r", "is_safe": True})
    (tmp_path / "a.jsonl").write_text(form.replace("{}", row))
    (pair,) = read_pairs(tmp_path / "a.jsonl")
    assert pair.prompt == "p \ufffd"
    assert 0 <= pair.fold(5) < 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected at least one row"),
        ("[1]", "expected at least one row, each an object"),
        ('{"prompt": "p", "response": "r"}', "row 1: 'is_safe' is None; expected true or false"),
        ('{"prompt": "p", "response": "r", "is_safe": 1}', "'is_safe' is 1; expected true"),
        ('{"prompt": " ", "response": "r", "is_safe": true}', "'prompt' is ' '; expected a text"),
        ('{"prompt": "p', "can't be read"),
    ],
)
def test_a_file_that_holds_no_pairs_is_refused(tmp_path, text, message):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(TaskError, match=message):
        read_pairs(tmp_path / "x.jsonl")


def test_without_pairs_or_with_pairs_of_one_label_the_task_says_so(tmp_path):
    task = ModerationTask(AnswerConfig(AnswerTaskConfig("beavertails")))
    with pytest.raises(TaskError, match="needs pairs: give task.test=FILE"):
        task.questions()
    rows = [{"prompt": f"p{i}", "response": "r", "is_safe": True} for i in range(40)]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    config = AnswerConfig(AnswerTaskConfig("beavertails", test=str(tmp_path / "x.json")))
    with pytest.raises(TaskError, match="fold 0 of 10 leaves .* safe and 0 unsafe pairs"):
        ModerationTask(config).questions()


def test_shipped_pairs_are_distinct_and_half_of_the_practice_is_unsafe():
    harmless, everyday, practice = harmless_pairs(), everyday_pairs(), practice_pairs()
    prompts = [pair.prompt.casefold() for pair in (*harmless, *everyday, *practice)]
    assert len(set(prompts)) == len(prompts) == 60 + 170 + 16
    assert all(pair.safe for pair in (*harmless, *everyday))
    assert [pair.safe for pair in practice] == [True, False] * 8


def test_a_row_counts_harmless_pairs_apart():
    task = ModerationTask(AnswerConfig(AnswerTaskConfig("beavertails")))

    def answered(safe: bool, said: str, group: str = "") -> Answered:
        return Answered(Pair("p", "r", safe).question("q", group), said, said, said)

    found = [answered(True, "No")] * 8 + [answered(False, "No")] * 2 + [answered(False, "Yes")] * 2
    found += [answered(True, "Yes", HARMLESS), *[answered(True, "No", HARMLESS)] * 3]
    found.append(replace(answered(True, "yes", HARMLESS), verdict="No"))
    row = task.row("m", "rule", found, reads=True)
    assert (row["n_problems"], row["accuracy"], row["balanced_accuracy"]) == (12, 10 / 12, 0.75)
    assert row["balanced_accuracy_ci"][0] < 0.75 < row["balanced_accuracy_ci"][1]
    assert (row["over_refusal"], row["verdict_over_refusal"]) == (0.4, 0.2), "as where it is right"
