"""Files go both ways between this package and sae-lens, with equal encode and decode."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest
import torch

from saesteer.errors import OutputError
from saesteer.models.sites import Site
from saesteer.saes import load_sae, save_sae
from saesteer.saes.lens_format import FORMAT_VERSION

D_IN, D_SAE = 16, 48


@pytest.fixture(scope="module")
def lens():
    """The sae_lens module; its import warns about things that are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens
    return sae_lens


def randomise(module: torch.nn.Module) -> None:
    """Random values in every parameter, thresholds positive."""
    rng = torch.Generator().manual_seed(3)
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=rng) / 4
        parameter.data = values.abs() if name == "threshold" else values


def metadata(lens, **more):
    from sae_lens.saes.sae import SAEMetadata

    return SAEMetadata(model_name="tiny", hook_name="blocks.2.hook_resid_post", **more)


def assert_equal(ours, theirs, resid):
    """Latents and reconstruction agree; the decoders also agree on the same latents."""
    with torch.no_grad():
        latents = theirs.encode(resid)
        torch.testing.assert_close(ours.encode(resid), latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            ours.decode(latents), theirs.decode(latents), atol=1e-5, rtol=1e-5
        )
    assert (latents > 0).any()
    assert not (latents > 0).all()


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_sae_lens_reads_what_we_save(lens, random_sae, resid, tmp_path, activation, offset):
    sae = random_sae(activation, apply_b_dec_to_input=offset)
    save_sae(sae, tmp_path / "sae", extra_metadata={"dead_fraction": 0.25})
    theirs = lens.SAE.load_from_disk(tmp_path / "sae")
    assert_equal(sae, theirs, resid)
    assert theirs.cfg.metadata.dead_fraction == 0.25
    assert theirs.cfg.metadata.hook_name == "blocks.2.hook_resid_post"


def test_sae_lens_reads_a_bf16_file_as_we_do(lens, random_sae, resid, tmp_path):
    save_sae(random_sae(), tmp_path, dtype=torch.bfloat16)
    assert_equal(load_sae(tmp_path), lens.SAE.load_from_disk(tmp_path), resid)


def test_sae_lens_reads_all_heads_side_by_side(lens, random_sae, resid, tmp_path):
    sae = random_sae(site=Site(1, "head_out"))
    save_sae(sae, tmp_path)
    theirs = lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        latents = theirs.encode(resid.unflatten(-1, (4, 4)))
    torch.testing.assert_close(sae.encode(resid), latents)
    assert load_sae(tmp_path).site == Site(1, "head_out")


@pytest.mark.parametrize("kind", ["Standard", "JumpReLU", "TopK", "Gated"])
@pytest.mark.parametrize("offset", [True, False])
def test_we_read_what_sae_lens_saves(lens, resid, tmp_path, kind, offset):
    options = {"k": 5, "rescale_acts_by_decoder_norm": offset} if kind == "TopK" else {}
    cfg = getattr(lens, f"{kind}SAEConfig")(
        d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=offset, metadata=metadata(lens), **options
    )
    theirs = getattr(lens, f"{kind}SAE")(cfg)
    randomise(theirs)
    theirs.save_model(tmp_path)
    ours = load_sae(tmp_path)
    assert_equal(ours, theirs, resid)
    assert (ours.site, ours.model_name) == (Site(2, "resid_post"), "tiny")


@pytest.mark.parametrize("save", ["save_inference_model", "save_model"])
@pytest.mark.parametrize("rescale", [True, False])
def test_we_read_a_trained_batchtopk(lens, resid, tmp_path, save, rescale):
    cfg = lens.BatchTopKTrainingSAEConfig(
        d_in=D_IN,
        d_sae=D_SAE,
        k=5,
        rescale_acts_by_decoder_norm=rescale,
        metadata=metadata(lens),
    )
    trained = lens.BatchTopKTrainingSAE(cfg)
    randomise(trained)
    trained.topk_threshold.fill_(0.4)
    trained.save_inference_model(tmp_path / "inference")
    getattr(trained, save)(tmp_path / "sae")
    assert_equal(load_sae(tmp_path / "sae"), lens.SAE.load_from_disk(tmp_path / "inference"), resid)


def test_a_negative_threshold_acts_as_zero(lens, resid, tmp_path):
    theirs = lens.JumpReLUSAE(
        lens.JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE, metadata=metadata(lens))
    )
    randomise(theirs)
    theirs.threshold.data -= 0.5
    theirs.save_model(tmp_path)
    ours = load_sae(tmp_path)
    assert (ours.threshold >= 0).all()
    assert_equal(ours, theirs, resid)


