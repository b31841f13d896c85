"""Rule gates alone, without a model: what opens them, row by row and pass by pass, and why."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import answer
from torch import Tensor

from saesteer.errors import RuleError
from saesteer.features.concepts import Concept, concept_readers
from saesteer.features.readouts import CosineReadout, FeatureReadout, ProbeReadout
from saesteer.models.sites import Site
from saesteer.rules import RuleBook
from saesteer.rules.evidence import NOTE, Concluded, Evidence, HostConcluded
from saesteer.rules.gate import HeadGate, RuleGate
from saesteer.rules.syntax import Atom, parse
from saesteer.saes.sae import SAE
from saesteer.steer.frame import Frame
from saesteer.steer.gate import Explains, FollowsRows, Gate

SITE = Site(1, "resid_post")
BOOK: dict[str, Any] = {
    "concepts": {
        "pain": {"feature": 0, "threshold": 1.0},
        "casual": {"features": {1: 0.5, 2: 0.5}, "threshold": 1.0},
        "urgent": {"feature": 3, "threshold": 2.0, "aggregate": "prompt", "over": "max"},
        "dense": {"feature": 4, "threshold": 0.4, "aggregate": "prompt", "over": "mean"},
        "final": {"feature": 5, "threshold": 1.0, "aggregate": "prompt", "over": "last"},
        "ever": {"feature": 6, "threshold": 1.5, "aggregate": "prompt", "over": "any"},
    },
    "rules": """
        careful :- pain, not casual.
        wary :- urgent, not final.
        wary :- dense, ever.
        :- pain, casual.
    """,
}

FEATURES = {"pain": [0], "casual": [1, 2], "urgent": [3], "final": [5], "ever": [6]}


def _gates(sae: SAE) -> dict[str, HeadGate]:
    rules = RuleGate.of(RuleBook.from_dict(BOOK), sae)
    return {head: rules.head(head) for head in ("careful", "wary")}


def _frame(
    ids: Tensor,
    mask: Tensor,
    lengths: Sequence[int] | None,
    start: int = 0,
    stop: int | None = None,
) -> Frame:
    stop = ids.shape[1] if stop is None else stop
    return Frame.of(
        ids[:, start:stop],
        mask[:, :stop],
        start=start,
        prompt_lengths=lengths,
        special_ids=[0],
    )


def _text(rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Activations with many zeros, ids with some special tokens (0), and left padding by row."""
    draw = torch.Generator().manual_seed(seed)
    resid = torch.randn(rows, columns, 8, generator=draw) * 2
    ids = torch.randint(0, 6, (rows, columns), generator=draw)
    pads = torch.randint(0, 3, (rows, 1), generator=draw)
    return resid, ids, torch.arange(columns) >= pads


def _by_hand(resid: Tensor, ids: Tensor, mask: Tensor, lengths: Sequence[int] | None) -> Any:
    """The same decisions by a loop over rows and tokens."""
    z = torch.where(resid > 0.5, resid, 0.0)
    careful, wary = torch.zeros_like(mask), torch.zeros_like(mask)
    for row in range(len(resid)):
        tokens = [t for t in range(resid.shape[1]) if mask[row, t]]
        end = len(tokens) if lengths is None else lengths[row]
        for n, t in enumerate(tokens):
            pain, casual = (z[row, t, 0], z[row, t, 1:3].mean()) if ids[row, t] else (0.0, 0.0)
            careful[row, t] = pain > 1 and not casual > 1
            if lengths is not None and n < end - 1:
                continue
            seen = tokens[: min(n + 1, end)]
            plain = [s for s in seen if ids[row, s] != 0]
            urgent = any(z[row, s, 3] > 2 for s in plain)
            dense = bool(plain) and sum(float(z[row, s, 4]) for s in plain) / len(plain) > 0.4
            ever = any(z[row, s, 6] > 1.5 for s in plain)
            final = bool(z[row, seen[-1], 5] > 1)
            wary[row, t] = (urgent and not final) or (dense and ever)
    return careful, wary


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.booleans(), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_gates_equal_a_loop_by_hand_whole_and_chunked(
    seed: int, known: bool, chunks: list[int]
) -> None:
    sae = _eye_sae()
    resid, ids, mask = _text(3, 9, seed)
    lengths = [4, 6, 5] if known else None
    expected = dict(zip(("careful", "wary"), _by_hand(resid, ids, mask, lengths), strict=True))
    stops = [0, *(sum(chunks[: i + 1]) for i in range(len(chunks)) if sum(chunks[: i + 1]) < 9), 9]
    for bounds in ([0, 9], stops):
        gates = _gates(sae)
        states = {head: gate.new_state() for head, gate in gates.items()}
        for start, stop in pairwise(bounds):
            frame = _frame(ids, mask, lengths, start, stop)
            readings = {SITE: resid[:, start:stop]}
            for head, gate in gates.items():
                got = gate.open(readings, frame, states[head])
                assert torch.equal(got, expected[head][:, start:stop]), (head, start, stop)


