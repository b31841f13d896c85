"""Every benchmark runs, and what it compares is the same work; no time is asserted."""

from __future__ import annotations

import json

import pytest
import torch

from saesteer.cli import main

SMALL = ["--shape", "48x256", "--k", "4", "--batch", "256", "--rounds", "1", "--quiet"]


def result_of(tmp_path, *args):
    file = tmp_path / "result.json"
    assert main(["bench", *args, "--json", str(file)]) == 0
    return json.loads(file.read_text())


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "matryoshka"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_has_the_losses_of_sae_lens(tmp_path, arch, dtype):
    args = ["--steps", "12", "--arch", arch, "--dtype", dtype]
    result = result_of(tmp_path, "train", *SMALL, *args)
    assert result["loss_max_rel_diff"] < (1e-5 if dtype == "float32" else 2e-3)
    assert 0 < result["ratio"]["min"] <= result["ratio"]["median"] <= result["ratio"]["max"]
    assert result["tokens_per_second"] > 0
    assert result["rival_tokens_per_second"] > 0


def test_what_many_steps_explain(tmp_path):
    result = result_of(tmp_path, "variance", *SMALL, "--steps", "30")
    last, curves = result["explained_variance"], result["curves"]
    for name, curve in curves.items():
        assert curve["1"] + 0.02 < curve["30"] == last[name]
    assert curves["saesteer"]["1"] == pytest.approx(curves["sae-lens"]["1"], abs=0.01)
    assert abs(result["points_ahead"]) < 5


def test_the_buffer(tmp_path):
    shape = ["--shape", "4096x16", "--batch", "256", "--rounds", "1", "--quiet"]
    assert result_of(tmp_path, "buffer", *shape)["ratio"]["median"] > 0


@pytest.mark.full
def test_rules_agree_with_a_loop_and_clingo(tmp_path):
    before = torch.get_num_threads()
    more = ("--threads", str(before + 1))
    result = result_of(tmp_path, "rules", "--rounds", "1", "--steps", "0", "--quiet", *more)
    assert torch.get_num_threads() == before
    assert result["equal_on_every_atom"]
    assert result["ratio_python"]["median"] > 0
    assert [line["rules"] for line in result["growth"]] == [250, 500, 1000, 2000, 4000, 8000]


@pytest.mark.full
@pytest.mark.real
def test_rules_in_decoding(tmp_path, real_model):
    result = result_of(tmp_path, "rules", "--rounds", "1", "--steps", "2", "--quiet")
    assert {row["name"] for row in result["decoding"]} == {"again", "rules-20"}


@pytest.mark.full
def test_the_memory_of_a_step_whatever_the_process_holds_that_starts_it(tmp_path):
    held = b"x" * (1 << 30)
    result = result_of(tmp_path, "memory", "--shape", "256x4096", "--batch", "1024", "--quiet")
    assert 0 < result["bytes"] < result["rival_bytes"] < len(held)


@pytest.mark.full
@pytest.mark.real
def test_many_saes(tmp_path, real_model):
    args = ["--n", "2", "--d-sae", "64", "--k", "4", "--rounds", "1", "--quiet"]
    assert result_of(tmp_path, "multi", *args)["ratio"]["median"] > 0


@pytest.mark.full
@pytest.mark.real
def test_steering_a_decoding_step(tmp_path, real_model):
    args = ["--steps", "5", "--batches", "2", "--dtypes", "float32", "--against", "none"]
    result = result_of(tmp_path, "steer", *args, "--quiet")
    names = [row["name"] for row in result["rows"]]
    assert names == ["a/a", "add-1", "add-16", "clamp-64-rules-20", "full-encode"]
    for row in result["rows"]:
        overhead = row["overhead"]
        assert -1 < overhead["min"] <= overhead["median"] <= overhead["max"]
    assert set(result["left_out"]) >= {"repeng", "steering-vectors", "encode-decode"}
    added = {row["name"]: row for row in result["memory"]}
    vectors = 16 * 576 * 4 / 538e6  # of which each is held at least once
    assert vectors < added["add-16"]["held"] <= added["add-16"]["peak"] < 0.01


@pytest.mark.full
@pytest.mark.real
def test_control_of_decoding_gives_the_same_text_with_and_without_a_cache(tmp_path, real_model):
    args = ["--tokens", "12", "--rounds", "1", "--quiet"]
    rows = result_of(tmp_path, "control", *args)["rows"]
    assert [row["name"] for row in rows] == ["dynamic-activation-composition", "fasb"]
    assert all(row["same_output"] for row in rows)


@pytest.mark.full
@pytest.mark.real
def test_methods_are_measured_at_a_dose_and_left_out_with_a_reason(tmp_path, real_model):
    keep = ["--keep", str(tmp_path / "kept")]
    args = ["--methods", "CAA", "MoTE", "--prompts", "2", "--dose", "0.1", *keep, "--quiet"]
    result = result_of(tmp_path, "methods", *args)
    assert set(result["left_out"]) == {"MoTE"}
    (row,) = result["rows"]
    assert row["method"] == "CAA"
    assert row["relative_dose"] == pytest.approx(0.1, rel=0.3)
    assert 0 < row["kl"] < 1
    assert row["n_prompts"] == 2
    for control in ("random", "scrambled"):
        mean, low, high = row[f"over_{control}"]
        assert low <= mean <= high
        assert mean == pytest.approx(row["effect"] - row[f"{control}_effect"])
    kept = tmp_path / "kept" / "CAA.json"
    held = json.loads(kept.read_text())
    kept.write_text(json.dumps({**held, "row": {**row, "verdict": "kept"}}))
    assert result_of(tmp_path, "methods", *args)["rows"][0]["verdict"] == "kept"


@pytest.mark.full
@pytest.mark.real
def test_a_swap_of_bindings_is_measured_in_nats(tmp_path, real_model):
    args = ["--methods", "BindingIDs", "--prompts", "3", "--split", "test", "--quiet"]
    (row,) = result_of(tmp_path, "methods", *args)["rows"]
    assert row["n_prompts"] == 3
    assert row["unit"] == "nats"
    assert row["verdict"] == "works"
    before, after = row["wanted_first"]
    assert before < 0.5
    assert after > before
    assert row["over_scrambled"][0] == pytest.approx(row["effect"] - row["scrambled_effect"])


def test_a_method_that_does_not_exist_is_named(capsys):
    assert main(["bench", "methods", "--methods", "CAA", "Cao", "--quiet"]) == 2
    assert "--methods: ['Cao'] do not exist; choose from" in capsys.readouterr().err


def test_a_wheel_without_benchmarks_says_so(monkeypatch, tmp_path, capsys):
    from saesteer.cli import bench

    monkeypatch.setattr(bench, "__file__", str(tmp_path / "saesteer" / "cli" / "bench.py"))
    assert main(["bench", "buffer", "--quiet"]) == 2
    assert "benchmarks are part of the source tree" in capsys.readouterr().err
