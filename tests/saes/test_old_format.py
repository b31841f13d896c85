"""Folders from before sae-lens 6, told apart as sae-lens does and read with all constants."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from saesteer.errors import SaeError
from saesteer.models import Site
from saesteer.saes import load_sae, save_sae

OLD = {
    "architecture": "standard",
    "d_in": 16,
    "d_sae": 48,
    "dtype": "float32",
    "model_name": "tiny",
    "hook_name": "blocks.2.hook_resid_post",
    "activation_fn_str": "relu",
    "normalize_activations": "expected_average_only_in",
}
FACTOR = {"norm_scaling_factor": 0.5}


@pytest.fixture
def sae(random_sae):
    return random_sae("relu")


@pytest.fixture
def load(sae, tmp_path):
    """Loads the SAE's weights under another config."""

    def load(cfg):
        save_sae(sae, tmp_path)
        (tmp_path / "cfg.json").write_text(json.dumps(cfg))
        return load_sae(tmp_path)

    return load


@pytest.mark.parametrize(
    "cfg",
    [
        {**OLD, **FACTOR},
        {**OLD, "metadata": FACTOR},
        {**OLD, "metadata": FACTOR, "sae_lens_version": "5.10.2"},
        {**OLD, "metadata": {**FACTOR, "sae_lens_version": "3.2.0"}},
        {**OLD, **FACTOR, "normalize_activations": True},
    ],
)
def test_the_constant_that_inputs_were_scaled_by_is_kept(load, sae, resid, cfg):
    read = load(cfg)
    latents = sae.encode(resid * 0.5)
    torch.testing.assert_close(read.encode(resid), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read.decode(latents), sae.decode(latents) / 0.5)
    assert (read.site, read.model_name) == (Site(2, "resid_post"), "tiny")


def test_the_advice_of_the_error_can_be_followed(load, tmp_path):
    with pytest.raises(SaeError, match=r"Set metadata\.norm_scaling_factor in its cfg\.json"):
        load(OLD)
    cfg = json.loads((tmp_path / "cfg.json").read_text())
    load({**cfg, "metadata": FACTOR})


@pytest.mark.parametrize("more", [{}, {"metadata": {"note": "mine"}}])
def test_an_old_folder_is_what_sae_lens_makes_of_it(load, resid, tmp_path, more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens

        read = load({**OLD, "normalize_activations": "none", **more})
        theirs = sae_lens.SAE.load_from_disk(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(read.encode(resid), theirs.encode(resid), atol=1e-5, rtol=1e-5)
    assert read.metadata.get("note") == more.get("metadata", {}).get("note")


def test_a_top_k_of_before_version_6_keeps_its_k(load, random_sae, resid):
    kwargs = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 5}}
    read = load({**OLD, "normalize_activations": "none", **kwargs, "metadata": {}})
    assert (read.activation, read.k) == ("topk", 5)
    assert torch.equal(read.encode(resid), random_sae("topk").encode(resid))


@pytest.mark.parametrize("version", ["6.0.0-rc.0", "6.54.12", None])
def test_metadata_of_version_6_stand_as_they_are(load, sae, version):
    metadata = {"hook_name": "blocks.1.hook_mlp_out", "model_name": "other", "note": "mine"}
    cfg = {"architecture": "standard", "d_in": 16, "d_sae": 48, "metadata": metadata}
    read = load({**cfg, "metadata": {**metadata, "sae_lens_version": version}})
    assert (read.site, read.model_name) == (Site(1, "mlp_out"), "other")
    assert read.metadata["note"] == "mine"


@pytest.mark.parametrize("metadata", [[1], "none", {"sae_lens_version": "odd"}])
def test_odd_metadata_are_one_line(load, metadata):
    with pytest.raises(SaeError, match=r"cfg\.json is not in sae-lens' format") as caught:
        load({**OLD, "metadata": metadata})
    assert "\n" not in str(caught.value)
