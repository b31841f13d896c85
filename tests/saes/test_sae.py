"""Laws of an SAE as a value: what encoding, decoding and slicing must satisfy."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saesteer.errors import DimensionError, FeatureError, SaeError
from saesteer.models.sites import Site
from saesteer.saes import SAE, FeatureSlice, save_sae
from saesteer.saes.checks import check_features

NEAR = 1e-4  # a pre-activation this near to its threshold may fall on either side


def clear_of_threshold(sae, resid, features):
    """True where no rounding can flip membership."""
    index = torch.tensor(features)
    return (sae.pre(resid)[..., index] - sae.threshold[index]).abs() > NEAR


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_latents_are_never_negative_and_mostly_those_of_the_definition(
    random_sae, resid, activation
):
    sae = random_sae(activation)
    latents = sae.encode(resid)
    pre = (resid - sae.b_dec) @ sae.w_enc + sae.b_enc
    assert (latents >= 0).all()
    on = latents > 0
    assert torch.equal(latents[on], pre[on])
    assert on.any()
    assert not on.all()


def test_threshold_form_is_on_exactly_above_its_threshold(random_sae, resid):
    sae = random_sae()
    pre = sae.pre(resid)
    assert torch.equal(sae.encode(resid) > 0, pre > sae.threshold)


def test_a_fainter_sae_has_the_same_latents_and_more_of_them(random_sae, resid):
    sae = random_sae("jumprelu")
    usual, faint = sae.encode(resid), sae.fainter(0.5).encode(resid)
    assert torch.equal(torch.where(usual > 0, faint, 0.0), usual)
    more = (faint > 0) & (usual == 0)
    assert bool(more.any())
    assert bool((faint[more] > 0.5 * sae.threshold.expand_as(faint)[more]).all())
    topk = random_sae("topk")
    assert torch.equal(topk.fainter(0.5).encode(resid), topk.encode(resid))


def test_topk_keeps_the_k_largest(random_sae, resid):
    sae = random_sae("topk", b_enc=torch.full((48,), 50.0))
    latents = sae.encode(resid)
    assert ((latents > 0).sum(-1) == 5).all()
    kept = latents.where(latents > 0, torch.inf).amin(-1)
    left = sae.pre(resid).where(latents == 0, -torch.inf).amax(-1)
    assert (kept >= left).all()


def test_topk_of_negative_pre_activations_is_zero(random_sae, resid):
    sae = random_sae("topk", b_enc=torch.full((48,), -1e3))
    assert not sae.encode(resid).any()


def test_decoding_nothing_gives_the_decoder_bias(random_sae):
    sae = random_sae()
    assert torch.equal(sae.decode(torch.zeros(2, 48)), sae.b_dec.expand(2, -1))


def test_call_returns_the_inputs_dtype_and_encodes_in_its_own(random_sae, resid):
    sae = random_sae()
    half = resid.to(torch.bfloat16)
    assert sae(half).dtype == torch.bfloat16
    assert sae.encode(half).dtype == torch.float32


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_a_slice_reads_what_the_full_encode_reads(random_sae, resid, activation, offset):
    sae = random_sae(activation, apply_b_dec_to_input=offset)
    features = [40, 3, 17, 3]
    part = sae.slice(features)
    full = sae.encode(resid)[..., features]
    clear = clear_of_threshold(sae, resid, features)
    assert clear.float().mean() > 0.9
    torch.testing.assert_close(part.read(resid)[clear], full[clear], atol=1e-5, rtol=1e-5)


def test_a_slice_writes_what_the_decoder_writes(random_sae, resid):
    sae = random_sae()
    latents = sae.encode(resid)
    changed = latents.clone()
    changed[..., [1, 30]] += 2.5
    moved = sae.slice([1, 30]).delta(torch.full((3, 20, 2), 2.5))
    expected = sae.decode(changed) - sae.decode(latents)
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=1e-5)


def test_writing_back_the_present_value_changes_nothing(random_sae, resid):
    part = random_sae().slice([1, 2, 3])
    z = part.read(resid)
    assert not part.delta(z - z).any()


def test_a_slice_of_all_features_is_the_sae(random_sae, resid):
    sae = random_sae()
    part = sae.slice(range(48))
    features = list(range(48))
    clear = clear_of_threshold(sae, resid, features)
    torch.testing.assert_close(part.read(resid)[clear], sae.encode(resid)[clear])


def test_a_slice_does_not_share_memory(random_sae):
    sae = random_sae()
    before = sae.fingerprint()
    part = sae.slice([0])
    for tensor in (part.w_enc, part.b_enc, part.w_dec, part.b_dec, part.threshold):
        tensor.zero_()
    assert sae.fingerprint() == before


def test_a_moved_slice_keeps_its_folded_bias(random_sae, resid):
    part = random_sae().slice([4, 5])
    moved = part.to(dtype=torch.float64)
    torch.testing.assert_close(moved.pre(resid).float(), part.pre(resid), atol=1e-5, rtol=1e-5)


def test_true_topk_has_no_slice(random_sae):
    with pytest.raises(SaeError, match=r"no exact slice\. Convert it with \S+\.to_threshold\.$"):
        random_sae("topk").slice([0])


@pytest.mark.parametrize("feature", [48, -1])
def test_a_feature_outside_is_named(random_sae, feature):
    with pytest.raises(FeatureError, match=rf"feature {feature} does not exist.*0–47"):
        random_sae().slice([feature])


def test_activations_of_another_width_are_refused(random_sae):
    sae = random_sae()
    for read in (sae.encode, sae.slice([0]).read, sae):
        with pytest.raises(DimensionError, match="of width 16, got width 17"):
            read(torch.zeros(1, 17))
    with pytest.raises(DimensionError, match="reads changes of width 1, got width 2"):
        sae.slice([0]).delta(torch.zeros(1, 2))


def test_tensors_that_do_not_fit_are_refused(random_sae):
    with pytest.raises(DimensionError, match=r"b_enc has shape \[47\], expected \[48\]"):
        random_sae(b_enc=torch.zeros(47))


@pytest.mark.parametrize("k", [None, 0, 49])
def test_topk_needs_a_usable_k(random_sae, k):
    with pytest.raises(SaeError, match="expected 1 to 48"):
        random_sae("topk", k=k)


def test_the_fingerprint_sees_weights_and_reading_and_nothing_else(random_sae):
    sae = random_sae()
    assert random_sae(name="other", model_name="other").fingerprint() == sae.fingerprint()
    changed = [
        random_sae(seed=1),
        random_sae(apply_b_dec_to_input=False),
        random_sae(site=Site(3, "resid_post")),
        random_sae(threshold=sae.threshold + 1e-3),
    ]
    prints = {sae.fingerprint(), *(other.fingerprint() for other in changed)}
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (5, (5,)),
        ([5, 3], (5, 3)),
        (np.int64(5), (5,)),
        (np.array([5, 3]), (5, 3)),
        (torch.tensor(5), (5,)),
        (torch.tensor([5, 3]), (5, 3)),
        (range(2), (0, 1)),
        (iter([5]), (5,)),
    ],
)
def test_one_feature_or_several(random_sae, given, chosen):
    got = random_sae().slice(given).features
    assert got == chosen
    assert all(type(feature) is int for feature in got)


@pytest.mark.parametrize("given", [1.5, "5", None, [1.5], torch.tensor([0.5, 1.5]), {"a": 1}])
def test_what_is_no_feature(given):
    check = inspect.unwrap(check_features)  # without the tests' own check of types
    with pytest.raises(FeatureError, match="give a whole number, or several of them"):
        check(given, 48, "some-sae")


def test_a_dtype_may_be_named(random_sae, tmp_path):
    sae = random_sae()
    assert sae.to("cpu", "bfloat16").dtype == torch.bfloat16
    assert sae.slice([0]).to(dtype="bfloat16").w_dec.dtype == torch.bfloat16
    save_sae(sae, tmp_path, dtype="bfloat16")
    assert load_file(tmp_path / "sae_weights.safetensors")["W_dec"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["banana", torch.int8])
def test_what_is_no_dtype_of_floats(random_sae, tmp_path, dtype):
    sae = random_sae()
    for use in (sae.to, sae.slice([0]).to, partial(save_sae, sae, tmp_path / "sae")):
        with pytest.raises(SaeError, match=r"is not a dtype of floats; use float32.* or float16"):
            use(dtype=dtype)
    assert not (tmp_path / "sae").exists()


@pytest.mark.parametrize(
    ("device", "told"), [("gpu", "'gpu' is not a device"), ("cuda:57", "no device 'cuda:57' here")]
)
def test_a_device_that_is_not_there(random_sae, device, told):
    with pytest.raises(SaeError, match=told):
        random_sae().to(device)


@pytest.mark.parametrize("given", [np.zeros((2, 16), np.float32), [0.0] * 16, "x", torch.ones(())])
@pytest.mark.parametrize("method", [SAE.pre, SAE.decode, FeatureSlice.pre, FeatureSlice.delta])
def test_what_is_no_tensor_is_refused_in_one_line(random_sae, given, method):
    sae = random_sae()
    coder = sae.slice([0]) if "Slice" in method.__qualname__ else sae
    with pytest.raises(DimensionError, match="as a tensor .* torch.as_tensor makes one"):
        inspect.unwrap(method)(coder, given)


def test_latents_of_another_number_are_refused_and_of_another_dtype_cast(random_sae, resid):
    sae = random_sae()
    with pytest.raises(DimensionError, match=f"reads latents of width {sae.d_sae}, got width 5"):
        sae.decode(torch.zeros(2, 5))
    latents = sae.encode(resid).to(torch.float64)
    assert torch.equal(sae.decode(latents), sae.decode(latents.float()))


@pytest.mark.parametrize("share", [-1, 1.5, float("nan"), "a", None])
def test_fainter_is_a_share(random_sae, share):
    with pytest.raises(SaeError, match="expected a number from 0 to 1"):
        inspect.unwrap(SAE.fainter)(random_sae(), share)
