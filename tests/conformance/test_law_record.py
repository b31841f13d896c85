"""What `saesteer methods list` says of laws is what the laws are."""

from __future__ import annotations

import test_method_laws
from law_record import law_of, method_of, unreachable
from laws import ARCHES
from method_cases import CASES

from saesteer.evals.assets import laws
from saesteer.methods.named import METHODS

WITHOUT = {"Prompting"}
"""Edits no activation, so there is nothing that decoding could disagree about."""


def test_every_method_has_its_laws_on_record() -> None:
    assert set(laws()) == {method_of(name) for name in CASES} == set(METHODS) - WITHOUT


def test_every_law_on_record_is_tested_and_the_other_way_round() -> None:
    tests = {law_of(name) for name in vars(test_method_laws) if name.startswith("test_")}
    assert {law for one in laws().values() for law in one["passed"]} == tests


def test_no_method_is_known_to_break_a_law() -> None:
    assert not any(one["failed"] for one in laws().values())


def test_what_a_method_is_not_tried_on_has_a_reason() -> None:
    for name, one in laws().items():
        assert one["left_out"] == unreachable().get(name, {})
        assert {*one["architectures"], *one["left_out"]} == set(ARCHES)
