"""Every way to name an SAE, and one clear line for every way that a file can be bad."""

from __future__ import annotations

import inspect
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from saesteer.errors import DimensionError, NetworkError, SaeError
from saesteer.saes import check_width, load_sae, sae_path, save_sae, shipped_saes
from saesteer.saes import load as loading
from saesteer.saes.lens_format import cfg_of, tensors_of

SCALED = {"normalize_activations": "expected_average_only_in"}


@pytest.fixture
def folder(random_sae, tmp_path):
    """A good SAE folder, to be damaged."""
    return save_sae(random_sae(), tmp_path / "sae")


def edit_cfg(folder, **changes):
    """Change keys of cfg.json; None removes one."""
    path = folder / "cfg.json"
    cfg = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in cfg.items() if v is not None}))


def edit_weights(folder, **changes):
    """Change tensors of the weights; None removes one."""
    path = folder / "sae_weights.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, path)


def one_line(caught):
    """The message, after checking that it is one line."""
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_a_folder_is_its_own_path(folder):
    assert sae_path(folder) == sae_path(str(folder)) == folder


def test_dtype_and_device_are_what_was_asked_for(folder):
    sae = load_sae(folder, device="cpu", dtype=torch.float64)
    assert (sae.dtype, str(sae.device)) == (torch.float64, "cpu")
    assert load_sae(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_shipped_saes_load_by_name():
    assert "smollm2-135m-instruct/resid_post.9" in shipped_saes()
    for name, path in shipped_saes().items():
        sae = load_sae(name)
        assert sae_path(name) == path
        assert sae.name == name
        assert sae.activation == "jumprelu"


@pytest.mark.parametrize("form", [(("{0}", "{1}"),), ("{0}", "{1}"), ("{0}:{1}",)])
def test_shipped_saes_load_by_release_and_id(form):
    name = "smollm2-135m-instruct/resid_post.9"
    filled = [
        tuple(part.format(*name.split("/")) for part in each)
        if isinstance(each, tuple)
        else each.format(*name.split("/"))
        for each in form
    ]
    assert sae_path(*filled) == shipped_saes()[name]
    assert load_sae(*filled).name == name


@pytest.mark.parametrize("ref", [(("a",),), (("a", "b", "c"),), (("a", "b"), "c"), ((),)])
def test_what_is_no_pair_of_release_and_id(ref):
    resolve = inspect.unwrap(loading._resolve)  # without the tests' own check of types
    with pytest.raises(SaeError, match=r"is no SAE's name: give \(release, id\), a pair"):
        resolve(*ref, *[None] * (2 - len(ref)))


def test_an_unknown_name_says_what_would_do():
    with pytest.raises(
        SaeError, match=r"no SAE 'nowhere'.*Give a folder, a shipped name"
    ) as caught:
        load_sae("nowhere")
    one_line(caught)


@pytest.mark.parametrize(
    ("file", "message"),
    [("cfg.json", "no cfg.json in"), ("sae_weights.safetensors", "no sae_weights.safetensors in")],
)
def test_a_missing_file_is_named(folder, file, message):
    (folder / file).unlink()
    with pytest.raises(SaeError, match=message) as caught:
        load_sae(folder)
    one_line(caught)


@pytest.mark.parametrize("keep", [0, 4, 60, 0.5, 0.999])
def test_truncated_weights_are_refused(folder, keep):
    path = folder / "sae_weights.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(SaeError, match="truncated or corrupted") as caught:
        load_sae(folder)
    one_line(caught)


def test_corrupted_weights_are_refused(folder):
    path = folder / "sae_weights.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(SaeError, match="truncated or corrupted") as caught:
        load_sae(folder)
    one_line(caught)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"cfg"', "\x00"])
def test_broken_json_is_refused(folder, text):
    (folder / "cfg.json").write_text(text)
    with pytest.raises(SaeError, match=r"can't be read as JSON|expected an object") as caught:
        load_sae(folder)
    one_line(caught)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_counted(folder, bad):
    b_enc = load_file(folder / "sae_weights.safetensors")["b_enc"]
    b_enc[3:5] = bad
    edit_weights(folder, b_enc=b_enc)
    with pytest.raises(SaeError, match="b_enc holds 2 values that are NaN or infinite"):
        load_sae(folder)


def test_wrong_shapes_are_refused(folder):
    edit_weights(folder, W_dec=torch.zeros(48, 15))
    with pytest.raises(DimensionError, match=r"W_dec \[48, 15\], expected \[16, 48\] and \[48, 16"):
        load_sae(folder)


def test_a_config_of_another_width_is_refused(folder):
    edit_cfg(folder, d_in=17)
    with pytest.raises(DimensionError, match=r"expected \[17, 48\]"):
        load_sae(folder)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "b_dec", "threshold"])
def test_a_missing_tensor_is_named(folder, name):
    edit_weights(folder, **{name: None})
    with pytest.raises(SaeError, match=f"the weights have no {name}, only"):
        load_sae(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "temporal"}, "architecture 'temporal' has no threshold form"),
        ({"normalize_activations": "layer_norm"}, "'layer_norm' depends on each token"),
        (SCALED, "norm_scaling_factor"),
        ({**SCALED, "norm_scaling_factor": float("inf")}, "norm_scaling_factor"),
        ({**SCALED, "norm_scaling_factor": -0.5}, "norm_scaling_factor"),
        ({"apply_b_dec_to_input": "yes"}, "apply_b_dec_to_input is 'yes', expected true or false"),
        ({"reshape_activations": "odd"}, "'odd' is unknown; expected none or hook_z"),
        ({"metadata": {"model_name": "tiny"}}, "names no hook_name"),
        ({"metadata": {"hook_name": "somewhere"}}, "'somewhere' is not a site"),
        (
            {"metadata": {"hook_name": "resid_post.1", "hook_name_out": "mlp_out.1"}},
            "a transcoder, not an SAE",
        ),
    ],
)
def test_what_a_threshold_form_cannot_hold_is_refused(folder, changes, message):
    edit_cfg(folder, **changes)
    with pytest.raises(SaeError, match=message) as caught:
        load_sae(folder)
    one_line(caught)


