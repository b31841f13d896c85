"""Time as concepts see it: windows, runs and resets by a loop over tokens, whole and in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saesteer.errors import ConfigError
from saesteer.features.concepts import Concept, FeatureReadout
from saesteer.models import Model
from saesteer.models.sites import Site
from saesteer.rules import RuleBook
from saesteer.rules.evidence import Evidence
from saesteer.rules.gate import RuleGate
from saesteer.rules.terms import Atom
from saesteer.saes.sae import SAE
from saesteer.steer.frame import Frame
from saesteer.steer.gate import FollowsRows

SITE = Site(1, "resid_post")
NOTHING = float("-inf")
BOOK: dict[str, Any] = {
    "concepts": {
        "left": {"feature": 0, "threshold": 1.5},
        "ever": {"feature": 1, "threshold": 2.0, "aggregate": "so_far"},
        "lately": {"feature": 2, "threshold": 1.0, "aggregate": "last_n", "n": 3},
        "steadily": {"feature": 3, "threshold": 0.2, "aggregate": "for_n", "n": 2},
        "after": {"feature": 4, "threshold": 1.0, "aggregate": "since", "of": "left"},
    },
    "rules": "act :- lately, not steadily. act :- after. act :- ever, steadily.",
}


def _eye() -> SAE:
    eye, zeros = torch.eye(8), torch.zeros(8)
    return SAE(eye, zeros, eye.clone(), zeros.clone(), torch.full((8,), 0.1), SITE)


def _by_hand(z: torch.Tensor, ids: Sequence[int]) -> list[dict[str, float]]:
    """Every concept's score at each of one row's tokens."""
    out: list[dict[str, float]] = []
    for t in range(len(ids)):
        own = [[float(z[s, f]) if ids[s] else NOTHING for f in range(5)] for s in range(t + 1)]
        resets = [s for s in range(t + 1) if ids[s] and z[s, 0] > 1.5]
        run = [row[3] for row in own[-2:]]
        out.append(
            {
                "ever": max(row[1] for row in own),
                "lately": max(row[2] for row in own[-3:]),
                "steadily": min(run) if len(run) == 2 else NOTHING,
                "after": max((row[4] for row in own[resets[-1] :]), default=0)
                if resets
                else NOTHING,
            }
        )
    return out


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_scores_equal_a_loop_by_hand_whole_and_in_chunks(seed: int, chunks: list[int]) -> None:
    draw = torch.Generator().manual_seed(seed)
    resid = torch.randn(3, 10, 8, generator=draw) * 2
    ids = torch.randint(0, 6, (3, 10), generator=draw)
    mask = torch.arange(10) >= torch.tensor([[0], [2], [1]])
    z = torch.where(resid > 0.1, resid, 0.0)
    sums = [sum(chunks[: i + 1]) for i in range(len(chunks))]
    for bounds in ([0, 10], [0, *(s for s in sums if s < 10), 10]):
        gate = RuleGate.of(RuleBook.from_dict(BOOK), _eye())
        head, state = gate.head("act"), gate.new_state()
        names = [concept.name for concept in gate.concepts]
        for start, stop in pairwise(bounds):
            frame = Frame.of(
                ids[:, start:stop], mask[:, :stop], start=start, prompt_lengths=[4, 4, 4],
                special_ids=[0],
            )  # fmt: skip
            opened = head.open({SITE: resid[:, start:stop]}, frame, state)
            for row, pad in enumerate((0, 2, 1)):
                expected = _by_hand(z[row, pad:], ids[row, pad:].tolist())
                for t in range(max(start, pad), stop):
                    want = expected[t - pad]
                    found = Evidence.noted(frame.evidence).scores[row, t - start].tolist()
                    for name, score in want.items():
                        assert found[names.index(name)] == pytest.approx(score, abs=1e-5), name
                        at = int(
                            Evidence.noted(frame.evidence).scored.position[
                                row, t - start, names.index(name)
                            ]
                        )
                        if score > NOTHING:
                            feature = names.index(name)
                            assert float(z[row, pad + at, feature]) == pytest.approx(score)
                    lately, steadily = want["lately"] > 1, want["steadily"] > 0.2
                    act = (lately and not steadily) or want["after"] > 1
                    act = act or (want["ever"] > 2 and steadily)
                    assert bool(opened[row, t - start]) == act


@pytest.mark.parametrize("bounds", [[0, 5], [0, 2, 3, 5]])
def test_a_forced_concept_resets_everywhere_or_nowhere(bounds: list[int]) -> None:
    resid = torch.zeros(1, 5, 8)
    resid[0, :, 4] = torch.tensor([2.0, 0.0, 3.0, 0.5, 0.0])
    resid[0, 1, 0] = 9.0
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    expected = {
        None: [NOTHING, 0.0, 3.0, 3.0, 3.0],
        True: [2.0, 0.0, 3.0, 0.5, 0.0],
        False: [NOTHING] * 5,
    }
    for said, scores in expected.items():
        force = {} if said is None else {"left": said}
        gate = RuleGate.of(RuleBook.from_dict(BOOK), _eye(), force)
        state, column, found = gate.new_state(), 4, []
        for start, stop in pairwise(bounds):
            frame = Frame.of(ids[:, start:stop], torch.ones(1, stop), start=start)
            evidence = gate.evaluate({SITE: resid[:, start:stop]}, frame, state)
            found += evidence.scores[0, :, column].tolist()
        assert found == scores, said


def test_state_follows_rows_and_forgets_rolled_back_columns() -> None:
    gate = RuleGate.of(RuleBook.from_dict(BOOK | {"rules": "act :- ever."}), _eye())
    head, state = gate.head("act"), gate.new_state()
    resid = torch.zeros(2, 5, 8)
    resid[1, 1, 1] = resid[0, 2, 1] = 5.0
    ids, mask = torch.ones(2, 5).long(), torch.ones(2, 5)

    def step(start: int, stop: int, read: torch.Tensor) -> list[list[bool]]:
        rows = len(read)
        frame = Frame.of(
            ids[:1, start:stop].expand(rows, -1), mask[:1, :stop].expand(rows, -1), start=start
        )
        return head.open({SITE: read}, frame, state).tolist()

    assert step(0, 3, resid[:, :3]) == [[False, False, True], [False, True, True]]
    assert step(2, 4, torch.zeros(2, 2, 8)) == [[False, False], [True, True]]
    assert isinstance(state, FollowsRows)
    state.select_rows(torch.tensor([1, 0, 1]))
    assert step(4, 5, torch.zeros(3, 1, 8)) == [[True], [False], [True]]


def test_an_explanation_says_over_which_tokens() -> None:
    gate = RuleGate.of(RuleBook.from_dict(BOOK), _eye())
    head = gate.head("act")
    resid = torch.zeros(1, 4, 8)
    resid[0, 1, 2] = 3.0
    resid[0, 3, 0], resid[0, 3, 4] = 2.0, 1.5
    frame = Frame.of(torch.tensor([[4, 5, 4, 4]]), torch.ones(1, 4))
    assert head.open({SITE: resid}, frame, gate.new_state()).tolist() == [[False, True, True, True]]
    told = str(gate.prove(Evidence.noted(frame.evidence), 0, 2, Atom("act")))
    assert "lately holds: feature 2 scored 3 > 1, within the last 3 tokens, token 1 '<5>'" in told
    assert "after does not hold: feature 4, since left: no token" in str(
        gate.prove(Evidence.noted(frame.evidence), 0, 2, Atom("after"))
    )
    assert "scored 1.5 > 1, since left, token 3" in str(
        gate.prove(Evidence.noted(frame.evidence), 0, 3, Atom("after"))
    )


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        ({"aggregate": "last_n"}, "concepts.x.n is missing"),
        ({"aggregate": "for_n", "n": 0}, "concepts.x.n is 0, expected a whole number, 1 or more"),
        ({"aggregate": "since"}, "concepts.x.of is missing"),
        ({"aggregate": "since", "of": "lfet"}, "did you mean 'left'"),
        ({"aggregate": "since", "of": "ever"}, "expected a concept with aggregate token"),
        ({"aggregate": "so_far", "n": 3}, "concepts.x.n is no known key"),
        ({"aggregate": "so_far", "over": "max"}, "aggregate must be prompt"),
    ],
)
def test_times_that_mean_nothing(concept: dict[str, Any], message: str) -> None:
    raw = {"concepts": {**BOOK["concepts"], "x": {"feature": 5, "threshold": 1, **concept}}}
    with pytest.raises(ConfigError) as caught:
        RuleBook.from_dict(raw | {"rules": "act :- x."})
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match="of names a concept for since alone"):
        Concept("x", FeatureReadout((1,)), 1.0, "since")


def test_generation_is_the_same_with_and_without_cache_in_beams_and_alone(
    tiny_model: Callable[..., Model], tiny_sae: Callable[..., SAE]
) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    concepts = {
        name: {**concept, "feature": 3 * i, "threshold": 0.0}
        for i, (name, concept) in enumerate(BOOK["concepts"].items())
    }
    acts = {"act": {"add": 7, "amount": 40.0}}
    plan = RuleBook.from_dict({**BOOK, "concepts": concepts, "acts": acts}).plan(sae)
    prompts = ["the rain in the town", "the sea", "and the sun in the sea and the rain"]
    plain = model.generate(prompts, max_new_tokens=8)

    def say(texts: list[str], **options: Any) -> list[str]:
        with plan.on(model):
            return model.generate(texts, max_new_tokens=8, **options)

    together = say(prompts)
    assert together != plain
    assert say(prompts, use_cache=False) == together
    assert [say([prompt])[0] for prompt in prompts] == together
    assert say(prompts, prefill_chunk_size=2) == together
    beams = say(prompts, num_beams=3)
    assert say(prompts, num_beams=3, use_cache=False) == beams