def test_a_row_sees_no_other(eye_sae: SAE) -> None:
    resid, ids, mask = _text(6, 8, seed=3)
    lengths = [3, 4, 5, 3, 4, 5]
    gate = _gates(eye_sae)["wary"]
    together = gate.open({SITE: resid}, _frame(ids, mask, lengths), gate.new_state())
    assert 0 < int(together.sum()) < together.numel()
    for row in range(6):
        only = slice(row, row + 1)
        frame = _frame(ids[only], mask[only], lengths[only])
        alone = gate.open({SITE: resid[only]}, frame, gate.new_state())
        assert torch.equal(alone, together[only])


def test_thresholds_gate(eye_sae: SAE) -> None:
    gate = _gates(eye_sae)["careful"]
    resid = torch.zeros(1, 3, 8)
    resid[0, :, 0] = torch.tensor([0.9, 1.0, 1.1])
    frame = _frame(torch.ones(1, 3).long(), torch.ones(1, 3), [3])
    assert gate.open({SITE: resid}, frame, gate.new_state()).tolist() == [[False, False, True]]


def test_forced_concepts_hold_everywhere_or_nowhere_and_are_told_as_given(eye_sae: SAE) -> None:
    resid, ids, mask = _text(2, 5, seed=1)
    frame = _frame(ids, mask, [3, 4])
    for pain, casual in ((True, False), (False, False), (True, True)):
        book = RuleBook.from_dict(BOOK)
        rules = RuleGate.of(book, eye_sae, {"pain": pain, "casual": casual})
        opened = rules.head("careful").open({SITE: resid}, frame, rules.new_state())
        assert torch.equal(opened, mask & (pain and not casual))
    told = str(rules.prove(Evidence.noted(frame.evidence), 1, 4, Atom("careful")))
    assert "not casual does not hold: given" in told
    assert "given" in str(rules.prove(Evidence.noted(frame.evidence), 1, 4, Atom("pain")))
    with pytest.raises(RuleError, match="'pian' can't be forced.*did you mean 'pain'"):
        RuleGate.of(RuleBook.from_dict(BOOK), eye_sae, {"pian": True})


