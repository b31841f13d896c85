"""A donor model of another family, width, depth and vocabulary, with a plan of its own."""

from __future__ import annotations

from functools import cache

import torch
import transformers

from saesteer import steer
from saesteer.models import Model, as_model
from saesteer.steer import Plan


@cache
def donor() -> tuple[Model, Plan]:
    """A random GPT-2 of three layers that reads characters, and a plan that adds a vector."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {chr(c): c - 31 for c in range(32, 127)} | {"<eos>": 0}
    raw = Tokenizer(models.BPE(vocab=letters, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<eos>"
    )
    config = transformers.GPT2Config(
        vocab_size=96, n_embd=24, n_layer=3, n_head=2, n_positions=128, pad_token_id=0
    )
    torch.manual_seed(5)
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.mul_(6.0)
    model = as_model(hf)
    model.tokenizer = tokenizer
    vector = torch.randn(24, generator=torch.Generator().manual_seed(1))
    return model, Plan(steer.add("resid_post.1", 4 * vector), name="donor's plan")
