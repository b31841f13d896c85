"""A site's name and its value mean the same, in our spelling and in TransformerLens'."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saesteer.errors import SiteError
from saesteer.models import KINDS, Site, record

LAYERS = st.integers(0, 10_000)
PLAIN = st.builds(Site, LAYERS, st.sampled_from(KINDS))
HEADS = st.builds(Site, LAYERS, st.just("head_out"), st.integers(0, 500))


@given(PLAIN | HEADS)
def test_parsing_a_sites_text_gives_the_site(site):
    assert Site.parse(str(site)) == site
    assert Site.parse(site) is site


@given(PLAIN)
def test_parsing_a_sites_lens_name_gives_the_site(site):
    assert Site.parse(site.lens_name) == site


@pytest.mark.parametrize(
    ("lens", "own"),
    [
        ("blocks.9.hook_resid_pre", "resid_pre.9"),
        ("blocks.9.hook_resid_mid", "resid_mid.9"),
        ("blocks.9.hook_resid_post", "resid_post.9"),
        ("blocks.0.hook_attn_out", "attn_out.0"),
        ("blocks.0.hook_mlp_out", "mlp_out.0"),
        ("blocks.12.attn.hook_z", "head_out.12"),
        ("blocks.12.mlp.hook_in", "mlp_in.12"),
        ("blocks.12.mlp.hook_post", "neurons.12"),
    ],
)
def test_transformer_lens_names_mean_the_same(lens, own):
    assert str(Site.parse(lens)) == own
    assert Site.parse(own).lens_name == lens


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("blocks.9.hook_in", "resid_pre.9"),
        ("blocks.9.hook_out", "resid_post.9"),
        ("model.layers.12", "resid_post.12"),
        ("model.layers.12.output", "resid_post.12"),
        ("model.language_model.layers.12", "resid_post.12"),
        ("transformer.h.3", "resid_post.3"),
        ("gpt_neox.layers.0.input", "resid_pre.0"),
        ("model.layers.4.self_attn.o_proj.input", "head_out.4"),
        ("model.layers.4.pre_feedforward_layernorm.output", "mlp_in.4"),
        ("model.layers.4.mlp.input", "mlp_in.4"),
        ("model.layers.4.mlp.down_proj.input", "neurons.4"),
        ("model.layers.4.post_feedforward_layernorm.output", "mlp_out.4"),
        ("model.layers.4.post_feedforward_layernorm", "mlp_out.4"),
    ],
)
def test_other_libraries_names_are_read(name, own):
    assert str(Site.parse(name)) == own


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("blocks.4.hook_mlp_in", r"before the MLP's norm .* and behind it"),
        ("blocks.4.ln2.hook_normalized", r"before the norm's gain"),
        ("blocks.4.attn.hook_out", r"use blocks\.4\.hook_attn_out"),
        ("blocks.4.mlp.hook_out", r"use blocks\.4\.hook_mlp_out"),
        ("model.layers.4.mlp", r"write KIND\.LAYER"),
        ("model.layers.4.self_attn.output", r"write KIND\.LAYER"),
        ("model.layers.4.post_attention_layernorm.output", r"write KIND\.LAYER"),
        ("model.layers.x", r"write KIND\.LAYER"),
        ("layers4", r"write KIND\.LAYER"),
    ],
)
def test_what_means_one_thing_here_and_another_there_is_refused(name, reason):
    with pytest.raises(SiteError, match=rf"'{name}' is not a site.*{reason}") as caught:
        Site.parse(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arch", ["gemma2", "gemma3"])
def test_gemma_scopes_hooks_are_where_it_read(tiny_model, arch):
    model, names = tiny_model(arch), ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    sites, seen = [Site.parse(f"model.layers.1.{name}.output") for name in names], []
    hooks = [
        getattr(model.layout.blocks[1], name).register_forward_hook(
            lambda _module, _inputs, out: seen.append(out.detach())
        )
        for name in names
    ]
    try:
        found = record(model, model.tokenize("the sea"), sites)
    finally:
        for hook in hooks:
            hook.remove()
    assert torch.equal(found[sites[0]], seen[0])
    assert torch.equal(found[sites[1]], seen[1])


def test_a_head_is_the_third_part():
    assert Site.parse("head_out.9.3") == Site(9, "head_out", 3)


@pytest.mark.parametrize(
    "text",
    ["", "resid_post", "resid_post.", "resid_post.-1", "resid_post.9.3", "residual.9", "9"]
    + ["blocks.9.hook_resid", "blocks.x.hook_resid_post", "resid_post.9 ", "head_out.9.3.1"],
)
def test_other_texts_are_refused_with_the_kinds_that_exist(text):
    with pytest.raises(SiteError, match=r"is not a site; write KIND\.LAYER .* resid_pre, head_out"):
        Site.parse(text)


@pytest.mark.parametrize("thing", [9, None, ("resid_post", 9)])
def test_what_is_no_text_is_refused_likewise(thing):
    parse = inspect.unwrap(Site.parse)  # without the tests' own check of types
    with pytest.raises(SiteError, match=r"is not a site; write KIND\.LAYER"):
        parse(thing)


def test_order_is_that_of_a_forward_pass():
    names = ["resid_pre.0", "head_out.0", "attn_out.0", "resid_mid.0", "mlp_in.0", "neurons.0"]
    names += ["mlp_out.0", "resid_post.0", "resid_pre.1", "resid_post.10"]
    sites = [Site.parse(name) for name in names]
    assert sorted(reversed(sites), key=lambda site: site.order) == sites
