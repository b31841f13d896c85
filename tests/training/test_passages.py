"""Training end to end: what a reconstruction costs the model, and that steps lower it."""

from __future__ import annotations

import pytest
import torch

from saesteer.config import CacheConfig, SupervisedConfig
from saesteer.errors import ConfigError
from saesteer.models import installed
from saesteer.training.distributed import World
from saesteer.training.learner import Learner
from saesteer.training.passages import PassageStream
from saesteer.training.sae import open_trainer
from saesteer.training.streams import columns_of, open_stream


@pytest.fixture
def passages(settings, model) -> PassageStream:
    config = settings(kl=1.0)
    stream = open_stream(config, model, columns_of(config, model))
    assert isinstance(stream, PassageStream)
    return stream


def test_a_perfect_reconstruction_costs_nothing(passages):
    batch = passages.next_batch()
    assert len(batch) == passages.n_tokens
    assert passages.n_read == 64
    assert passages.divergence(batch).item() == pytest.approx(0, abs=1e-6)
    assert passages.divergence(batch + 1).item() > 1e-3


def test_the_cost_is_the_divergence_of_the_whole_model_with_its_site_replaced(passages, model):
    for _ in range(6):
        batch = passages.next_batch()
    noise = torch.randn(batch.shape, generator=torch.Generator().manual_seed(0))
    tokens, resid, keep, _ = passages._passage
    put = resid.clone()
    put[keep] = batch + noise
    inputs = {"input_ids": tokens.input_ids, "position_ids": tokens.position_ids}
    assert (tokens.position_ids[:, 1:] == 0).any(), "no row holds two documents"
    point = model.layout.point(passages.source.columns.sites[0])
    with torch.no_grad():
        clean = model.hf(**inputs, use_cache=False).logits.log_softmax(-1)
        with installed([(point, lambda _: put)]):
            changed = model.hf(**inputs, use_cache=False).logits.log_softmax(-1)
    expected = (clean.exp() * (clean - changed)).sum(-1).mean()
    torch.testing.assert_close(passages.divergence(batch + noise), expected, atol=1e-6, rtol=1e-4)


def test_only_the_reconstruction_takes_a_gradient(passages, model):
    recon = passages.next_batch().clone().requires_grad_()
    learning = [p.requires_grad for p in model.hf.parameters()]
    passages.divergence(recon + 0.5).backward()
    assert recon.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.hf.parameters())
    assert [p.requires_grad for p in model.hf.parameters()] == learning


def test_steps_end_to_end_leave_less_divergence_than_steps_on_the_error_alone(settings, model):
    held_out = settings(kl=1.0, seed=5)
    costs = []
    for kl in (1e-6, 3.0):
        trainer = open_trainer(settings(kl=kl, passes=4, n_tokens=64 * 120), model)
        for _ in range(120):
            result = trainer.step()[""]
        assert result.extra["kl"].item() > 0
        sae = trainer.learners[""].to_sae(model.name)
        stream = open_stream(held_out, model, columns_of(held_out, model))
        with torch.no_grad():
            costs.append(sum(stream.divergence(sae(stream.next_batch())).item() for _ in range(8)))
    assert costs[1] < 0.9 * costs[0]


def test_a_reconstruction_that_costs_nothing_leaves_the_loss_a_number(settings):
    config = settings(kl=1.0)
    learner = Learner.create(config, [32], "cpu")
    learner.downstream = lambda recon: 0 * recon.sum()
    result = learner.step(torch.randn(config.batch_size, 32))
    assert result.loss.isfinite()
    assert result.extra["kl"] == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arch": "jumprelu"}, "TopK family"),
        ({"sites": ["resid_post.0"]}, "one site"),
        ({"variants": {"a": {"k": 2}}}, "leave out"),
        ({"supervised": SupervisedConfig("x.jsonl", latent=1)}, "supervised"),
        ({"batch_size": 40}, "multiple of it"),
        ({"cache": CacheConfig("somewhere")}, "cache.path"),
    ],
    ids=str,
)
def test_what_end_to_end_steps_cannot_do_is_refused(settings, changes, said):
    with pytest.raises(ConfigError, match=said):
        settings(kl=1.0, **changes)


def test_several_processes_are_refused(settings, model):
    config = settings(kl=1.0)
    with pytest.raises(ConfigError, match="one process"):
        open_stream(config, model, columns_of(config, model), World(0, 2))
