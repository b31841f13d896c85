"""Transcoders and crosscoders as values: files both ways, steering, and what they refuse."""

from __future__ import annotations

import inspect
import json
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import saesteer as ss
from saesteer.errors import DimensionError, FeatureError, PlanError, SaeError, SiteError
from saesteer.models import Site, record
from saesteer.saes import Crosscoder, Transcoder, load_crosscoder, load_sae, load_transcoder
from saesteer.steer import feature_edits

IN, OUT = Site(1, "mlp_in"), Site(1, "mlp_out")
D_IN, D_OUT, D_SAE = 16, 24, 48


def make_transcoder(skip=True, d_in=D_IN, d_out=D_OUT) -> Transcoder:
    rng = torch.Generator().manual_seed(0)
    shapes = {"w_enc": (d_in, D_SAE), "b_enc": (D_SAE,), "w_dec": (D_SAE, d_out), "b_dec": (d_out,)}
    tensors = {name: torch.randn(shape, generator=rng) / 4 for name, shape in shapes.items()}
    cut = torch.rand(D_SAE, generator=rng)
    w_skip = torch.randn(d_out, d_in, generator=rng) if skip else None
    return Transcoder(
        **tensors, threshold=cut, site=IN, target=OUT, w_skip=w_skip, model_name="tiny-llama"
    )


def make_crosscoder(width=16) -> Crosscoder:
    rng = torch.Generator().manual_seed(0)
    widths = {Site(0, "resid_post"): width, Site(2, "resid_post"): width}
    return Crosscoder(
        w_enc={s: torch.randn(w, D_SAE, generator=rng) for s, w in widths.items()},
        b_enc=torch.randn(D_SAE, generator=rng),
        w_dec={s: torch.randn(D_SAE, w, generator=rng) for s, w in widths.items()},
        b_dec={s: torch.randn(w, generator=rng) for s, w in widths.items()},
        threshold=torch.rand(D_SAE, generator=rng),
        scale={s: 0.5 + i for i, s in enumerate(widths)},
        model_name="tiny",
    )


