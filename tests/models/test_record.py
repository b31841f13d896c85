"""What is recorded at each site, against values computed another way, on every architecture."""

from __future__ import annotations

import copy

import pytest
import torch

from saesteer.errors import SiteError
from saesteer.models import KINDS, Site, logits, record

NORMED = ("gemma2", "gemma3")
LAYER = 2


def close(got, want, scale=None):
    """Equal to 1e-5 of the largest value, which must not be 0."""
    scale = want.abs().max() if scale is None else scale
    assert scale > 0
    assert (got - want).abs().max() <= 1e-5 * scale


def read(model, batch, *names):
    got = record(model, batch, names)
    return [got[Site.parse(name)] for name in names]


@pytest.fixture
def one(tiny_model):
    """A model and one unpadded row."""

    def make(arch):
        model = tiny_model(arch)
        return model, model.tokenize("the rain in the town and the sea")

    return make


@pytest.mark.parametrize("site", ["resid_post.2", Site(2, "resid_post")])
def test_one_site_stands_for_a_list_of_one(one, site):
    got = record(*one("llama"), site)
    assert list(got) == [Site(2, "resid_post")]


def test_the_residual_is_the_models_own_hidden_states(one, arch):
    model, batch = one(arch)
    with torch.no_grad():
        apart = copy.deepcopy(model.hf)  # transformers leaves hooks of its own behind
        states = apart(batch.input_ids, output_hidden_states=True).hidden_states
    pre = read(model, batch, *[f"resid_pre.{i}" for i in range(4)])
    post = read(model, batch, *[f"resid_post.{i}" for i in range(4)])
    for layer in range(4):
        close(pre[layer], states[layer])
    for layer in range(3):
        close(post[layer], states[layer + 1])
        assert torch.equal(post[layer], pre[layer + 1])
    close(model.layout.final_norm(post[3]).detach(), states[4])


def test_contributions_add_up(one, sequential_arch):
    model, batch = one(sequential_arch)
    names = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
    pre, attn, mid, mlp, post = read(model, batch, *[f"{name}.{LAYER}" for name in names])
    close(mid, pre + attn)
    close(post, mid + mlp)
    assert min(t.abs().max() for t in (attn, mlp)) > 0.01 * post.abs().max()


def test_contributions_of_parallel_blocks_add_up(one):
    model, batch = one("neox")
    names = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    pre, attn, mlp, post = read(model, batch, *[f"{name}.{LAYER}" for name in names])
    close(post, pre + attn + mlp)


def attention_of(model):
    block = model.layout.blocks[LAYER]
    names = ("self_attn", "attn", "attention")
    return next(getattr(block, name) for name in names if hasattr(block, name))


def projection_of(attention):
    names = ("o_proj", "c_proj", "dense")
    return next(getattr(attention, name) for name in names if hasattr(attention, name))


def neurons_projection_of(model):
    mlp = model.layout.blocks[LAYER].mlp
    names = ("down_proj", "c_proj", "dense_4h_to_h")
    return next(getattr(mlp, name) for name in names if hasattr(mlp, name))


@torch.no_grad()
def test_heads_through_the_projection_are_what_attention_adds(one, arch):
    model, batch = one(arch)
    whole, attn = read(model, batch, f"head_out.{LAYER}", f"attn_out.{LAYER}")
    heads = read(model, batch, *[f"head_out.{LAYER}.{h}" for h in range(4)])
    assert torch.equal(torch.cat(heads, -1), whole)
    assert all(head.shape[-1] == model.layout.d_head for head in heads)
    out = projection_of(attention_of(model))(whole)
    if arch in NORMED:
        out = model.layout.blocks[LAYER].post_attention_layernorm(out)
    close(out, attn)


@torch.no_grad()
def test_neurons_through_the_projection_are_what_the_mlp_adds(one, neurons_arch):
    arch = neurons_arch
    model, batch = one(arch)
    neurons, mlp = read(model, batch, f"neurons.{LAYER}", f"mlp_out.{LAYER}")
    out = neurons_projection_of(model)(neurons)
    if arch in NORMED:
        out = model.layout.blocks[LAYER].post_feedforward_layernorm(out)
    close(out, mlp)


@torch.no_grad()
def test_the_mlp_on_its_input_is_what_it_adds(one, arch):
    model, batch = one(arch)
    mlp_in, mlp_out = read(model, batch, f"mlp_in.{LAYER}", f"mlp_out.{LAYER}")
    block = model.layout.blocks[LAYER]
    out = block.mlp(mlp_in)
    if arch in NORMED:
        out = block.post_feedforward_layernorm(out)
    close(out, mlp_out)


@torch.no_grad()
def test_the_mlps_input_is_what_its_norm_gives(one, sequential_arch):
    model, batch = one(sequential_arch)
    mid, mlp_in = read(model, batch, f"resid_mid.{LAYER}", f"mlp_in.{LAYER}")
    norm = model.layout.point(Site(LAYER, "resid_mid")).module
    close(norm(mid), mlp_in)