@pytest.mark.parametrize(
    ("force", "strengths"),
    [
        ({}, [0, 1200, None, 700]),
        ({"pain": True}, [1000, 1200, 1000, 1000]),
        ({"pain": False}, [None, None, None, None]),
    ],
)
def test_a_forced_concepts_strength_is_over_its_threshold_or_none(
    eye_sae: SAE, force: dict[str, bool], strengths: list[int | None]
) -> None:
    """By tensors, in proofs, and by clingo told of the strength; the third token is special."""
    rules = "known :- strength(pain,_). sure :- strength(pain,S), S >= 1000. dire(S) :- sure, n(S)."
    rules += " n(X) :- strength(casual,X), not strength(pain,1200). :- pain, not sure."
    concepts = {name: BOOK["concepts"][name] for name in ("pain", "casual")}
    gate = RuleGate.of(RuleBook.from_dict({"concepts": concepts, "rules": rules}), eye_sae, force)
    resid = torch.zeros(1, 4, 8)
    resid[0, :, 0] = torch.tensor([0.2, 1.2, 5.0, 0.7])
    frame = _frame(torch.tensor([[4, 5, 0, 6]]), torch.ones(1, 4), None)
    found = gate.evaluate({SITE: resid}, frame, None)
    for t, strength in enumerate(strengths):
        given = ["strength(casual,0)"] * (t != 2) + ["pain"] * bool(found.facts[0, t, 0])
        given += [] if strength is None else [f"strength(pain,{strength})"]
        held, alarms = answer(gate.program, given)
        for atom, holds in zip(gate.logic.atoms, found.atoms[0, t].tolist(), strict=True):
            proof = gate.prove(found, 0, t, Atom.parse(atom))
            assert proof.holds == holds == (atom in held), (t, atom)
            missed = gate.why_not(found, 0, t, Atom.parse(atom))
            assert (missed is None) == holds
        assert found.alarms[0, t].tolist() == alarms


@pytest.mark.parametrize(
    ("force", "told"),
    [
        ({"pain": 1}, "pain is forced to be 1; expected True or False"),
        ({"pain": "yes"}, "pain is forced to be 'yes'"),
        (["pain"], "expected concepts with True or False for each"),
        ("pain", "expected concepts with True or False for each"),
    ],
)
def test_what_forces_nothing_is_refused(eye_sae: SAE, force: Any, told: str) -> None:
    of = inspect.unwrap(RuleGate.of.__func__)
    with pytest.raises(RuleError, match=told):
        of(RuleGate, RuleBook.from_dict(BOOK), eye_sae, force)


def test_a_rolled_back_column_is_forgotten(eye_sae: SAE) -> None:
    gate = _gates(eye_sae)["wary"]
    ids, mask = torch.ones(1, 6).long(), torch.ones(1, 6)
    loud, quiet = torch.zeros(1, 6, 8), torch.zeros(1, 6, 8)
    loud[0, 3, 3] = 5.0
    state = gate.new_state()
    seen = gate.open({SITE: loud[:, :5]}, _frame(ids, mask, None, 0, 5), state)
    assert seen.tolist() == [[False, False, False, True, True]]
    again = gate.open({SITE: quiet[:, 3:]}, _frame(ids, mask, None, 3, 6), state)
    assert again.tolist() == [[False, False, False]]


def test_state_follows_the_rows_of_a_cache(eye_sae: SAE) -> None:
    gate = _gates(eye_sae)["wary"]
    ids, mask = torch.ones(2, 4).long(), torch.ones(2, 4)
    resid = torch.zeros(2, 4, 8)
    resid[1, 1, 3] = 5.0
    state = gate.new_state()
    gate.open({SITE: resid[:, :3]}, _frame(ids, mask, None, 0, 3), state)
    assert isinstance(state, FollowsRows)
    state.select_rows(torch.tensor([1, 1, 0]))
    ids, mask, rest = torch.ones(3, 4).long(), torch.ones(3, 4), torch.zeros(3, 1, 8)
    got = gate.open({SITE: rest}, _frame(ids, mask, None, 3, 4), state)
    assert got.tolist() == [[True], [True], [False]]


def test_every_head_remembers_whichever_is_asked_first(eye_sae: SAE) -> None:
    gates = _gates(eye_sae)
    states = {head: gate.new_state() for head, gate in gates.items()}
    ids, mask = torch.ones(1, 3).long(), torch.ones(1, 3)
    resid = torch.zeros(1, 3, 8)
    resid[0, 0, 3] = 5.0
    opened = []
    for t, order in enumerate((["careful", "wary"], ["wary", "careful"], ["careful", "wary"])):
        frame, readings = _frame(ids, mask, None, t, t + 1), {SITE: resid[:, t : t + 1]}
        found = {head: gates[head].open(readings, frame, states[head]) for head in order}
        opened.append(found["wary"].item())
    assert opened == [True, True, True]