def resid_of(width, seed=7):
    return torch.randn(3, 20, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def lens():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens
    return sae_lens


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_a_transcoders_files_are_sae_lens_files(lens, tmp_path, skip):
    ours, x = make_transcoder(skip), resid_of(D_IN)
    folder = ss.save_sae(ours, tmp_path / "t", extra_metadata={"k": 4})
    theirs, again = lens.SAE.load_from_disk(folder), load_transcoder(folder)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), ours(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(theirs.encode(x), ours.encode(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(again(x), ours(x))
    assert (again.site, again.target, again.model_name) == (IN, OUT, "tiny-llama")
    assert again.metadata["k"] == 4


@pytest.mark.parametrize("arch", ["Transcoder", "SkipTranscoder", "JumpReLUTranscoder"])
def test_what_sae_lens_saves_is_read(lens, tmp_path, arch):
    from sae_lens.saes import transcoder as kinds
    from sae_lens.saes.sae import SAEMetadata

    names = {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    cfg = getattr(kinds, f"{arch}Config")(
        d_in=D_IN, d_out=D_OUT, d_sae=D_SAE, apply_b_dec_to_input=False
    )
    cfg.metadata = SAEMetadata(**names)
    theirs, rng = getattr(kinds, arch)(cfg), torch.Generator().manual_seed(3)
    for name, parameter in theirs.named_parameters():
        values = torch.randn(parameter.shape, generator=rng) / 4
        parameter.data = values.abs() if name == "threshold" else values
    theirs.save_model(tmp_path)
    ours, x = load_transcoder(tmp_path), resid_of(D_IN)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert ours.target == OUT


SCOPE = "model.layers.1.{}_feedforward_layernorm.output"
"""Where Gemma Scope 2 says that its transcoders read and write."""


def with_metadata(folder, **changes):
    """Change keys of a config's metadata; None removes one."""
    cfg = json.loads((folder / "cfg.json").read_text())
    metadata = {**cfg["metadata"], **changes}
    cfg["metadata"] = {key: value for key, value in metadata.items() if value is not None}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def test_a_transcoder_of_gemma_scope_2_reads_behind_the_norm(tmp_path):
    ours = make_transcoder()
    folder = with_metadata(
        ss.save_sae(ours, tmp_path / "t"),
        hook_name="blocks.1.hook_mlp_in",
        hook_name_out="blocks.1.hook_mlp_out",
        hf_hook_name=SCOPE.format("pre"),
        hf_hook_name_out=SCOPE.format("post"),
    )
    read = load_transcoder(folder)
    assert (read.site, read.target) == (IN, OUT)
    assert load_transcoder(ss.save_sae(read, tmp_path / "again")).site == IN
    with_metadata(folder, hf_hook_name=None)
    with pytest.raises(SaeError, match=r"hook_mlp_in' is not a site.*before the MLP's norm"):
        load_transcoder(folder)


@pytest.mark.parametrize(
    ("names", "site"),
    [
        ({"hook_name": "model.layers.1"}, "resid_post.1"),
        ({"hook_name": None, "hf_hook_name": "model.layers.1"}, "resid_post.1"),
        ({"hook_name": "odd", "hf_hook_name": "model.layers.1.output"}, "resid_post.1"),
        ({"hook_name": "blocks.1.hook_mlp_out", "hf_hook_name": SCOPE.format("post")}, "mlp_out.1"),
        ({"hook_name": "blocks.1.attn.hook_z", "hf_hook_name": "odd"}, "head_out.1"),
        (
            {
                "hook_name": None,
                "hook_head_index": 2,
                "hf_hook_name": "model.layers.1.self_attn.o_proj.input",
            },
            "head_out.1.2",
        ),
    ],
)
def test_a_site_is_read_from_hugging_faces_name_too(tiny_model, tiny_sae, tmp_path, names, site):
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.1")
    read = load_sae(with_metadata(ss.save_sae(sae, tmp_path / "sae"), **names))
    assert str(read.site) == site
    assert load_sae(ss.save_sae(read, tmp_path / "again")).site == read.site


def test_when_neither_name_is_a_site_the_first_is_named(tmp_path):
    folder = ss.save_sae(make_transcoder(), tmp_path)
    with_metadata(folder, hook_name="odd", hf_hook_name="odder")
    with pytest.raises(SaeError, match=r"hook_name 'odd' is not a site"):
        load_transcoder(folder)


def test_a_crosscoder_comes_back_as_it_was(tmp_path):
    ours = make_crosscoder()
    again = load_crosscoder(ss.save_sae(ours, tmp_path / "c"))
    acts = {site: resid_of(16, seed) for seed, site in enumerate(ours.sites)}
    latents = ours.encode(acts)
    assert 0 < (latents > 0).float().mean() < 1
    assert torch.equal(again.encode(acts), latents)
    for site in ours.sites:
        assert torch.equal(again.decode(latents)[site], ours.decode(latents)[site])
    assert torch.equal(again.shares(), ours.shares())


def test_matrices_may_be_stored_in_bf16(tmp_path):
    folder = ss.save_sae(make_crosscoder(), tmp_path, dtype=torch.bfloat16)
    stored = {n: t.dtype for n, t in load_file(folder / "sae_weights.safetensors").items()}
    assert stored.pop("threshold") == stored.pop("b_enc") == torch.float32
    assert {d for n, d in stored.items() if n.startswith("W_")} == {torch.bfloat16}
    assert load_crosscoder(folder).b_enc.dtype == torch.float32


def test_a_transcoder_steers_by_what_it_writes(tiny_model):
    model, ours = tiny_model("llama"), make_transcoder(d_in=32, d_out=32)
    batch = model.tokenize("the rain in the town")
    clean = record(model, batch, [OUT, "resid_post.1"])
    plan = ss.Plan(ss.add(ours.target, ours.direction(5)), where=ss.positions([2]))
    with plan.on(model):
        steered = record(model, batch, [OUT, "resid_post.1"])
    moved = steered[Site(1, "resid_post")] - clean[Site(1, "resid_post")]
    torch.testing.assert_close(moved[0, 2], ours.w_dec[5], atol=1e-4, rtol=1e-4)
    assert moved[0, 0].abs().max() == 0


@pytest.mark.parametrize("make", [make_transcoder, make_crosscoder])
def test_setting_a_feature_is_refused(make):
    """`clamp`, `scale`, `ablate` and `feature_add` all begin here; types are not checked at run."""
    reader = inspect.unwrap(feature_edits._reader)
    with pytest.raises(PlanError, match=r"read at one place and written at another.*saesteer\.add"):
        reader(make(), 3)


def test_sae_loading_names_the_right_loader(tmp_path):
    ss.save_sae(make_transcoder(), tmp_path / "t")
    ss.save_sae(make_crosscoder(), tmp_path / "c")
    with pytest.raises(SaeError, match=r"a transcoder, not an SAE.*load_transcoder"):
        load_sae(tmp_path / "t")
    with pytest.raises(SaeError, match=r"a crosscoder, not an SAE.*load_crosscoder"):
        load_sae(tmp_path / "c")
    with pytest.raises(SaeError, match=r"'saesteer_crosscoder' is not a transcoder's"):
        load_transcoder(tmp_path / "c")
    with pytest.raises(SaeError, match=r"'jumprelu_skip_transcoder' is not saesteer_crosscoder"):
        load_crosscoder(tmp_path / "t")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_activations": "layer_norm"}, r"'layer_norm' is not read for transcoders"),
        ({"metadata": {"hook_name": "mlp_in.1"}}, r"names no hook_name"),
        ({"metadata": {"hook_name": "mlp_in.1", "hook_name_out": "x"}}, r"'x' is not a site"),
        ({"metadata": [1]}, r"cfg.json is not in sae-lens' format"),
    ],
)
def test_odd_transcoder_files_are_one_line(tmp_path, changes, message):
    folder = ss.save_sae(make_transcoder(), tmp_path)
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**cfg, **changes}))
    with pytest.raises(SaeError, match=message) as caught:
        load_transcoder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("load", [load_transcoder, load_crosscoder])
