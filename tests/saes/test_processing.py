"""SAEs trained on models that TransformerLens had processed read the models as they are."""

from __future__ import annotations

import copy
import json
import warnings

import pytest
import torch

from saesteer.errors import SaeError
from saesteer.models import Site, as_model, record
from saesteer.saes import check_width, level_thresholds, load_sae, load_transcoder, save_sae
from saesteer.saes import load as loading
from saesteer.saes.convert import scores_of
from saesteer.saes.transcoder import Transcoder

CENTRED = {"center_writing_weights": True}
WRITTEN = ["resid_pre.1", "resid_mid.1", "resid_post.1", "attn_out.1", "mlp_out.1"]
UNCHANGED = ["mlp_in.1", "head_out.1", "neurons.1"]


def published(sae, folder, options):
    """A folder as sae-lens writes it, which says how the model was loaded; the SAE in it."""
    save_sae(sae, folder, extra_metadata={"model_from_pretrained_kwargs": options})
    return load_sae(folder)


def less_its_mean(resid):
    return resid - resid.mean(-1, keepdim=True)


@pytest.fixture(scope="module")
def centred_gpt2(tiny_model):
    """What center_writing_weights makes of a GPT-2: what writes to the residual, less its mean."""
    hf = copy.deepcopy(tiny_model("gpt2").hf)
    del hf.__dict__["_saesteer_model"]
    base = hf.transformer
    writers = [base.wte, base.wpe, *(p for b in base.h for p in (b.attn.c_proj, b.mlp.c_proj))]
    with torch.no_grad():
        for tensor in (t for writer in writers for t in writer.parameters()):
            tensor.copy_(less_its_mean(tensor))
    return as_model(hf)


@pytest.mark.parametrize("name", WRITTEN + UNCHANGED)
def test_latents_are_those_of_the_processed_model(
    tiny_model, tiny_sae, centred_gpt2, tmp_path, name
):
    model, site = tiny_model("gpt2"), Site.parse(name)
    batch = model.tokenize("the rain in the town")
    plain, processed = (record(m, batch, [site])[site] for m in (model, centred_gpt2))
    sae = tiny_sae(model, site).fainter(0.1)
    ours = published(sae, tmp_path, CENTRED)
    expected = sae.encode(processed)
    assert ours.centred == (name in WRITTEN)
    assert (expected > 0).any()
    torch.testing.assert_close(ours.encode(plain), expected, atol=1e-4, rtol=1e-4)
    features = [3, 40]
    read = ours.slice(features).read(plain)
    torch.testing.assert_close(read, expected[..., features], atol=1e-4, rtol=1e-4)
    assert name in UNCHANGED or not torch.allclose(sae.encode(plain), expected, atol=1e-3)


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("scaled", [True, False])
def test_the_mean_is_folded_out_of_any_encoder(
    random_sae, resid, tmp_path, activation, offset, scaled
):
    sae = random_sae(activation, apply_b_dec_to_input=offset)
    save_sae(sae, tmp_path, extra_metadata={"model_from_pretrained_kwargs": CENTRED})
    if scaled:
        cfg = json.loads((tmp_path / "cfg.json").read_text())
        cfg |= {"normalize_activations": "expected_average_only_in", "norm_scaling_factor": 0.5}
        (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    ours, scale = load_sae(tmp_path), 0.5 if scaled else 1.0
    latents = sae.encode(less_its_mean(resid + 3) * scale)
    torch.testing.assert_close(ours.encode(resid + 3), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(latents), sae.decode(latents) / scale)


def test_what_is_not_seen_is_neither_rebuilt_nor_an_error(random_sae, resid, tmp_path):
    sae = random_sae()
    ours, centred = published(sae, tmp_path, CENTRED), less_its_mean(resid)
    mean = resid.mean(-1, keepdim=True)
    torch.testing.assert_close(ours(resid), sae(centred) + mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.seen(resid), centred)
    assert sae.seen(resid) is resid
    rows = resid.flatten(0, 1)
    assert scores_of(ours, rows).fvu == pytest.approx(scores_of(sae, less_its_mean(rows)).fvu)


def test_levelling_counts_it_as_no_error_either(random_sae, resid, tmp_path):
    sae = random_sae(threshold=torch.full((48,), 0.5))
    ours, rows = published(sae, tmp_path, CENTRED), resid.flatten(0, 1) + 1
    levelled, _ = level_thresholds(ours, {"text": rows})
    expected, _ = level_thresholds(sae, {"text": less_its_mean(rows)})
    torch.testing.assert_close(levelled.threshold, expected.threshold)


def test_saving_it_and_loading_it_again_is_exact(random_sae, resid, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens
    once = published(random_sae(), tmp_path / "old", {**CENTRED, "n_devices": 1})
    again = load_sae(save_sae(once, tmp_path / "new"))
    assert again.centred
    assert again.fingerprint() == once.fingerprint()
    assert again.metadata == {**once.metadata, "sae_lens_training_version": None}
    metadata = json.loads((tmp_path / "new" / "cfg.json").read_text())["metadata"]
    assert metadata["model_from_pretrained_kwargs"] == {"n_devices": 1}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sae_lens.SAE.load_from_disk(tmp_path / "new").encode(resid)
    torch.testing.assert_close(once.encode(resid), theirs, atol=1e-5, rtol=1e-5)


def test_the_registrys_options_are_followed(random_sae, resid, tmp_path, monkeypatch):
    sae, lens = random_sae(), loading.sae_lens()
    save_sae(sae, tmp_path, extra_metadata={"model_from_pretrained_kwargs": CENTRED})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lens.SAE.load_from_disk(tmp_path)
    monkeypatch.setattr(lens.SAE, "from_pretrained", lambda *_names, **_where: theirs)
    ours = load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert ours.centred
    latents = sae.encode(less_its_mean(resid))
    torch.testing.assert_close(ours.encode(resid), latents, atol=1e-5, rtol=1e-5)


def test_a_model_whose_mean_transformer_lens_leaves_is_refused(tiny_model, tiny_sae, tmp_path):
    fits = {arch: tiny_model(arch) for arch in ("gpt2", "neox", "llama")}
    ours = published(tiny_sae(fits["gpt2"], "resid_post.1"), tmp_path, CENTRED)
    check_width(ours, fits["gpt2"])
    check_width(ours, fits["neox"])
    with pytest.raises(SaeError, match=r"center_writing_weights.*tiny-llama has LlamaRMSNorm"):
        check_width(ours, fits["llama"])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("mlp_in.1", "fold_ln"), ("router_in.1", "fold_ln")),
        *(("head_out.1", "fold_value_biases"), ("head_out.1.2", "refactor_factored_attn_matrices")),
    ],
)
def test_what_the_weights_cannot_hold_is_refused(random_sae, tmp_path, name, option):
    sae = random_sae(site=Site.parse(name))
    with pytest.raises(SaeError, match=rf"{option}, which changes what is .* at {name}") as caught:
        published(sae, tmp_path, {option: True})
    assert "\n" not in str(caught.value)
    assert published(sae, tmp_path, {option: False}).fingerprint() == sae.fingerprint()