def test_width_says_what_is_recorded(one, arch):
    model, batch = one(arch)
    lacking = {"mixtral": {"neurons"}, "neox": {"resid_mid", "router_in"}}.get(arch, {"router_in"})
    kinds = [kind for kind in KINDS if kind not in lacking]
    sites = [Site(LAYER, kind) for kind in kinds] + [Site(LAYER, "head_out", 1)]
    for site, resid in record(model, batch, sites).items():
        assert resid.shape == (*batch.input_ids.shape, model.layout.width(site)), site


def test_padding_changes_nothing(tiny_model, prompts, arch):
    model = tiny_model(arch)
    for side in ("left", "right"):
        batch = model.tokenize(prompts, padding_side=side)
        assert not batch.attention_mask.all()
        (padded,) = read(model, batch, "resid_post.3")
        padded_logits = logits(model, batch)
        for row, prompt in enumerate(prompts):
            alone = model.tokenize(prompt)
            valid = batch.attention_mask[row]
            close(padded[row][valid], read(model, alone, "resid_post.3")[0][0])
            close(padded_logits[row][valid], logits(model, alone)[0])


def test_nothing_runs_above_the_last_site(one, no_hooks_left):
    model, batch = one("llama")
    ran = []
    modules = {
        "own mlp": model.layout.blocks[1].mlp,
        "next block": model.layout.blocks[2],
        "final norm": model.layout.final_norm,
        "unembed": model.layout.unembed,
        "below": model.layout.blocks[0],
    }
    handles = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in modules.items()
    ]
    record(model, batch, ["resid_mid.1", "resid_pre.0"])
    assert ran == ["below"]
    ran.clear()
    record(model, batch, ["resid_post.1"])
    assert ran == ["below", "own mlp"]
    for handle in handles:
        handle.remove()


def test_hooks_vanish_when_the_pass_ends_early_and_when_it_fails(one, no_hooks_left):
    model, batch = one("gpt2")
    no_hooks_left(model)
    record(model, batch, ["resid_post.0", "neurons.2"])
    broken = copy.copy(batch)
    object.__setattr__(broken, "input_ids", batch.input_ids + 10_000)
    with pytest.raises(IndexError):
        record(model, broken, ["resid_post.0"])


def test_sites_are_recorded_once_however_they_are_written(one):
    model, batch = one("llama")
    got = record(model, batch, ["resid_post.1", "blocks.1.hook_resid_post", Site(1, "resid_post")])
    assert list(got) == [Site(1, "resid_post")]


def test_other_dtypes_come_as_they_are(one):
    model, batch = one("llama")
    half = copy.deepcopy(model)
    half.hf.to(torch.bfloat16)
    (resid,) = read(half, batch, "resid_post.1")
    assert resid.dtype == torch.bfloat16
    (exact,) = read(model, batch, "resid_post.1")
    assert (resid.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_recording_needs_no_gradient(one):
    model, batch = one("llama")
    (resid,) = read(model, batch, "resid_post.1")
    assert not resid.requires_grad


@pytest.mark.parametrize(
    ("arch", "site", "message"),
    [
        ("llama", "resid_post.4", r"layer 4 does not exist .*tiny-llama has layers 0-3"),
        ("llama", "head_out.1.4", r"head 4 does not exist; layer 1 has heads 0-3"),
        ("neox", "resid_mid.1", r"attention and MLP of this model run in parallel"),
        ("mixtral", "neurons.1", r"experts of MixtralSparseMoeBlock are fused.*use mlp_out"),
    ],
)
def test_sites_that_a_model_lacks(tiny_model, arch, site, message):
    model = tiny_model(arch)
    with pytest.raises(SiteError, match=message):
        model.check_site(site)
    with pytest.raises(SiteError, match=message):
        record(model, model.tokenize("sea"), [site])


def test_a_negative_layer_is_no_layer(tiny_model):
    with pytest.raises(SiteError, match="layer -1 does not exist"):
        tiny_model("llama").check_site(Site(-1, "resid_post"))


def test_only_what_is_kept_stays(one):
    model, batch = one("llama")
    sites = ["neurons.0", "neurons.2"]
    whole = record(model, batch, sites)
    kept = record(model, batch, sites, keep=lambda resid: resid.amax(1))
    for site, resid in whole.items():
        assert torch.equal(kept[site], resid.amax(1))


@pytest.mark.parametrize("prompts", ["the rain", ["the rain", "in the town"]])
def test_texts_are_tokenized_on_the_way(tiny_model, prompts):
    model, site = tiny_model("llama"), Site.parse("resid_post.1")
    got = record(model.hf, prompts, [site])[site]
    assert torch.equal(got, record(model, model.tokenize(prompts), [site])[site])