def test_a_fine_tuning_factor_is_refused_unless_it_is_one(folder):
    edit_weights(folder, scaling_factor=torch.ones(48))
    load_sae(folder)
    edit_weights(folder, scaling_factor=torch.full((48,), 2.0))
    with pytest.raises(SaeError, match="scaling_factor other than 1 is no longer part") as caught:
        load_sae(folder)
    one_line(caught)


def test_a_latent_that_writes_nothing_writes_nothing_in_units_of_its_norm(folder, resid):
    w_dec = load_file(folder / "sae_weights.safetensors")["W_dec"]
    w_dec[3] = 0
    edit_weights(folder, W_dec=w_dec)
    edit_cfg(folder, rescale_acts_by_decoder_norm=True)
    sae = load_sae(folder)
    assert sae.decode(sae.encode(resid)).isfinite().all()
    assert (sae.w_dec[3] == 0).all()


@pytest.mark.parametrize("value", [-0.4, 0.4])
def test_one_threshold_for_all_latents_is_that_of_each_and_never_negative(folder, value):
    edit_cfg(folder, architecture="batchtopk")
    edit_weights(folder, threshold=None, topk_threshold=torch.tensor(value))
    assert torch.equal(load_sae(folder).threshold, torch.full((48,), max(value, 0.0)))


@pytest.mark.parametrize(("said", "expected"), [(None, True), (True, True), (False, False)])
def test_inputs_lose_the_decoders_bias_unless_a_file_says_otherwise(folder, said, expected):
    edit_cfg(folder, apply_b_dec_to_input=said)
    assert load_sae(folder).apply_b_dec_to_input is expected


def test_a_threshold_of_each_latent_comes_before_one_for_all(folder):
    expected = load_sae(folder).threshold
    edit_cfg(folder, architecture="batchtopk")
    edit_weights(folder, topk_threshold=torch.tensor(0.4))
    assert torch.equal(load_sae(folder).threshold, expected)


@pytest.mark.parametrize(
    ("cfg", "weights"),
    [
        ({"architecture": "topk", "k": "many"}, {}),
        ({"architecture": ["topk"]}, {}),
        ({"d_in": None, "d_sae": None}, {"W_enc": torch.tensor(1.0)}),
        ({"d_in": None, "d_sae": None}, {"W_enc": torch.ones(16)}),
        ({"architecture": "topk", "k": 3, "rescale_acts_by_decoder_norm": True}, {"b_enc": None}),
        (
            {"architecture": "gated"},
            {"r_mag": torch.ones(3), "b_mag": torch.ones(48), "b_gate": torch.ones(48)},
        ),
        ({"metadata": {"hook_name": "head_out.1", "hook_head_index": "first"}}, {}),
    ],
)
def test_odd_values_are_one_line_too(folder, cfg, weights):
    edit_cfg(folder, **cfg)
    edit_weights(folder, **weights)
    with pytest.raises(SaeError) as caught:
        load_sae(folder)
    assert str(folder) in one_line(caught)


def test_a_width_that_does_not_fit_names_both(random_sae):
    def model(width):
        layout = SimpleNamespace(width=lambda _site: width)
        return SimpleNamespace(name="gpt-x", layout=layout, check_site=lambda site: site)

    check_width(random_sae(), model(16))
    with pytest.raises(DimensionError, match=r"width 16, but gpt-x has width 32 at resid_post\.2"):
        check_width(random_sae(), model(32))


def test_an_unknown_release_names_the_nearest():
    with pytest.raises(
        SaeError, match=r"'gpt2-small-res-jp'.*nearest: gpt2-small-res-jb"
    ) as caught:
        load_sae("gpt2-small-res-jp:blocks.8.hook_resid_pre")
    one_line(caught)


@pytest.mark.parametrize("read", [load_sae, sae_path])
def test_an_unknown_id_names_the_nearest(read):
    with pytest.raises(SaeError, match=r"no SAE 'blocks\.77.*nearest: blocks\.") as caught:
        read(("gpt2-small-res-jb", "blocks.77.hook_resid_pre"))
    one_line(caught)


@pytest.mark.parametrize("read", [load_sae, sae_path])
def test_no_network_is_one_line(read, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NetworkError, match="can't be reached") as caught:
        read("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    one_line(caught)


def test_release_and_id_may_come_in_three_ways(random_sae, monkeypatch):
    seen, sae = [], random_sae()
    files = cfg_of(sae), tensors_of(sae), "some-sae"
    monkeypatch.setattr(loading, "_from_registry", lambda *names: seen.append(names) or files)
    load_sae("some-release:blocks.1.hook_resid_pre")
    load_sae(("some-release", "blocks.1.hook_resid_pre"))
    load_sae("some-release", "blocks.1.hook_resid_pre")
    assert seen == [("some-release", "blocks.1.hook_resid_pre")] * 3


def test_a_registry_sae_is_folded_like_a_folder(random_sae, resid, folder, monkeypatch):
    sae_lens = loading.sae_lens()
    lens = sae_lens.SAE.load_from_disk(folder)
    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", lambda *_names, **_where: lens)
    sae = load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert torch.equal(sae.encode(resid), load_sae(folder).encode(resid))
    assert sae.name == "gpt2-small-res-jb:blocks.8.hook_resid_pre"