@pytest.mark.parametrize(
    ("tensor", "message"),
    [(None, "have no threshold"), (torch.full((D_SAE,), torch.nan), "48 values that are NaN")],
)
def test_damaged_weights_are_one_line(tmp_path, load, tensor, message):
    sae = make_transcoder() if load is load_transcoder else make_crosscoder()
    path = ss.save_sae(sae, tmp_path) / "sae_weights.safetensors"
    weights = load_file(path)
    weights = {n: t for n, t in weights.items() if n != "threshold"}
    save_file(weights if tensor is None else {**weights, "threshold": tensor}, path)
    with pytest.raises(SaeError, match=message):
        load(tmp_path)


def test_sizes_that_do_not_fit():
    whole = make_transcoder()
    with pytest.raises(DimensionError, match=r"W_skip has shape \[16, 16\], expected \[24, 16\]"):
        replace(whole, w_skip=torch.zeros(16, 16))
    with pytest.raises(DimensionError, match=r"reads activations of width 16, got width 24"):
        whole(torch.zeros(3, 24))
    with pytest.raises(FeatureError, match=r"feature 48 does not exist"):
        whole.direction(48)
    shared = make_crosscoder()
    acts = {site: torch.zeros(3, 16) for site in shared.sites}
    with pytest.raises(SiteError, match=r"reads all of .*; resid_post\.2 missing"):
        shared.encode({shared.sites[0]: acts[shared.sites[0]]})
    with pytest.raises(DimensionError, match=r"at resid_post\.2 reads activations of width 16"):
        shared.encode({**acts, shared.sites[1]: torch.zeros(3, 17)})
    with pytest.raises(SiteError, match=r"does not write mlp_out\.0; it writes resid_post\.0"):
        shared.direction("mlp_out.0", 1)
