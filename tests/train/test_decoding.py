"""The written-out decoding step says what the model says, and its draw is exact."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import transformers
from decoding import Decoder, Llama, Start, draw, logits_after

from saesteer.errors import ModelError
from saesteer.models import Model, layout_of


@torch.inference_mode()
def test_logits_of_every_step_are_the_models_own(tiny_model):
    model = tiny_model("llama")
    net = Llama.of(model, 40)
    ids = torch.randint(3, 128, (5, 40), generator=torch.Generator().manual_seed(0))
    cache = torch.zeros(len(net.layers), 2, 5, net.groups, 40, net.width)
    wanted = model.hf(input_ids=ids).logits
    got = torch.stack([logits_after(net, ids[:, i], cache, i) for i in range(40)], 1)
    assert float((wanted - got).abs().max()) < 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("vocab", [12, 13, 1536])  # a whole block; a prime; three blocks
def test_each_token_is_drawn_for_its_share_of_the_points(vocab):
    logits = torch.randn(2, vocab, generator=torch.Generator().manual_seed(0))
    before, heat = logits.clone(), torch.tensor([0.7, 1.5])
    n = 50_000
    points = (torch.arange(n) + 0.5) / n
    shares = (logits / heat[:, None]).double().softmax(-1)
    for row in range(2):
        which = torch.full((500,), row)
        drawn = torch.cat([draw(logits[which], heat[which], p) for p in points.split(500)])
        assert bool((drawn.diff() >= 0).all())
        counts = torch.bincount(drawn, minlength=vocab) / n
        assert float((counts - shares[row]).abs().max()) < 8e-5
    assert torch.equal(logits, before)


def test_points_at_both_ends_draw_real_tokens():
    logits = torch.tensor([[-1e9, 0.0, 1.0, -1e9]]).repeat(2, 1)
    drawn = draw(logits, torch.ones(2), torch.tensor([0.0, 1 - 2**-24]))
    assert drawn.tolist() == [1, 2]


@pytest.mark.parametrize("arch", ["qwen2", "gpt2"])
def test_other_architectures_are_refused(tiny_model, arch):
    with pytest.raises(ModelError, match=f"is a {arch}; text is sampled from Llama-type models"):
        Decoder(tiny_model(arch), 2, 8, (1.0,))


def test_a_length_past_the_models_own_is_refused(tiny_model):
    with pytest.raises(ModelError, match="reads 256 tokens at most, got a length of 257"):
        Decoder(tiny_model("llama"), 2, 257, (1.0,))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where capturing fails")
def test_where_graphs_cannot_be_captured_a_line_says_so(tiny_model, capsys):
    decoder = Decoder(tiny_model("llama"), 2, 8, (1.0,))
    decoder.capture()
    assert capsys.readouterr().err == ""
    decoder.stream = object()
    decoder.capture()
    assert capsys.readouterr().err.startswith("CUDA graphs can't be captured, going on without: ")
    assert decoder.graphs == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_captured_steps_draw_what_uncaptured_ones_draw(capsys):
    settings = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
    config = transformers.LlamaConfig(
        vocab_size=9000, hidden_size=96, intermediate_size=64, num_hidden_layers=3, **settings
    )
    torch.manual_seed(0)
    hf = transformers.LlamaForCausalLM(config).to("cuda")
    decoder = Decoder(Model(hf, None, "tiny", layout_of(hf)), 32, 90, (0.7, 1.0))
    starts = [Start.of([[5, 6], [7]] * 16, 90, seed) for seed in range(2)]
    wanted = [decoder.sample(start) for start in starts]
    decoder.capture()
    assert len(decoder.graphs) == 89
    got = [decoder.sample(start) for start in starts]
    assert capsys.readouterr().err == ""
    assert all(torch.equal(w, g) for w, g in zip(wanted, got, strict=True))


KERNELS = """
import decode_kernels, torch, transformers
from decoding import Llama
from saesteer.models import Model, layout_of

settings = dict(vocab_size=9000, hidden_size=96, intermediate_size=64, num_hidden_layers=1,
                num_attention_heads=6, num_key_value_heads=2, head_dim=16)

def check(dtype, length):
    hf = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).to(dtype)
    net = Llama.of(Model(hf, None, "tiny", layout_of(hf)), 140)
    with torch.inference_mode():
        decode_kernels.check(net, rows=6, length=length)

for dtype in (torch.float32, torch.float16):
    for length in (8, 140):
        check(dtype, length)
print("agree")
for name in ("plain_attend", "plain_draw"):
    right = getattr(decode_kernels, name)
    setattr(decode_kernels, name, lambda *given: right(*given) + 100)
    try:
        check(torch.float32, 8)
    except Exception as error:
        print(name, error)
    setattr(decode_kernels, name, right)
"""


@pytest.fixture(scope="module")
def said():
    """What kernels say beside the plain functions, and beside such as say something else."""
    pytest.importorskip("triton", reason="comes with torch's CUDA builds")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KERNELS]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.full
def test_the_triton_kernels_agree_with_the_plain_functions(said):
    assert said.startswith("agree\n")


@pytest.mark.full
@pytest.mark.parametrize(
    "fault", ["plain_attend attention at position 0 differs", "plain_draw a drawn token lies"]
)
def test_kernels_that_say_something_else_are_found_out(said, fault):
    assert fault in said
