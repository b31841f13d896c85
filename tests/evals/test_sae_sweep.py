"""A grid of SAEs from one stream, and its Pareto front."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from saesteer.config import TextConfig, TrainSAEConfig, parse_grid
from saesteer.errors import ConfigError, DataError
from saesteer.evals.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from saesteer.evals.sae_sweep import (
    SweepRow,
    mark_front,
    pareto_plot,
    sweep_saes,
    usual_grid,
    variants_of,
)
from saesteer.training.signals import StopRequest

TEXT = "the rain in town and sea sun a quick brown fox over lazy dog " * 40


@pytest.fixture
def config(tmp_path) -> TrainSAEConfig:
    (tmp_path / "text.txt").write_text(TEXT)
    return TrainSAEConfig(
        model="tiny-llama",
        site="resid_post.1",
        text=TextConfig(str(tmp_path / "text.txt"), context=16, passes=50),
        d_sae=64,
        n_tokens=20 * 64,
        batch_size=64,
        shuffle_batches=2,
        dtype="float32",
        device="cpu",
    )


@pytest.fixture
def run(config, tiny_model, tmp_path):
    def run(values, texts=(TEXT,), **options):
        return sweep_saes(
            config,
            values,
            tmp_path / "out",
            texts,
            max_tokens=200,
            model=tiny_model("llama"),
            **options,
        )

    return run


def test_every_point_of_the_grid_is_trained_and_scored(run, tmp_path):
    rows = run({"k": [2, 16], "d_sae": [32, 64]})
    assert [row.settings for row in rows] == [
        {"k": k, "d_sae": d_sae} for k in (2, 16) for d_sae in (32, 64)
    ]
    assert all((tmp_path / "out" / row.name / "cfg.json").is_file() for row in rows)
    assert all(
        low.scores["l0"] < high.scores["l0"] for low, high in zip(rows[:2], rows[2:], strict=True)
    )
    written = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [row["scores"] for row in written] == [row.scores for row in rows]
    html = (tmp_path / "out" / "sweep.html").read_text()
    assert html.count("<circle") == 4
    assert "http" not in html.replace("http://www.w3.org", "")


def test_a_stopped_sweep_goes_on(run):
    stop = StopRequest(signal=15)
    assert run({"k": [2, 4]}, stop=stop) is None
    rows = run({"k": [2, 4]}, resume=True)
    assert len(rows) == 2
    assert run({"k": [2, 4]}, resume=True) == rows


def test_the_front_holds_what_nothing_beats():
    scores = {"a": (10.0, 0.9), "b": (20.0, 0.95), "c": (20.0, 0.94), "d": (30.0, 0.95)}
    scores |= {"e": scores["a"], "f": (5.0, math.nan), "g": (math.nan, 0.99)}
    rows = [SweepRow(n, {}, {"l0": x, "ce_recovered": y}) for n, (x, y) in scores.items()]
    assert {row.name for row in mark_front(rows) if row.on_front} == {"a", "b", "e"}


@pytest.mark.parametrize(
    ("recovered", "l0"),
    [
        *(([1.02, 1.02], 9.0), ([1.2, 1.8], 9.0), ([1.0], 9.0), ([1.0, 1.0 + 1e-15], 9.0)),
        *(([0.9, 0.9], 9.0), ([-3.0, 0.7], 9.0), ([0.9], 0.0), ([math.nan, 0.9], 9.0)),
        ([math.nan], 9.0),
    ],
)
def test_every_mark_lies_inside_the_plot(recovered, l0):
    rows = [
        SweepRow(f"{n}", {"k": n}, {"l0": l0, "ce_recovered": y}) for n, y in enumerate(recovered)
    ]
    marks = ElementTree.fromstring(pareto_plot(mark_front(rows))).findall(".//circle")
    assert len(marks) == sum(map(math.isfinite, recovered))
    assert all(LEFT <= float(mark.get("cx")) <= WIDTH - RIGHT for mark in marks)
    assert all(TOP < float(mark.get("cy")) < HEIGHT - BOTTOM for mark in marks)


def test_the_usual_grid_is_around_the_config(config):
    grid = usual_grid(config)
    assert grid == {"k": [16, 32, 64], "d_sae": [32, 64, 128]}
    assert list(variants_of(grid))[1] == "k=16_d_sae=64"


def test_grids_from_the_command_line():
    assert parse_grid(["k=16,32", "lr=3e-4,1e-3"]) == {"k": [16, 32], "lr": [3e-4, 1e-3]}
    assert parse_grid(["k=16", "d_sae=64", "k=32"]) == {"k": [16, 32], "d_sae": [64]}
    for wrong in ("k", "k=", "=3", "k=[1"):
        with pytest.raises(ConfigError, match="grid"):
            parse_grid([wrong])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(({}, "values"), ({"k": []}, "values")),
        ({"model": ["x"]}, r"grid: model can't differ .* before --grid"),
        ({"k": [2], "n_tokens": [64]}, r"grid: n_tokens can't differ"),
    ],
)
def test_what_can_t_be_swept_is_refused(run, values, message):
    with pytest.raises(ConfigError, match=message):
        run(values)


def test_a_config_with_variants_has_no_place_for_a_grid(config, tiny_model, tmp_path):
    config = replace(config, variants={"wide": {"d_sae": 128}})
    with pytest.raises(ConfigError, match=r"variants: .* leave variants out"):
        sweep_saes(config, {"k": [2]}, tmp_path / "out", [TEXT], model=tiny_model("llama"))


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({"site": "mlp_in.1", "target": "mlp_out.1"}, {"k": [2]}),
        ({}, {"target": ["resid_post.2"]}),
    ],
)
def test_relatives_that_can_t_be_scored_are_refused_before_they_are_trained(
    config, tmp_path, changes, values
):
    with pytest.raises(ConfigError, match="leave out target and sites"):
        sweep_saes(replace(config, **changes), values, tmp_path / "out", [TEXT], model=None)


def test_too_little_text_is_refused_before_training(run, tmp_path):
    with pytest.raises(DataError, match="no tokens to score"):
        run({"k": [2]}, texts=[""])
    assert not (tmp_path / "out").exists()
