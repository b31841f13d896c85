"""Running from a site upwards equals running the whole model with the site replaced."""

from __future__ import annotations

import pytest
import torch

from saesteer.models import Model, Site, layout_of, logits, record
from saesteer.models.hooks import install, remove
from saesteer.models.replay import Replay


class Letters:
    """A tokenizer stand-in: one id per letter."""

    pad_token_id = 0

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        del add_special_tokens  # it has none
        return {"input_ids": [ord(c) % 32 for c in text]}


def llama() -> Model:
    """Blocks return a tensor."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    hf = LlamaForCausalLM(config).eval()
    return Model(hf, Letters(), "llama", layout_of(hf))


def tuples() -> Model:
    """The same model, its blocks returning tuples as some architectures do."""
    model = llama()
    for block in model.layout.blocks:
        block.forward = wrapped(block.forward)
    for reader in [*model.layout.blocks[1:], model.layout.final_norm]:
        reader.register_forward_pre_hook(lambda _m, args: (args[0][0], *args[1:]))
    return model


def wrapped(forward):
    """Return a tuple, as older blocks do."""
    return lambda *args, **kwargs: (forward(*args, **kwargs),)


BATCH = ["some words", "fewer"]


@pytest.mark.parametrize("make", [llama, tuples])
@pytest.mark.parametrize("kind", ["resid_pre", "resid_post", "mlp_out", "head_out"])
def test_replay_equals_the_whole_model_with_its_site_replaced(make, kind):
    model, site = make(), Site(2, kind)
    tokens = model.tokenize(BATCH, padding_side="right")
    shape = (*tokens.input_ids.shape, 16)
    put = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    handle = install(model.layout.point(site), lambda _: put)
    whole = logits(model, tokens)
    remove([handle])
    assert torch.equal(Replay(model, site)(tokens, put), whole)
    assert not torch.equal(logits(model, tokens), whole)


def test_putting_back_what_was_there_changes_nothing():
    model, site = llama(), Site(1, "resid_post")
    tokens = model.tokenize(BATCH, padding_side="right")
    resid = record(model, tokens, [site])[site]
    assert torch.equal(Replay(model, site)(tokens, resid), logits(model, tokens))


def test_blocks_below_are_not_run_and_come_back():
    model, site = llama(), Site(2, "resid_post")
    tokens = model.tokenize(BATCH, padding_side="right")
    replay, runs = Replay(model, site), []
    for index, block in enumerate(model.layout.blocks):
        block.mlp.register_forward_hook(lambda _m, _i, _o, index=index: runs.append(index))
    replay(tokens, torch.zeros(2, 10, 16))
    assert runs == [3]
    logits(model, tokens)
    assert runs == [3, 0, 1, 2, 3]


def test_a_wrapped_forward_comes_back_after_an_exception():
    model, site = llama(), Site(2, "resid_post")
    tokens = model.tokenize(BATCH, padding_side="right")
    replay = Replay(model, site)
    own = model.layout.blocks[0].forward
    model.layout.blocks[0].forward = own
    with pytest.raises(RuntimeError):
        replay(tokens, torch.zeros(2, 10, 15))
    assert model.layout.blocks[0].__dict__["forward"] is own
    assert "forward" not in model.layout.blocks[1].__dict__
    assert not model.layout.blocks[2]._forward_hooks