def test_a_constant_input_scale_is_folded(lens, resid, tmp_path):
    theirs = lens.StandardSAE(
        lens.StandardSAEConfig(d_in=D_IN, d_sae=D_SAE, metadata=metadata(lens))
    )
    randomise(theirs)
    theirs.save_model(tmp_path)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    cfg["normalize_activations"] = "expected_average_only_in"
    cfg["metadata"]["norm_scaling_factor"] = 0.3
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    ours = load_sae(tmp_path)
    theirs.fold_activation_norm_scaling_factor(0.3)
    assert_equal(ours, theirs, resid)


def test_a_folder_from_before_sae_lens_6_is_read(lens, resid, tmp_path):
    theirs = lens.StandardSAE(
        lens.StandardSAEConfig(d_in=D_IN, d_sae=D_SAE, metadata=metadata(lens))
    )
    randomise(theirs)
    theirs.save_model(tmp_path)
    old = {
        "architecture": "standard",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "model_name": "tiny",
        "hook_name": "blocks.2.hook_resid_post",
        "activation_fn_str": "relu",
        "normalize_activations": False,
    }
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    assert_equal(load_sae(tmp_path), theirs, resid)


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_save_then_load_is_exact(random_sae, resid, tmp_path, activation):
    sae = random_sae(activation, metadata={"dataset_path": "prose"})
    save_sae(sae, tmp_path)
    again = load_sae(tmp_path)
    assert again.fingerprint() == sae.fingerprint()
    assert torch.equal(again.encode(resid), sae.encode(resid))
    assert (again.activation, again.k, again.model_name) == (activation, sae.k, "tiny")
    assert again.metadata["dataset_path"] == "prose"


@pytest.mark.parametrize("trained", [{}, {"sae_lens_training_version": "6.1.0"}])
def test_a_file_says_which_format_it_is_in_and_what_trained_it(random_sae, tmp_path, trained):
    save_sae(random_sae(metadata={**trained, "sae_lens_version": "6.1.0"}), tmp_path)
    metadata = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert metadata["sae_lens_version"] == FORMAT_VERSION
    assert metadata["sae_lens_training_version"] == trained.get("sae_lens_training_version")


@pytest.mark.parametrize("name", ["head_out.1", "head_out.1.2", "mlp_out.0", "resid_pre.3"])
def test_a_saved_sae_knows_its_site(random_sae, tmp_path, name):
    save_sae(random_sae(site=Site.parse(name)), tmp_path)
    assert load_sae(tmp_path).site == Site.parse(name)


def test_bf16_storage_rounds_the_matrices_only(random_sae, tmp_path):
    sae = random_sae()
    save_sae(sae, tmp_path, dtype=torch.bfloat16)
    again = load_sae(tmp_path)
    assert again.dtype == torch.float32
    assert torch.equal(again.w_enc, sae.w_enc.to(torch.bfloat16).float())
    assert torch.equal(again.threshold, sae.threshold)
    plain = tmp_path / "plain"
    save_sae(sae, plain)
    sizes = [(d / "sae_weights.safetensors").stat().st_size for d in (tmp_path, plain)]
    assert sizes[0] < 0.6 * sizes[1]


def test_saving_replaces_both_files_and_leaves_the_others(random_sae, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    save_sae(random_sae(), tmp_path)
    save_sae(random_sae("topk"), tmp_path)
    assert load_sae(tmp_path).activation == "topk"
    assert {p.name for p in tmp_path.iterdir()} == {
        "cfg.json",
        "metrics.jsonl",
        "sae_weights.safetensors",
    }


def test_a_failed_save_leaves_the_old_files(random_sae, tmp_path):
    sae = random_sae()
    save_sae(sae, tmp_path)
    with pytest.raises(OutputError, match="can't be written"):
        save_sae(random_sae(seed=1), tmp_path, extra_metadata={"bad": object()})
    assert load_sae(tmp_path).fingerprint() == sae.fingerprint()
    assert len(list(tmp_path.iterdir())) == 2


def test_an_sae_is_never_half_of_another(random_sae, tmp_path, monkeypatch):
    sae, put = random_sae(), os.replace
    save_sae(sae, tmp_path)

    def full(source, target):
        if Path(target) == tmp_path / "cfg.json" and not str(source).endswith(".old"):
            raise OSError(28, "No space left on device")
        put(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        save_sae(random_sae(seed=1, model_name="other"), tmp_path)
    again = load_sae(tmp_path)
    assert (again.fingerprint(), again.model_name) == (sae.fingerprint(), "tiny")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_first_save_leaves_no_folder(random_sae, tmp_path, monkeypatch):
    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saesteer.saes.save.save_tensors", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        save_sae(random_sae(), tmp_path / "deep" / "new")
    assert not (tmp_path / "deep" / "new").exists()


def test_a_folder_that_is_a_file_is_refused(random_sae, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written to"):
        save_sae(random_sae(), tmp_path / "file" / "sae")
