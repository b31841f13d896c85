"""The rule engine: 1,000 rules over 256 concepts on 64 rows, against a Python loop and clingo.

All three work on the same seeded programs and facts, and must agree on every atom. The loop is one
pass in order of evaluation over lists of column numbers; clingo is grounded once a program, with
the concepts as externals, and solves once a row.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clingo
import torch
from timing import Progress, interleave, ratios, spread

from saesteer.rules.compile import BooleanProgram, compile_program
from saesteer.rules.stratify import stratify
from saesteer.rules.syntax import Atom, Program, parse

sys.path.insert(0, str(Path(__file__).parents[1] / "rules"))
from random_programs import layered

N_CONCEPTS, N_ROWS = 256, 64
CLINGO_ROWS = 8
"""Rows that clingo solves in each round; its time is given per row."""
GROWTH = (250, 500, 1000, 2000, 4000, 8000)


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Milliseconds a token, ratios to both rivals, growth in rules, and the cost in decoding."""
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        return _measured(args, progress)
    finally:
        torch.set_num_threads(before)


def _measured(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    cases = [Case(seed) for seed in range(3)]
    for case in cases:
        case.check()
    seconds: dict[str, list[float]] = {"saesteer": [], "python": [], "clingo": []}
    for turn, case in enumerate(cases):
        for name, values in case.time(args.rounds, progress).items():
            seconds[name] += values
        progress(turn + 1, len(cases), f"program {turn}")
    per_row = [s / CLINGO_ROWS for s in seconds["clingo"]]
    result = {
        "ms": _ms(seconds["saesteer"]),
        "python_ms": _ms(seconds["python"]),
        "clingo_ms_per_row": _ms(per_row),
        "ratio_python": ratios(seconds["python"], seconds["saesteer"]),
        "ratio_clingo": ratios([s * N_ROWS for s in per_row], seconds["saesteer"]),
        "equal_on_every_atom": True,
        "growth": growth(args.rounds, progress),
        "setting": {
            "rules": 1000,
            "concepts": N_CONCEPTS,
            "rows": N_ROWS,
            "depth": 5,
            "threads": args.threads,
            "torch": torch.__version__,
        },
    }
    if args.steps:
        import rules_decoding

        result["decoding"] = rules_decoding.run(args.steps, progress)
    return result


class Case:
    """One seeded program, its facts, and the three engines."""

    def __init__(self, seed: int, n_rules: int = 1000) -> None:
        self.program = parse(layered(seed, n_rules, N_CONCEPTS))
        concepts = [Atom(f"c{i}") for i in range(N_CONCEPTS)]
        self.logic = compile_program(self.program, concepts)
        draw = torch.Generator().manual_seed(seed)
        self.mask = torch.zeros(N_ROWS, 1, len(self.logic.atoms), dtype=torch.bool)
        self.mask[..., :N_CONCEPTS] = torch.rand(N_ROWS, 1, N_CONCEPTS, generator=draw) < 0.4
        self.rows: list[list[bool]] = self.mask[:, 0].tolist()
        self.loop = _loop(self.program, self.logic)
        self.control = _grounded(self.program)

    def check(self) -> None:
        """All three agree on every atom of every row.

        Raises:
            AssertionError: they do not, so that no time is worth reporting.
        """
        closed = self.logic.run(self.mask)[:, 0].tolist()
        assert [self.loop(row) for row in self.rows] == closed
        for row, held in zip(self.rows, closed, strict=True):
            names = {a for a, up in zip(self.logic.atoms, held, strict=True) if up}
            assert self.solve(row) == names

    def time(self, rounds: int, progress: Progress) -> dict[str, list[float]]:
        """Seconds of each engine in each round; ours is the median of 20 runs of a round."""
        slow = {
            "python": lambda: [self.loop(row) for row in self.rows],
            "clingo": lambda: [self.solve(row, named=False) for row in self.rows[:CLINGO_ROWS]],
        }
        ours: list[float] = []
        slow["saesteer"] = lambda: ours.append(_median(lambda: self.logic.run(self.mask)))
        seconds = interleave(slow, rounds, progress)
        return seconds | {"saesteer": ours[1:]}

    def solve(self, row: list[bool], *, named: bool = True) -> set[str]:
        """clingo's only answer set for one row."""
        for i in range(N_CONCEPTS):
            self.control.assign_external(clingo.Function(f"c{i}"), row[i])
        found: set[str] = set()
        with self.control.solve(yield_=True) as handle:
            for model in handle:
                if named:
                    found = {str(symbol) for symbol in model.symbols(atoms=True)}
        return found


def growth(rounds: int, progress: Progress) -> list[dict[str, Any]]:
    """Milliseconds at several numbers of rules; linear growth doubles them from line to line."""
    cases = {n: Case(0, n) for n in GROWTH}
    values: dict[int, list[float]] = {n: [] for n in GROWTH}
    for turn in range(rounds):
        for n, case in cases.items():
            values[n].append(_median(lambda case=case: case.logic.run(case.mask), 10))
        progress(turn + 1, rounds, "growth")
    return [{"rules": n, "ms": _ms(values[n])} for n in GROWTH]


def _median(call: Callable[[], Any], n: int = 20) -> float:
    taken = []
    for _ in range(n):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _ms(seconds: list[float]) -> dict[str, float]:
    return spread([1000 * s for s in seconds])


def _loop(program: Program, logic: BooleanProgram) -> Callable[[list[bool]], list[bool]]:
    """One pass over the rules in order of evaluation; a head that holds already is passed over."""
    column = {name: i for i, name in enumerate(logic.atoms)}
    bodies: dict[int, list[tuple[list[int], list[int]]]] = {}
    for stratum in stratify(program):
        assert stratum.passes == 1
        for rule in stratum.rules:
            wanted = [column[str(b.atom)] for b in rule.body if not b.negated]
            absent = [column[str(b.atom)] for b in rule.body if b.negated]
            bodies.setdefault(column[str(rule.head)], []).append((wanted, absent))
    ordered = list(bodies.items())

    def close(row: list[bool]) -> list[bool]:
        held = row.copy()
        for head, alternatives in ordered:
            if held[head]:
                continue
            for wanted, absent in alternatives:
                for i in wanted:
                    if not held[i]:
                        break
                else:
                    for i in absent:
                        if held[i]:
                            break
                    else:
                        held[head] = True
                        break
        return held

    return close


def _grounded(program: Program) -> clingo.Control:
    control = clingo.Control(logger=lambda *_: None)
    externals = "".join(f"#external c{i}.\n" for i in range(N_CONCEPTS))
    control.add("base", [], externals + str(program))
    control.ground([("base", [])])
    return control
