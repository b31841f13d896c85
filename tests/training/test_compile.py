"""Blocks run compiled where activations are read, with no hook missed, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from saesteer.models import Site, TokenBatch, installed
from saesteer.training.sae import open_trainer


@pytest.fixture
def compiled(monkeypatch):
    """The modules that ran compiled, by what needs no C++ compiler."""
    found, compile_call = [], torch.compile

    def watched(call, **options):
        fast = compile_call(call, **options, backend="eager")

        def run(*args, **kwargs):
            found.append(call.__self__)
            return fast(*args, **kwargs)

        return run

    monkeypatch.setattr(torch, "compile", watched)
    yield found
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"site": "resid_post.2"}, [0, 1, 2]),
        ({"site": "resid_pre.2"}, [0, 1]),
        ({"site": "resid_post.0", "sites": ["resid_post.2"]}, [0, 1, 2]),
        ({"site": "mlp_in.1", "target": "resid_post.2"}, [0, 2]),
        ({"variants": {"a": {"site": "mlp_out.1"}, "b": {"site": "mlp_out.2"}}}, [0]),
        ({"site": "head_out.0"}, []),
    ],
    ids=str,
)
def test_compiled_blocks_change_no_step(
    run, settings, model, tmp_path, figures_of, compiled, changes, layers
):
    few = {"n_tokens": 6 * 64, **changes}
    plain = figures_of(run(settings(**few), tmp_path / "plain"))
    assert not compiled
    fast = figures_of(run(settings(**few, compile=True), tmp_path / "compiled"))
    assert set(compiled) == {model.layout.blocks[layer] for layer in layers}
    assert fast == plain


def test_the_model_is_compiled_in_no_pass_but_the_streams(settings, model, compiled):
    trainer = open_trainer(settings(site="resid_post.2", compile=True), model)
    ids = torch.randint(4, 100, (4, 16), generator=torch.Generator().manual_seed(0))
    tokens, seen = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)), []
    point = model.layout.point(Site(1, "mlp_out"))
    for n_steps in range(3):
        with torch.no_grad(), installed([(point, lambda _, n=n_steps: seen.append(n))]):
            model.forward(tokens)
        trainer.step()
    assert compiled
    assert seen == [0, 1, 2]
