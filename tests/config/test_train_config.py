"""Settings of a training run: their ranges, what follows from them, and every file in configs/."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from saesteer.config import TextConfig, TrainSAEConfig, WandbConfig, build_config, load_config
from saesteer.errors import ConfigError
from saesteer.models import Site

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "sae").glob("*.yaml"))
MINIMAL = {"model": "m", "site": "resid_post.1", "text": {"path": "t"}}


def test_there_are_files_to_check():
    assert "smollm2-135m.yaml" in [path.name for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_validates_and_opens_with_its_command(path):
    config = load_config(TrainSAEConfig, path)
    lines = path.read_text().splitlines()
    assert lines[0].startswith(f"# saesteer train sae {path.relative_to(ROOT)} ")
    assert any("Costs" in line for line in lines if line.startswith("#"))
    assert config.n_steps > config.warmup_steps
    assert all(str(Site.parse(name)) == name for name in config.site_names)
    assert config.supervised is None or all((ROOT / p).is_file() for p in config.supervised.paths)
    weights = config.text.weights or [1] * len(config.text.paths)
    assert len(weights) == len(config.text.paths)


def test_a_minimal_config_has_every_default():
    config = build_config(TrainSAEConfig, MINIMAL, "test")
    assert config == TrainSAEConfig(model="m", site="resid_post.1", text=TextConfig("t"))
    assert config.text.paths == ["t"]
    assert config.wandb == WandbConfig(project=None, name=None, mode="offline")


def test_the_keys_that_stay():
    keys = {"model", "site", "arch", "d_sae", "k", "n_tokens", "text", "seed", "device"}
    keys.add("checkpoint_every_steps")
    assert keys <= set(TrainSAEConfig.__dataclass_fields__)
    assert "path" in TextConfig.__dataclass_fields__


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("d_sae", 0), ("k", 0), ("n_tokens", 0), ("batch_size", 0), ("lr", 0), ("lr", -1e-3)),
        *(("warmup_steps", -1), ("decay_share", 1.5), ("decay_share", -0.1), ("aux_k", -1)),
        *(("threshold_rate", 2), ("shuffle_batches", 0), ("reuse", 0), ("rows_per_pass", 0)),
        *(("grad_clip", 0), ("checkpoint_every_steps", 0), ("keep_checkpoints", 0)),
        *(("log_every_steps", 0), ("seed", -1), ("dtype", "int8"), ("arch", "relu")),
        *(("dead_after_tokens", -1), ("aux_coefficient", -1), ("compile", "perhaps")),
        *(("seed", 99999999999999999999), ("lr", math.inf), ("lr", math.nan), ("kl", math.inf)),
        *(("sparsity", math.inf), ("grad_clip", math.inf), ("even_l0", math.nan)),
    ],
)
def test_values_out_of_range_are_named(key, value):
    with pytest.raises(ConfigError, match=f"^test: key '{key}': Input should be"):
        build_config(TrainSAEConfig, {**MINIMAL, key: value}, "test")


@pytest.mark.parametrize("key", ["text", "supervised", "score"])
def test_no_paths_at_all_are_named(key):
    with pytest.raises(ConfigError, match=rf"key '{key}\.path': List should have at least 1 item"):
        build_config(TrainSAEConfig, {**MINIMAL, key: {"path": []}}, "test")


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "matryoshka", "abstopk"])
def test_one_row_has_no_variance(arch):
    with pytest.raises(ConfigError, match="batch_size is 1, .* give 2 or more for each process"):
        build_config(TrainSAEConfig, {**MINIMAL, "arch": arch, "batch_size": 1}, "test")
    build_config(TrainSAEConfig, {**MINIMAL, "arch": "jumprelu", "batch_size": 1}, "test")


@pytest.mark.parametrize(("key", "value"), [("passes", 0), ("context", 1), ("weights", [0])])
def test_text_settings_out_of_range_are_named(key, value):
    with pytest.raises(ConfigError, match=rf"^test: key 'text\.{key}[.0]*': Input should be"):
        build_config(TrainSAEConfig, {**MINIMAL, "text": {"path": "t", key: value}}, "test")


def test_no_more_latents_active_than_there_are():
    with pytest.raises(ConfigError, match=r"^test: k is 9, but there are only d_sae = 8 latents"):
        build_config(TrainSAEConfig, {**MINIMAL, "k": 9, "d_sae": 8}, "test")


def test_steps_follow_from_tokens():
    config = build_config(TrainSAEConfig, MINIMAL, "test")
    config = replace(config, n_tokens=10_050, batch_size=100, decay_share=0.25)
    assert config.n_steps == 100
    assert config.decay_from == 75
    assert replace(config, n_tokens=5).n_steps == 1


def test_variants_change_what_is_one_saes_own():
    variants = {"wide": {"d_sae": 64}, "early": {"site": "resid_post.0", "k": 3}}
    config = build_config(TrainSAEConfig, {**MINIMAL, "k": 2, "variants": variants}, "test")
    each = config.each()
    assert {name: (c.site, c.d_sae, c.k) for name, c in each.items()} == {
        "wide": ("resid_post.1", 64, 2),
        "early": ("resid_post.0", 8192, 3),
    }
    assert all(c.variants == {} and c.text == config.text for c in each.values())
    plain = build_config(TrainSAEConfig, MINIMAL, "test")
    assert plain.each() == {"": plain}


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a/b": {}}, r"variant 'a/b': use letters"),
        ({"..": {}}, r"variant '\.\.': use letters"),
        ({"checkpoints": {}}, r"variant 'checkpoints': .* neither checkpoints nor wandb"),
        ({"a": {"n_tokens": 5}}, r"variants\.a sets n_tokens, which variants share"),
        (
            {"a": {"wide": 5}},
            r"variants\.a sets wide, which variants share or which does not exist",
        ),
        ({"a": {"k": 0}}, r"variants\.a: key 'k': Input should be"),
        ({"a": {"k": 99, "d_sae": 8}}, r"variants\.a: k is 99, but there are only d_sae = 8"),
    ],
)
def test_wrong_variants_are_named(variants, message):
    with pytest.raises(ConfigError, match=message):
        build_config(TrainSAEConfig, {**MINIMAL, "variants": variants}, "test")


TOLD = {"path": "told.jsonl"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "mlp_out.1", "sites": ["resid_post.2"]}, r"give one of them"),
        ({"skip": True}, r"skip is a transcoder's connection .*; set target"),
        ({"sites": []}, r"key 'sites': List should have at least 1 item"),
        (
            {"target": "mlp_out.1", "arch": "topk"},
            r"arch is topk, .* ship as a threshold",
        ),
        ({"sites": ["resid_post.2"], "arch": "gated"}, r"arch is gated, .* ship as a threshold"),
        ({"supervised": TOLD, "arch": "jumprelu"}, r"arch is jumprelu, but supervised needs batch"),
        ({"supervised": {**TOLD, "latent": 8192}}, r"latent is 8192, but latents are 0 to 8191"),
        ({"supervised": {**TOLD, "latent": -1}}, r"key 'supervised\.latent': Input should be"),
        ({"supervised": {**TOLD, "weight": 0}}, r"key 'supervised\.weight': Input should be"),
        ({"supervised": {}}, r"key 'supervised\.path' is missing"),
        ({"widths": [512, 8192]}, r"arch is batchtopk, but widths are matryoshka's .*widths: null"),
        ({"supervised": {**TOLD, "latnet": 1}}, r"unknown key 'supervised\.latnet' .*'latent'"),
    ],
)
def test_what_makes_no_coder_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        build_config(TrainSAEConfig, {**MINIMAL, **changes}, "test")


def test_site_names_are_those_of_one_coder():
    pair = build_config(TrainSAEConfig, {**MINIMAL, "target": "mlp_out.1"}, "test")
    assert pair.site_names == ("resid_post.1", "mlp_out.1")
    more = build_config(TrainSAEConfig, {**MINIMAL, "sites": ["resid_post.2", "mlp_in.0"]}, "test")
    assert more.site_names == ("resid_post.1", "resid_post.2", "mlp_in.0")


def test_nested_widths_rise_to_d_sae():
    config = build_config(TrainSAEConfig, {**MINIMAL, "arch": "matryoshka"}, "test")
    assert config.prefix_widths == (512, 2048, 8192)
    small = {**MINIMAL, "arch": "matryoshka", "d_sae": 8, "k": 2}
    given = build_config(TrainSAEConfig, {**small, "widths": [5, 8]}, "test")
    assert given.prefix_widths == (5, 8)
    for widths in ([], [8, 5], [5], [5, 5, 8]):
        with pytest.raises(ConfigError, match="expected rising numbers that end with d_sae"):
            build_config(TrainSAEConfig, {**small, "widths": widths}, "test")


def test_widths_are_for_those_variants_that_nest():
    small = {**MINIMAL, "arch": "matryoshka", "d_sae": 8, "k": 2, "widths": [5, 8]}
    with pytest.raises(ConfigError, match=r"variants\.plain: arch is topk, but widths are"):
        build_config(TrainSAEConfig, {**small, "variants": {"plain": {"arch": "topk"}}}, "test")
    plain = {"arch": "topk", "widths": None}
    each = build_config(TrainSAEConfig, {**small, "variants": {"plain": plain}}, "test").each()
    assert each["plain"].widths is None
