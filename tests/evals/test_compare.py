"""The whole comparison on a tiny random model: its order, its controls, its arithmetic."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import saesteer.methods as methods
from saesteer.data.contrast import Contrast
from saesteer.errors import DimensionError, SiteError, TaskError
from saesteer.evals import compare as compare_task
from saesteer.evals.entries import check_methods, control_entries, fit_entries
from saesteer.evals.report import join_results, write_report
from saesteer.evals.results import Report
from saesteer.evals.scorers import LexiconRate
from saesteer.evals.tasks import Task
from saesteer.models import Model, Site
from saesteer.saes.sae import SAE
from saesteer.steer import Plan, add_scaled

SMALL: dict[str, Any] = {"doses": (0.2, 0.6), "max_new_tokens": 6, "seeds": (0, 1)}


@pytest.fixture(scope="module")
def vowels() -> Task:
    """Score letters, which even a random model writes."""
    contrast = Contrast.from_texts(
        [f"aaa eee {i} aaa" for i in range(10)], [f"zzz xxx {i} zzz" for i in range(10)], name="toy"
    )
    prompts = {
        "validation": ("one day", "so it", "we saw"),
        "test": ("at last", "then the old", "x"),
    }
    letters = tuple("abcdefghijklm")
    return Task("vowels", contrast, prompts, LexiconRate(letters, tuple("nopqrstuvwxyz")))


@pytest.fixture(scope="module")
def report(
    tiny_model: Callable[[str], Model], tiny_sae: Callable[..., SAE], vowels: Task
) -> Report:
    """A comparison of all kinds of methods, with every control."""
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    given = [methods.FeatureSteering(sae, n_candidates=2), methods.CAA(), methods.ActAdd("a", "z")]
    return compare_task(model, vowels, given, **SMALL)


def test_every_method_and_every_control_is_there(report: Report) -> None:
    assert [row["method"] for row in report.compare] == [
        "unsteered", "feature", "CAA", "ActAdd", "prompting", "random direction", "random feature",
    ]  # fmt: skip
    assert {row["method"] for row in report.curves} == {r["method"] for r in report.compare[1:]}
    held = {(row["method"], row["against"]) for row in report.equal_kl}
    assert {(m, "random direction") for m in ("feature", "CAA", "ActAdd", "prompting")} < held
    assert ("feature", "CAA") in held
    assert ("CAA", "feature") not in held


def test_the_unsteered_model_does_not_move(report: Report) -> None:
    row = report.compare[0]
    assert (row["effect"], row["kl"], row["strength"], row["relative_dose"]) == (0, 0, 0, 0)
    assert row["effect_ci"] == [0, 0]
    assert row["anti_steered"] == 0


def test_effects_are_differences_of_scores(report: Report) -> None:
    base = report.compare[0]["score"]
    for row in report.compare:
        assert row["effect"] == pytest.approx(row["score"] - base)
        assert row["effect_ci"][0] <= row["effect"] + 1e-9
        assert row["effect"] - 1e-9 <= row["effect_ci"][1]


def test_steering_costs_something_and_more_of_it_costs_more(report: Report) -> None:
    for curve in report.curves:
        kls = [point["kl"] for point in curve["points"]]
        assert min(kls) > 0
        if curve["swept"] and curve["method"] != "ActAdd":
            assert kls == sorted(kls)


def test_doses_come_out_as_asked_for(report: Report) -> None:
    """Every method is calibrated to one grid, whatever the norm of its vector."""
    for curve in report.curves:
        if curve["method"] == "prompting":
            assert curve["points"][0]["relative_dose"] == 0
        elif curve["method"] == "feature":
            found = [point["relative_dose"] for point in curve["points"][:2]]
            assert found == pytest.approx([0.2, 0.6], rel=1e-3)
        else:
            found = [point["relative_dose"] for point in curve["points"][:2]]
            assert found == pytest.approx([0.2, 0.6], rel=0.35)


def test_the_table_holds_the_strength_chosen_on_validation(report: Report) -> None:
    for row in report.compare[1:]:
        curve = next(c for c in report.curves if c["method"] == row["method"])
        point = next(p for p in curve["points"] if p["strength"] == row["strength"])
        assert (row["effect"], row["kl"]) == (point["effect"], point["kl"])
        held = [e for e in report.equal_kl if e["method"] == row["method"]]
        if curve["swept"] and held:
            assert held[0]["kl"] == row["validation_kl"]


def test_samples_hold_every_methods_text(report: Report) -> None:
    assert [s["prompt"] for s in report.samples] == ["at last", "then the old", "x"]
    names = {row["method"] for row in report.compare} - {"unsteered"}
    assert all(set(sample["texts"]) == names for sample in report.samples)


def test_a_report_is_plain_and_prints(report: Report, tmp_path: Path) -> None:
    results = report.to_dict()
    assert json.loads(json.dumps(results)) == results
    assert {"model", "task", "compare", "curves", "samples", "equal_kl"} <= set(results)
    page = write_report(results, tmp_path).read_text()
    assert "Vowels" in page
    assert "random direction" in page


def test_the_same_call_gives_the_same_numbers(
    tiny_model: Callable[[str], Model], vowels: Task
) -> None:
    runs = [
        compare_task(tiny_model("llama"), vowels, [methods.CAA()], **SMALL).to_dict()
        for _ in range(2)
    ]
    for run in runs:
        run["seconds"] = 0
        for row in run["compare"]:
            row["seconds_per_token"] = 0
    assert runs[0] == runs[1]


def test_ready_plans_take_part_under_names_of_their_own(
    tiny_model: Callable[[str], Model], vowels: Task
) -> None:
    model = tiny_model("llama")
    vector = methods.CAA().fit(model, vowels.contrast, "resid_post.2").edits[0].intervention.vector
    plan = Plan(add_scaled("resid_post.2", vector / vector.norm()), name="mine")
    found = compare_task(model, vowels, [plan, plan, methods.CAA()], controls=False, **SMALL)
    assert [row["method"] for row in found.compare] == ["unsteered", "mine", "mine (2)", "CAA"]
    assert found.compare[1]["effect"] == found.compare[2]["effect"]
    assert found.settings["sites"] == ["resid_post.2"], "CAA acts where the first plan does"


def test_no_two_entries_have_one_name(tiny_model: Callable[[str], Model], vowels: Task) -> None:
    model = tiny_model("llama")
    asking = methods.Prompting("be a")
    vector = add_scaled("resid_post.2", torch.ones(model.d_model))
    plans = [Plan(vector, name=name) for name in ("mine", "mine", "mine (2)", "unsteered")]
    given = [asking.fit(model, vowels.contrast), *plans]
    entries = fit_entries(model, vowels.contrast, given, None, print)
    controls = control_entries(model, vowels, entries, None, None, (0,), print)
    names = [entry.name for entry in (*entries, *controls)]
    assert len(set(names)) == len(names)
    assert names[:3] == ["prompting (2)", "mine", "mine (2)"]
    assert "prompting" in names
    asked = fit_entries(model, vowels.contrast, [asking], None, print)
    assert [entry.name for entry in asked] == ["prompting"]


def test_strength_of_a_ready_plan_does_not_matter(
    tiny_model: Callable[[str], Model], vowels: Task
) -> None:
    model = tiny_model("llama")
    plan = methods.CAA().fit(model, vowels.contrast)
    found = compare_task(model, vowels, [plan, plan * 7], controls=False, **SMALL)
    assert found.compare[1]["kl"] == found.compare[2]["kl"]
    assert found.compare[1]["strength"] == found.compare[2]["strength"]


def test_a_chat_task_runs(tiny_model: Callable[[str], Model], vowels: Task) -> None:
    chat = Task("talk", vowels.contrast, vowels.prompts, vowels.scorer, chat=True)
    found = compare_task(tiny_model("llama"), chat, [methods.CAA()], **SMALL)
    assert found.compare[1]["kl"] > 0


def test_progress_ends_where_it_said(tiny_model: Callable[[str], Model], vowels: Task) -> None:
    seen: list[tuple[int, int, str]] = []
    compare_task(
        tiny_model("llama"), vowels, [methods.CAA()],
        progress=lambda *step: seen.append(step), **SMALL,
    )  # fmt: skip
    assert [done for done, _, _ in seen[:-1]] == list(range(1, len(seen)))
    assert all(done <= total for done, total, _ in seen)
    assert seen[-1] == (len(seen) - 1, len(seen) - 1, "done")


def test_a_tracker_gets_table_and_figures(tiny_model: Callable[[str], Model], vowels: Task) -> None:
    class Kept:
        def __init__(self) -> None:
            self.tables: dict[str, Any] = {}
            self.figures: dict[str, float] = {}

        def log(self, step: int, figures: Any) -> None:
            self.figures.update(figures)

        def table(self, name: str, rows: Any) -> None:
            self.tables[name] = rows

        def artifact(self, name: str, folder: Any, lineage: Any, kind: str = "sae") -> None:
            raise AssertionError("a comparison makes no SAE")

        def finish(self, *, failed: bool = False) -> None:
            raise AssertionError("the tracker belongs to the caller")

    kept = Kept()
    found = compare_task(
        tiny_model("llama"), vowels, [methods.CAA()], controls=False, tracker=kept, **SMALL
    )
    assert [row["method"] for row in kept.tables["compare/vowels"]] == ["unsteered", "CAA"]
    assert kept.figures["compare/vowels/CAA/effect"] == found.compare[1]["effect"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "not a list with at least one"),
        ([methods.CAA], r"methods\[0\] is CAA; .* write CAA\(\)"),
        ([methods.CAA(), "CAA"], r"methods\[1\] is 'CAA'; expected a method or a ready Plan"),
    ],
)
def test_what_cannot_be_compared_is_refused(given: list[Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        check_methods(given)


@pytest.mark.parametrize("doses", [(), (0.0, 0.1), (-0.1,)])
def test_a_grid_without_strengths_is_refused(
    tiny_model: Callable[[str], Model], vowels: Task, doses: tuple[float, ...]
) -> None:
    with pytest.raises(TaskError, match="doses are"):
        compare_task(tiny_model("llama"), vowels, [methods.CAA()], doses=doses)


def test_hooks_are_gone_afterwards(tiny_model: Callable[[str], Model], vowels: Task) -> None:
    model = tiny_model("llama")

    def hooks() -> list[int]:  # transformers leaves some of its own where it was asked for states
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.hf.modules()]

    before, hooked = model.generate("one day", max_new_tokens=4), hooks()
    compare_task(model, vowels, [methods.CAA()], **SMALL)
    assert model.generate("one day", max_new_tokens=4) == before
    assert hooks() == hooked
    assert model.prompt_edits == []


def test_features_of_two_places_are_compared_and_a_site_that_one_can_t_take_is_refused(
    tiny_model: Callable[[str], Model], tiny_sae: Any, vowels: Task
) -> None:
    model = tiny_model("llama")
    pair = [methods.FeatureSteering(tiny_sae(model, f"resid_post.{i}"), feature=3) for i in (1, 2)]
    found = compare_task(model, vowels, [*pair, methods.CAA()], controls=False, **SMALL)
    assert found.settings["sites"] == ["resid_post.1", "resid_post.2"], "CAA goes with the first"
    with pytest.raises(SiteError, match="site is resid_post.2, but SAE .* is of resid_post.1"):
        compare_task(model, vowels, pair, controls=False, site="resid_post.2", **SMALL)
    dense = compare_task(model, vowels, [methods.CAA()], sae=pair[0].sae, site="mlp_out.2", **SMALL)
    assert dense.settings["sites"] == ["mlp_out.2", "resid_post.1"], "the control is the SAE's own"


def test_a_budget_that_is_none_and_an_sae_of_another_width_are_refused_before_any_fit(
    tiny_model: Callable[[str], Model], tiny_sae: Callable[..., SAE], vowels: Task
) -> None:
    model, told = tiny_model("llama"), list[str]()
    wide = replace(tiny_sae(model, "neurons.1"), site=Site.parse("resid_post.1"))

    def tell(_done: int, _total: int, what: str) -> None:
        told.append(what)

    with pytest.raises(TaskError, match="kl_budget is nan"):
        compare_task(model, vowels, [methods.CAA()], kl_budget=math.nan, progress=tell)
    with pytest.raises(DimensionError, match="reads activations of width"):
        compare_task(model, vowels, [methods.CAA()], sae=wide, progress=tell)
    assert not told


def test_a_report_is_written_as_it_is(report: Report, tmp_path: Path) -> None:
    write_report(report, tmp_path / "one")
    write_report(report.to_dict(), tmp_path / "two")
    one, two = (tmp_path / name / "results.json" for name in ("one", "two"))
    assert one.read_text() == two.read_text()
    assert join_results(report, report)["compare"] == [*report.to_dict()["compare"]] * 2