@pytest.mark.parametrize("rows", [1, 200], ids=["on the host", "by tensors"])
@pytest.mark.parametrize(
    "aggregate",
    [{}, {"aggregate": "so_far"}, {"aggregate": "last_n", "n": 3}, {"aggregate": "prompt"}],
    ids=["token", "so_far", "last_n", "prompt"],
)
def test_a_special_token_alone_makes_no_concept_hold(
    eye_sae: SAE, aggregate: dict[str, Any], rows: int
) -> None:
    raw = {"concepts": {"pain": {"feature": 0, "threshold": 1.0, **aggregate}}}
    gate = RuleGate.of(
        RuleBook.from_dict({**raw, "rules": "act :- pain. calm :- not pain."}), eye_sae
    )
    resid = torch.zeros(rows, 3, 8)
    resid[:, 0, 0] = 9.0
    frame = _frame(torch.tensor([[0, 4, 5]]).expand(rows, 3), torch.ones(rows, 3), None)
    act, calm = (
        gate.head(name).open({SITE: resid}, frame, gate.new_state()) for name in ("act", "calm")
    )
    assert not act.any()
    assert calm.all()
    told = gate.head("act").explain(frame.evidence, 0, 0)
    read = "no token of it read so far" if aggregate else "isn't read at special tokens, such as"
    assert read in told


def test_columns_cached_before_the_plan_came_count_as_unread(eye_sae: SAE) -> None:
    gate = _gates(eye_sae)["wary"]
    ids, mask = torch.ones(1, 5).long(), torch.ones(1, 5)
    resid = torch.zeros(1, 2, 8)
    resid[0, 1, 3] = 5.0
    got = gate.open({SITE: resid}, _frame(ids, mask, None, 3, 5), gate.new_state())
    assert got.tolist() == [[False, True]]


