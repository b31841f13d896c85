"""The formulas behind `train estimate`, against counted FLOP and files on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from saesteer.config import CacheConfig, TextConfig
from saesteer.errors import ConfigError, ModelError, SiteError
from saesteer.models import Model, TokenBatch, load_skeleton, record
from saesteer.training.estimate import estimate
from saesteer.training.rates import Rates, gpu_rates, measure_rates
from saesteer.training.sae import open_trainer, train_sae
from saesteer.training.signals import StopRequest
from saesteer.training.sparse import BLOCK
from saesteer.training.streams import columns_of, fill_cache, open_stream

RATES = Rates("a box", matmul=1e12, exact=1e11, bandwidth=1e10, memory=1e10)


def counted_flop(model: Model, site: str, context: int) -> float:
    """FLOP of one token, as torch counts them while the pass runs."""
    batch = TokenBatch(torch.randint(3, 100, (1, context)), torch.ones(1, context).bool())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        record(model, batch, [site])
    return counter.get_total_flops() / context


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "neox"])
def test_the_model_s_flop_are_those_that_torch_counts(tiny_model, settings, name):
    model = tiny_model(name)
    config = settings(site="resid_post.2")
    cost = estimate(config, model, RATES)
    a_token = cost.flop["model"] / cost.tokens_read
    counted = counted_flop(model, "resid_post.2", config.text.context)
    assert a_token == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("site", "rel"), [("resid_post.1", 0.02), ("resid_pre.2", 0.15), ("mlp_out.1", 0.15)]
)
def test_an_end_to_end_step_takes_the_flop_that_torch_counts(tiny_model, settings, name, site, rel):
    """Blocks are counted whole, which tells in a model of four."""
    model, config = tiny_model(name), settings(kl=1.0, site=site)
    stream = open_stream(config, model, columns_of(config, model))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        recon = stream.next_batch().clone().requires_grad_()
        stream.divergence(recon + 0.5).backward()
    cost = estimate(config, model, RATES)
    assert cost.tokens_read == config.n_tokens
    said = cost.flop["model"] / cost.tokens_read
    assert said == pytest.approx(counter.get_total_flops() / 64, rel=rel)


def test_an_end_to_end_run_needs_room_for_logits_and_for_no_ring(settings, model):
    plain, whole = (estimate(settings(kl=kl), model, RATES) for kl in (0.0, 1.0))
    assert whole.memory["logits"] > 2 * 64 * 128 * 4
    assert whole.memory["pass"] > plain.memory["pass"]
    assert whole.memory["ring"] == 0 < plain.memory["ring"]
    assert whole.disk["checkpoints"] < plain.disk["checkpoints"]


def test_a_checkpoint_takes_what_was_said(settings, model, tmp_path):
    config = settings(d_sae=512)
    trainer = open_trainer(config, model)
    trainer.step()
    written = sum(f.stat().st_size for f in trainer.save(tmp_path).iterdir())
    said = estimate(config, model, RATES).disk["checkpoints"] / (config.keep_checkpoints + 1)
    assert said == pytest.approx(written, rel=0.1)


def test_costs_follow_the_tokens_the_width_and_the_cards(settings, model):
    small = settings(n_tokens=64_000)
    once = estimate(small, model, RATES)
    assert estimate(replace(small, n_tokens=640_000), model, RATES).hours == pytest.approx(
        10 * once.hours
    )
    assert estimate(replace(small, d_sae=6400), model, RATES).memory["sae"] == pytest.approx(
        100 * once.memory["sae"]
    )
    assert estimate(replace(small, reuse=2), model, RATES).flop["model"] == pytest.approx(
        once.flop["model"] / 2
    )
    several = estimate(small, model, RATES, gpus=4)
    assert several.seconds["model"] == pytest.approx(once.seconds["model"] / 4)
    assert several.seconds["exchange"] > once.seconds["exchange"] == 0


def test_the_encoder_of_a_cpu_is_as_fast_as_it_nominates(settings, model):
    def hours(arch, nominating):
        return estimate(settings(arch=arch), model, replace(RATES, nominating=nominating)).hours

    assert hours("topk", 1e13) < hours("topk", None) == hours("topk", RATES.exact)
    assert hours("jumprelu", 1e13) == hours("jumprelu", None)


def test_a_cache_takes_disk(settings, model):
    cached = estimate(settings(cache=CacheConfig("somewhere")), model, RATES)
    assert cached.disk["cache"] == cached.tokens_read * model.layout.d_model * 4


def test_passes_over_a_cache_are_read_from_disk(settings, model, tmp_path):
    folder = tmp_path / "cache"
    cache = CacheConfig(str(folder), passes=4, rows_per_shard=64)
    config = settings(cache=cache, n_tokens=64 * 200)
    assert fill_cache(config, model, StopRequest())
    written = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    said = estimate(config, model, RATES)
    assert said.disk["cache"] == pytest.approx(written, rel=0.05)
    once = estimate(replace(config, cache=replace(cache, passes=1)), model, RATES)
    assert once.flop["model"] == pytest.approx(4 * said.flop["model"], rel=0.01)


@pytest.mark.parametrize(
    ("changes", "gpus", "message"),
    [
        *(({}, 0, "gpus is 0; a run needs 1"), ({}, -3, "gpus is -3; a run needs 1")),
        *(({"kl": 1.0}, 8, "kl trains in one process"), ({}, 3, "63 would do")),
        ({"batch_size": 8}, 8, "leaves one row to a process"),
        ({"text": TextConfig("a", context=257)}, 1, "has 256 positions; lower text.context"),
    ],
)
def test_what_the_run_would_refuse_has_no_cost(settings, model, changes, gpus, message):
    with pytest.raises(ConfigError, match=message):
        estimate(replace(settings(), **changes), model, RATES, gpus)


def test_a_cpu_holds_a_block_of_pre_activations_where_it_chooses_by_blocks(settings, model):
    def held(arch, batch_size, device):
        config = settings(arch=arch, batch_size=batch_size)
        return estimate(config, model, replace(RATES, device=device)).memory["pre_activations"]

    for arch in ("topk", "batchtopk"):
        assert held(arch, 4 * BLOCK, "cpu") == held(arch, BLOCK, "cpu") == held(arch, BLOCK, "cuda")
        assert held(arch, 4 * BLOCK, "cuda") == 4 * held(arch, BLOCK, "cuda")
    assert held("jumprelu", 4 * BLOCK, "cpu") == 4 * held("jumprelu", BLOCK, "cpu")


def test_variants_add_up(settings, model):
    one = estimate(settings(), model, RATES)
    two = estimate(settings(variants={"a": {}, "b": {"seed": 1}}), model, RATES)
    assert two.flop["sae"] == 2 * one.flop["sae"]
    assert two.flop["model"] == one.flop["model"]


def test_this_machine_can_be_measured():
    rates = measure_rates("cpu", torch.float32)
    assert rates.matmul > 1e9
    assert rates.bandwidth > 1e8
    assert rates.memory > 1e9
    assert rates.device == "cpu"
    assert rates.nominating > 0.5 * rates.exact


def test_a_skeleton_has_shapes_and_no_weights(tiny_model, tmp_path):
    tiny_model("llama").hf.save_pretrained(tmp_path)
    skeleton = load_skeleton(str(tmp_path))
    assert {p.device.type for p in skeleton.hf.parameters()} == {"meta"}
    assert skeleton.layout.d_model == tiny_model("llama").layout.d_model


def test_what_does_not_exist_is_named(settings, model, tmp_path):
    with pytest.raises(ConfigError, match="h100"):
        gpu_rates("abacus")
    with pytest.raises(SiteError):
        estimate(settings(site="resid_post.99"), model, RATES)
    with pytest.raises(ModelError):
        load_skeleton(str(tmp_path / "nothing"))


def test_a_run_that_does_not_fit_says_what_it_needs(settings, model):
    fits = estimate(settings(), model, RATES)
    assert fits.shortage is None
    tight = estimate(settings(), model, replace(RATES, memory=0.5 * fits.memory["in_all"]))
    assert "lower batch_size" in str(tight.shortage)
    assert f"{fits.memory['in_all'] / 1e9:.3g} GB" in str(tight.shortage)


def test_training_warns_before_it_runs_out_of_memory(
    settings, model, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("saesteer.training.sae.device_memory", lambda _: 1.0)
    train_sae(settings(), tmp_path / "run", model=model)
    assert "the run needs about" in capsys.readouterr().err
