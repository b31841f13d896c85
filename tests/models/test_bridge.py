"""A TransformerBridge stands for the model inside it: the same sites, logits, text and identity.

Imports transformer_lens, which takes seconds.
"""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import transformers

from saesteer.errors import SiteError
from saesteer.models import KINDS, Site, as_model, install, load_model, logits, record

BRIDGED = ("llama", "gpt2", "gemma3", "neox", "mixtral")


@pytest.fixture(scope="module")
def boot():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge
    return TransformerBridge.boot_transformers


@pytest.fixture(scope="module")
def bridges(boot, tiny_model, tmp_path_factory):
    """Bridges by architecture; booting changes the module it is given, so it gets a copy."""
    made = {}

    def bridge(arch):
        if arch not in made:
            model = tiny_model(arch)
            made[arch] = boot_copy(boot, model, tmp_path_factory.mktemp(arch))
        return made[arch]

    return bridge


def boot_copy(boot, model, folder, keep_wrapper=False):
    hf = copy.deepcopy(model.hf)
    if not keep_wrapper:
        del hf.__dict__["_saesteer_model"]
    hf.config.architectures = [type(hf).__name__]
    hf.config._name_or_path = str(folder)
    model.tokenizer.save_pretrained(folder)
    hf.config.save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return boot(str(folder), hf_model=hf, tokenizer=tokenizer)


@pytest.fixture(params=BRIDGED)
def pair(request, bridges, tiny_model):
    """The plain model and the same one behind a bridge, with one tokenizer."""
    plain = tiny_model(request.param)
    return plain, load_model(bridges(request.param), tokenizer=plain.tokenizer)


def test_every_site_is_recorded_as_in_the_plain_model(pair, prompts):
    plain, bridged = pair
    batch = plain.tokenize(prompts)
    mask = batch.attention_mask
    dense = {"router_in"}
    lacking = {"tiny-neox": {"resid_mid", *dense}, "tiny-mixtral": {"neurons"}}
    without = lacking.get(plain.name, dense)
    sites = [Site(2, kind) for kind in KINDS if kind not in without] + [Site(1, "head_out", 3)]
    theirs, ours = record(bridged, batch, sites), record(plain, batch, sites)
    for site in sites:
        assert (theirs[site] - ours[site])[mask].abs().max() <= 1e-5 * ours[site][mask].abs().max()
        assert bridged.layout.width(site) == plain.layout.width(site) == ours[site].shape[-1], site
    for kind in without:
        with pytest.raises(SiteError):
            record(bridged, batch, [Site(2, kind)])


def test_logits_and_text_equal(pair, prompts):
    plain, bridged = pair
    batch = plain.tokenize(prompts)
    ours, theirs = logits(plain, batch), logits(bridged, batch)
    difference = (ours - theirs)[batch.attention_mask].abs().max()
    assert difference <= 1e-5 * ours.abs().max()
    texts = plain.generate(prompts, max_new_tokens=6)
    assert bridged.generate(prompts, max_new_tokens=6) == texts
    assert bridged.generate(prompts[0], max_new_tokens=6) == texts[0]


def test_the_weights_have_the_same_fingerprint(pair):
    plain, bridged = pair
    assert bridged.fingerprint() == plain.fingerprint()


def test_an_edit_reaches_the_logits(pair):
    plain, bridged = pair
    batch = plain.tokenize("the rain in the town")
    edited = []
    for model in (plain, bridged):
        point = model.layout.point(Site(1, "resid_post"))
        handle = install(point, lambda resid: resid + torch.linspace(-9, 9, 32))
        edited.append(logits(model, batch))
        handle.remove()
    scale = edited[0].abs().max()
    assert (edited[0] - edited[1]).abs().max() <= 1e-5 * scale
    assert (edited[0] - logits(plain, batch)).abs().max() > 0.01 * scale


def test_a_bridge_keeps_its_wrapper_and_brings_its_tokenizer(bridges):
    bridge = bridges("qwen2")
    model = as_model(bridge)
    assert as_model(bridge) is model
    assert as_model(bridge.original_model) is model
    assert model.tokenizer is bridge.tokenizer
    assert isinstance(model.generate("the rain", max_new_tokens=2), str)


def test_a_model_that_was_bridged_after_it_was_wrapped(boot, tiny_model, tmp_path):
    plain = tiny_model("gpt2")
    bridge = boot_copy(boot, plain, tmp_path, keep_wrapper=True)
    model = as_model(bridge)
    batch = plain.tokenize("the rain in the town")
    for kind in set(KINDS) - {"router_in"}:
        site = Site(2, kind)
        ours, theirs = record(plain, batch, [site])[site], record(model, batch, [site])[site]
        assert (ours - theirs).abs().max() <= 1e-5 * ours.abs().max(), kind
