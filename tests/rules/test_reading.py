"""A text read by a rule book: tokens, atoms, alarms and proofs that can be recomputed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import pytest
import torch

from saesteer.errors import DataError, RuleError
from saesteer.models import Model, record
from saesteer.rules import RuleBook, RuleReading
from saesteer.saes import SAE

TEXT = "the rain in the town and the sea"


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def sae(model: Model, tiny_sae: Callable[..., SAE]) -> SAE:
    return tiny_sae(model, "resid_post.1")


@pytest.fixture(scope="module")
def latents(model: Model, sae: SAE) -> torch.Tensor:
    """All latents of TEXT, `[pos, d_sae]`."""
    batch = model.tokenize(TEXT)
    return sae.encode(record(model, batch, [sae.site])[sae.site])[0]


@pytest.fixture(scope="module")
def mixed(latents: torch.Tensor) -> list[int]:
    """Features that fire on some tokens of TEXT and not on others."""
    firing = (latents > 0).sum(0)
    found = ((firing > 1) & (firing < len(latents) - 1)).nonzero().flatten().tolist()
    assert len(found) >= 3
    return found


def _read(model: Model, sae: SAE, mixed: list[int]) -> RuleReading:
    raw = {
        "concepts": {
            "a": {"feature": mixed[0], "threshold": 0},
            "b": {"feature": mixed[1], "threshold": 0},
            "seen": {"feature": mixed[2], "threshold": 0, "aggregate": "prompt"},
        },
        "rules": "only :- a, not b.\nboth :- a, b.\n:- both.\nlate :- seen.",
    }
    return RuleBook.from_dict(raw).evaluate(model, sae, TEXT)


def test_atoms_hold_exactly_where_the_full_encoder_says(
    model: Model, sae: SAE, latents: torch.Tensor, mixed: list[int]
) -> None:
    reading = _read(model, sae, mixed)
    a, b = latents[:, mixed[0]] > 0, latents[:, mixed[1]] > 0
    where = {name: set(mask.nonzero().flatten().tolist()) for name, mask in (("a", a), ("b", b))}
    assert "".join(reading.tokens).replace(" ", "") == TEXT.replace(" ", "")
    assert set(reading.holds["a"]) == where["a"]
    assert set(reading.holds["only"]) == where["a"] - where["b"]
    assert set(reading.holds["both"]) == where["a"] & where["b"]
    assert set(reading.alarms.get(":- both.", ())) == where["a"] & where["b"]
    assert reading.holds["late"] == (len(latents) - 1,)


def test_every_leaf_of_every_proof_is_a_score_of_the_full_encoder(
    model: Model, sae: SAE, latents: torch.Tensor, mixed: list[int]
) -> None:
    reading = _read(model, sae, mixed)
    column: dict[str, int] = dict(zip(("a", "b", "seen"), mixed, strict=False))
    leaves = [leaf for _, proof in reading.proofs() for leaf in proof.leaves()]
    assert leaves
    for leaf in leaves:
        own = latents[leaf.position, column[leaf.concept]]
        assert leaf.score == pytest.approx(float(own), abs=1e-5)
        assert leaf.token == reading.tokens[leaf.position]
    assert all(proof.holds for _, proof in reading.proofs())


TIMES: dict[str, dict[str, Any]] = {
    "ever": {"aggregate": "so_far"},
    "lately": {"aggregate": "last_n", "n": 3},
    "steadily": {"aggregate": "for_n", "n": 2},
    "after": {"aggregate": "since", "of": "a"},
}


def _read_over_time(model: Model, sae: SAE, columns: Mapping[str, int]) -> RuleReading:
    concepts = {
        name: {"feature": column, "threshold": 0.05, **TIMES.get(name, {})}
        for name, column in columns.items()
    }
    rules = "one :- ever, not lately.\ntwo :- steadily, not after.\nthree :- after, lately, ever."
    return RuleBook.from_dict({"concepts": concepts, "rules": rules}).evaluate(model, sae, TEXT)


def _over_time(name: str, latents: torch.Tensor, columns: Mapping[str, int], t: int) -> float:
    """A concept's score at token t, taken over the tokens that its aggregate names."""
    own = latents[: t + 1, columns[name]]
    starts = [s for s in range(t + 1) if latents[s, columns["a"]] > 0.05]
    match name:
        case "ever":
            seen = own
        case "lately":
            seen = own[-3:]
        case "steadily":
            return float(own[-2:].min()) if t else -math.inf
        case "after":
            seen = own[starts[-1] :] if starts else own[:0]
        case _:
            seen = own[-1:]
    return float(seen.max()) if len(seen) else -math.inf


def test_every_leaf_over_time_is_a_score_of_recorded_activations(
    model: Model, sae: SAE, latents: torch.Tensor, mixed: list[int]
) -> None:
    checked: Counter[tuple[str, bool]] = Counter()
    for turn in range(len(mixed)):
        features = [mixed[(turn + i) % len(mixed)] for i in range(5)]
        columns = dict(zip(("a", *TIMES), features, strict=True))
        reading = _read_over_time(model, sae, columns)
        for atom, t in product(("one", "two", "three", *columns), range(len(latents))):
            for leaf in reading.proof(atom, t).leaves():
                expected = _over_time(leaf.concept, latents, columns, t)
                assert leaf.score == pytest.approx(expected, abs=1e-5), (leaf, t)
                checked[leaf.concept, leaf.score > leaf.threshold] += 1
                if math.isfinite(expected):
                    assert leaf.token == reading.tokens[leaf.position]
                    rests_on = latents[leaf.position, columns[leaf.concept]]
                    assert float(rests_on) == pytest.approx(expected, abs=1e-5), (leaf, t)
                    assert leaf.position <= t
    assert all(checked[name, holds] for name in ("a", *TIMES) for holds in (True, False))


def test_a_reading_prints_and_is_json(model: Model, sae: SAE, mixed: list[int]) -> None:
    reading = _read(model, sae, mixed)
    told = json.loads(json.dumps(reading.as_dict(), allow_nan=False))
    assert told["holds"] == {atom: list(at) for atom, at in reading.holds.items()}
    assert len(told["scores"]["a"]) == len(told["tokens"]) == len(reading.tokens)
    tree = f"only holds: only :- a, not b.  (line 1)\n├─ a holds: feature {mixed[0]}"
    assert tree in str(reading)
    assert not reading.proof("only", reading.holds["b"][0]).holds


def test_what_cannot_be_read(model: Model, sae: SAE, mixed: list[int]) -> None:
    with pytest.raises(DataError, match="without tokens"):
        RuleBook.from_dict({"rules": "a."}).evaluate(model, sae, "")
    with pytest.raises(RuleError, match="'zzz' is no atom of these rules"):
        _read(model, sae, mixed).proof("zzz")
    reading = _read(model, sae, mixed)
    n = len(reading.tokens)
    for ask in (reading.proof, reading.why_not):
        for index in (99, n, -n - 1):
            with pytest.raises(RuleError, match=f"no token {index}; .* has {n}, 0 to"):
                ask("only", index)
        assert ask("only", -n) == ask("only", 0)


def test_a_book_without_concepts_needs_no_sae(model: Model) -> None:
    reading = RuleBook.from_dict({"rules": "a."}).evaluate(model, None, "the sea")
    assert reading.holds == {"a": tuple(range(len(reading.tokens)))}