def test_many_heads_cost_one_evaluation(eye_sae: SAE, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    real = RuleGate._evaluate
    monkeypatch.setattr(RuleGate, "_evaluate", lambda *a: (calls.append(a), real(*a))[1])
    resid, ids, mask = _text(2, 4, seed=0)
    frame, readings = _frame(ids, mask, [3, 3]), {SITE: resid}
    gates = _gates(eye_sae)
    for gate in gates.values():
        gate.open(readings, frame, gate.new_state())
    assert len(calls) == 1
    gates["wary"].open({SITE: resid + 1}, frame, gates["wary"].new_state())
    assert len(calls) == 2, "a plan attached over another reads other activations"


def test_gates_that_differ_by_a_threshold_alone_are_evaluated_apart(eye_sae: SAE) -> None:
    concepts = [Concept("c", FeatureReadout((3,)), threshold) for threshold in (0.0, 1e9)]
    readers = tuple(concept_readers(concepts[:1], eye_sae))
    frame, readings = _frame(torch.ones(1, 2).long(), torch.ones(1, 2), None), {SITE: _ones(2)}
    opened = [
        RuleGate(parse("act :- c."), (concept,), readers).head("act").open(readings, frame, None)
        for concept in concepts
    ]
    assert [gate.tolist() for gate in opened] == [[[True, True]], [[False, False]]]


def test_a_book_without_prompt_level_concepts_remembers_nothing(eye_sae: SAE) -> None:
    raw = {"concepts": {"a": {"feature": 1, "threshold": 1}}, "rules": "b :- a."}
    gate = RuleGate.of(RuleBook.from_dict(raw), eye_sae).head("b")
    assert gate.new_state() is None
    assert isinstance(gate, Gate)
    assert isinstance(gate, Explains)


def test_facts_alone_open_a_gate_and_padding_shuts_it() -> None:
    gate = RuleGate.of(RuleBook.from_dict({"rules": "always."}), None).head("always")
    assert gate.sites == ()
    frame = _frame(torch.ones(1, 3).long(), torch.tensor([[0, 1, 1]]), None)
    assert gate.open({}, frame, None).tolist() == [[False, True, True]]


def test_each_score_stands_in_its_concepts_column_wherever_it_is_read(eye_sae: SAE) -> None:
    """Readers take site after site and feature before direction, concepts come as they like."""
    early, late = Site(0, "resid_post"), Site(2, "resid_post")
    resid, ids, mask = _text(2, 5, seed=3)
    readings = {early: resid + 1, SITE: resid, late: resid - 1}
    concepts = (
        Concept("late", ProbeReadout(late, torch.arange(8.0), 0.5), 0.0),
        Concept("alike", CosineReadout(SITE, torch.ones(8)), 0.0),
        Concept("early", ProbeReadout(early, torch.ones(8)), 0.0),
        Concept("feature", FeatureReadout((3,)), 1.0),
    )
    readers = tuple(concept_readers(concepts, eye_sae))
    gate = RuleGate(parse("act :- late, alike, early, feature."), concepts, readers)
    frame = _frame(ids, mask, None)
    found = gate.evaluate(readings, frame, None).scores
    assert frame.special is not None
    assert frame.special.any()
    for column, concept in enumerate(concepts):
        (alone,) = concept_readers([concept], eye_sae)
        own = alone.scores(readings[alone.site])[..., 0]
        own = own.masked_fill(frame.special, float("-inf"))
        torch.testing.assert_close(found[..., column], own)


def test_nothing_is_read_back_from_the_device(
    eye_sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows on the CPU are read, which costs nothing; `meta` stands for any other device."""
    gate = _gates(eye_sae)["wary"]
    resid, ids, mask = (tensor.to("meta") for tensor in _text(2, 5, seed=1))
    frame, state = _frame(ids, mask, [3, 4]), gate.new_state()
    gate.rules._compiled(frame.valid.device)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a tensor was read back")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "nonzero"):
        monkeypatch.setattr(Tensor, name, refuse)
    gate.open({SITE: resid}, frame, state)


def test_explanations_rest_on_scores_that_can_be_recomputed(eye_sae: SAE) -> None:
    resid, ids, mask = _text(3, 9, seed=11)
    lengths = [4, 6, 5]
    gates = _gates(eye_sae)
    frame = _frame(ids, mask, lengths)
    opened = {h: g.open({SITE: resid}, frame, g.new_state()) for h, g in gates.items()}
    latents = eye_sae.encode(resid)
    checked = 0
    for row in range(3):
        first = int(mask[row].int().argmax())
        for index in range(first, 9):
            for head, gate in gates.items():
                found = Evidence.noted(frame.evidence)
                proof = gate.rules.prove(found, row, index, Atom.parse(head))
                assert proof.holds == bool(opened[head][row, index])
                for leaf in proof.leaves():
                    if leaf.aggregate == "mean" or leaf.position < 0 or leaf.score == -math.inf:
                        continue
                    at = first + leaf.position
                    assert leaf.token == f"<{int(ids[row, at])}>"
                    expected = latents[row, at, FEATURES[leaf.concept]].mean()
                    assert leaf.score == pytest.approx(float(expected))
                    checked += 1
    assert checked > 20


def test_an_explanation_names_rule_concepts_scores_and_tokens(eye_sae: SAE) -> None:
    gate = _gates(eye_sae)["careful"]
    resid = torch.zeros(1, 2, 8)
    resid[0, 0, 0] = 3.0
    resid[0, 1, :3] = 3.0
    frame = _frame(torch.tensor([[4, 5]]), torch.ones(1, 2), [2])
    gate.open({SITE: resid}, frame, gate.new_state())
    found = Evidence.noted(frame.evidence)
    evidence = {NOTE: found._replace(decode=lambda ids: f" word{ids[0]}")}
    assert gate.explain(evidence, 0, 0).split("\n") == [
        "careful holds: careful :- pain, not casual.  (line 2)",
        "├─ pain holds: feature 0 scored 3 > 1, token 0 ' word4'",
        "└─ not casual holds: 0.5·feature 1 + 0.5·feature 2 scored 0 <= 1, token 0 ' word4'",
    ]
    assert gate.explain(evidence, 0, 1).split("\n") == [
        "careful does not hold: no rule for it holds",
        "└─ not casual does not hold: 0.5·feature 1 + 0.5·feature 2 scored 3 > 1, token 1 ' word5'",
        "alarm: :- pain, casual.",
    ]


def test_a_prompt_level_conclusion_names_the_token_it_rests_on(eye_sae: SAE) -> None:
    gate = _gates(eye_sae)["wary"]
    resid = torch.zeros(1, 4, 8)
    resid[0, 1, 3] = 5.0
    frame = _frame(torch.tensor([[4, 5, 4, 4]]), torch.ones(1, 4), [3])
    opened = gate.open({SITE: resid}, frame, gate.new_state())
    assert opened.tolist() == [[False, False, True, True]]
    assert "not decided before the prompt's end" in gate.explain(frame.evidence, 0, 1)
    told = gate.explain(frame.evidence, 0, 3)
    assert "urgent holds: feature 3 scored 5 > 2, max of the prompt, token 1 '<5>'" in told
    assert "not final holds: feature 5 scored 0 <= 1, last of the prompt, token 2 '<4>'" in told


@pytest.mark.parametrize("bounds", [[0, 5], [0, 1, 4, 5], [0, 3, 5]])
def test_an_alarm_over_the_prompt_is_raised_from_its_end_on(
    eye_sae: SAE, bounds: list[int]
) -> None:
    concepts = {"urgent": BOOK["concepts"]["urgent"]}
    rules = RuleGate.of(RuleBook.from_dict({"concepts": concepts, "rules": ":- urgent."}), eye_sae)
    resid, state, raised = 5 * _ones(5), rules.new_state(), []
    ids, mask = torch.ones(1, 5).long(), torch.ones(1, 5)
    for start, stop in pairwise(bounds):
        frame = _frame(ids, mask, [3], start, stop)
        found = rules.evaluate({SITE: resid[:, start:stop]}, frame, state)
        raised += found.alarms[0, :, 0].tolist()
    assert raised == [False, False, True, True, True]


def _ones(n: int) -> Tensor:
    return torch.ones(1, n, 8)


def _eye_sae() -> SAE:
    eye, zeros = torch.eye(8), torch.zeros(8)
    return SAE(eye, zeros, eye.clone(), zeros.clone(), torch.full((8,), 0.5), SITE)


@pytest.mark.parametrize("forced", [{}, {"pain": True}, {"pain": False, "casual": True}])
def test_plain_python_and_tensors_conclude_the_same_at_padding_too(
    eye_sae: SAE, forced: dict[str, bool]
) -> None:
    """A few rows on the host take the one way, the same rows among many the other."""
    plain = {n: c for n, c in BOOK["concepts"].items() if "aggregate" not in c}
    rules = "careful :- pain, not casual. mild :- not pain. :- pain, casual."
    gate = RuleGate.of(RuleBook.from_dict({"concepts": plain, "rules": rules}), eye_sae, forced)
    for seed in range(20):
        resid, ids, mask = _text(2, 3, seed)
        few, many = (_frame(i, m, None) for i, m in ((ids, mask), (_tiled(ids), _tiled(mask))))
        host = gate.evaluate({SITE: resid}, few, None)
        tensors = gate.evaluate({SITE: _tiled(resid)}, many, None)
        assert (type(host.concluded), type(tensors.concluded)) == (HostConcluded, Concluded)
        for name in ("scores", "facts", "atoms", "alarms"):
            assert torch.equal(_tiled(getattr(host, name)), getattr(tensors, name)), name
        for column in range(len(gate.logic.atoms)):
            opened = [e.concluded.where(column, f) for e, f in ((host, few), (tensors, many))]
            assert torch.equal(_tiled(opened[0]), opened[1])


def _tiled(tensor: Tensor) -> Tensor:
    return torch.cat([tensor] * 100)
