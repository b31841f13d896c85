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
    ModerationReader,
    choose_cut,
    fit_pair_reader,
    moderation_rules,
    pool_pair,
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
    return pool_pairs(spans, pairs, torch.ones(n, dtype=torch.bool), sae)


@pytest.fixture(scope="module", params=["latents", "activations"])
def pooled(request):
    sae = planted_sae() if request.param == "latents" else None
    return sae, pooled_rows(sae)


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
    assert share_right(fit_pair_reader(rows, sae)) > 0.9
    nulls = [
        share_right(fit_pair_reader(with_shuffled_labels(rows, seed), sae)) for seed in range(6)
    ]
    assert 0.3 < sum(nulls) / len(nulls) < 0.7


def test_a_span_is_read_by_how_much_and_how_often_each_feature_is_on():
    request, reply = torch.zeros(4, WIDTH), torch.ones(2, WIDTH)
    request[0, 3], request[1, 3], request[2, 5], request[2, 6] = 4.0, 12.0, 0.02, 0.04
    much, of_reply, often, always = pool_pair([request, reply], planted_sae())
    assert (much[3], often[3]) == (2.0, 0.5)
    assert often[6] == 0.25, "below the threshold and not too faint to read"
    assert often.sum() == 0.75, "what stays below a quarter of it counts as off"
    assert of_reply.tolist() == always.tolist() == [1.0] * WIDTH
    mean, _ = pool_pair([request, reply], None)
    assert mean[3] == 4.0


def test_the_order_of_a_spans_tokens_changes_nothing_and_calm_is_no_harm(pooled):
    sae, rows = pooled
    reader = fit_pair_reader(rows, sae)
    resid = activations(True, 9)
    turned = torch.cat([resid[:3].flip(0), resid[3:].flip(0)])
    found = reader.facts(ReadText((resid,), SPANS))
    assert found == reader.facts(ReadText((turned,), SPANS)) == {"harmful"}
    calm = activations(False, 9)
    calm[:, :2] = 0
    assert reader.facts(ReadText((calm,), SPANS)) == set()


@pytest.fixture
def judged(monkeypatch):
    """The scores, with their labels, that thresholds are chosen by."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def noting(scores, unsafe):
        seen.append((scores, unsafe))
        return choose_cut(scores, unsafe)

    monkeypatch.setattr("saesteer.evals.moderation_reader.choose_cut", noting)
    return seen


def test_everyday_pairs_are_fitted_on_but_choose_no_threshold(judged):
    rows, near = pooled_rows(None, 160), torch.arange(160) < 120
    rows = replace(rows, near=near, unsafe=rows.unsafe & near)
    with_them = fit_pair_reader(rows, None)
    without = fit_pair_reader(rows.rows(near), None)
    assert [len(scores) for scores, _ in judged] == [120, 120]
    assert not torch.allclose(with_them.score.weight, without.score.weight)


def test_a_threshold_is_chosen_by_scores_of_pairs_that_the_fit_did_not_see(judged):
    rows = pooled_rows(planted_sae(), 30)
    nulls = [with_shuffled_labels(rows, seed) for seed in range(8)]
    for null in nulls:
        fit_pair_reader(null, planted_sae())
    gaps = [float(s[unsafe].mean() - s[~unsafe].mean()) / float(s.std()) for s, unsafe in judged]
    assert sum(gaps) / len(gaps) < 0.3, "scores of rows that were fitted on part chance labels"


def test_a_reply_is_unsafe_where_the_pair_is_harmful_and_safe_elsewhere():
    closure = moderation_rules().closure
    assert closure({"harmful"}) == {"harmful", "unsafe"}
    assert closure(set()) == {"safe"}


def test_the_threshold_parts_the_labels_and_is_not_moved_by_one_stray_score():
    scores = torch.arange(100.0)
    unsafe = scores >= 45
    assert 40 <= choose_cut(scores, unsafe) <= 50
    wide = torch.cat([torch.arange(50.0), torch.arange(30.0, 80.0)])
    unsafe = torch.arange(100) >= 50
    unsafe[12] = True
    assert 35 <= choose_cut(wide, unsafe) <= 45


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
        {"prompt": "p", "response": "r", "is_safe": flag, "category": {}} for flag in (True, False)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert read_pairs(tmp_path / "a.jsonl") == read_pairs(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(
        json.dumps([{"instruction": "i", "input": "p", "output": "r"}])
    )
    assert read_two(tmp_path / "b.json", tmp_path / "b.json") == read_pairs(tmp_path / "a.json")


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
    row = task.row("m", "rule", found, reads=True)
    assert (row["n_problems"], row["accuracy"], row["balanced_accuracy"]) == (12, 10 / 12, 0.75)
    assert row["balanced_accuracy_ci"][0] < 0.75 < row["balanced_accuracy_ci"][1]
    assert row["over_refusal"] == row["verdict_over_refusal"] == 0.25