@pytest.mark.parametrize(
    "options",
    [
        {"fold_ln": True, "fold_value_biases": True, "center_unembed": True},
        {"center_writing_weights": False},
        {"dtype": "float16", "device": "cuda", "revision": "step1000", "n_devices": 2},
        {},
        None,
    ],
)
def test_what_changes_nothing_here_is_read_in_silence(random_sae, tmp_path, options):
    sae = random_sae()
    ours = published(sae, tmp_path, options)
    assert ours.fingerprint() == sae.fingerprint()
    assert not ours.centred


def test_odd_options_are_one_line(random_sae, tmp_path):
    with pytest.raises(SaeError, match="do not make an SAE") as caught:
        published(random_sae(), tmp_path, ["fold_ln"])
    assert "\n" not in str(caught.value)


def test_a_transcoder_reads_less_the_mean_too(resid, tmp_path):
    rng = torch.Generator().manual_seed(0)
    ours = Transcoder(
        w_enc=torch.randn(16, 48, generator=rng),
        b_enc=torch.randn(48, generator=rng),
        w_dec=torch.randn(48, 16, generator=rng),
        b_dec=torch.randn(16, generator=rng),
        threshold=torch.rand(48, generator=rng),
        site=Site(1, "resid_mid"),
        target=Site(1, "mlp_out"),
        w_skip=torch.randn(16, 16, generator=rng),
    )
    save_sae(ours, tmp_path / "t", extra_metadata={"model_from_pretrained_kwargs": CENTRED})
    read = load_transcoder(tmp_path / "t")
    torch.testing.assert_close(read(resid), ours(less_its_mean(resid)), atol=1e-4, rtol=1e-4)
    again = load_transcoder(save_sae(read, tmp_path / "again"))
    assert torch.equal(again(resid), read(resid))
