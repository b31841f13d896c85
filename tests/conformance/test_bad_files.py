"""Files that are not what they say: one clear error each, nothing run, nothing left hooked."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_files import (
    ADD,
    AT,
    CLAMP,
    FIRST,
    MANIFEST,
    REPLACE,
    SCALED,
    SPAN,
    TENSORS,
    TOPK,
    VECTOR,
    Touch,
    by_module,
    fields,
    headed,
    one,
    pickled,
    raw,
    several,
    table,
    vectors,
    with_manifest,
    with_tensors,
)
from refusals import Error, Place, refused

from saesteer.errors import DimensionError, FeatureError, PlanError, SaeError, SiteError
from saesteer.saes import save_sae
from saesteer.steer import Plan

IN, NAN = "intervention", float("nan")
MANIFESTS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("no JSON", lambda _: "{", "damaged"),
    ("a list", lambda _: "[1]", "damaged"),
    ("nested without end", lambda _: "[" * 100_000, "damaged"),
    ("another format", lambda b: b.update(format=99), "format 99"),
    ("another digest", lambda b: b.update(tensors_sha256="0"), "another plan"),
    ("no strength", lambda b: b.pop("strength") and None, "damaged: KeyError"),
    ("NaN strength", lambda b: b.update(strength=NAN), "not a finite number"),
    ("strength as text", lambda b: b.update(strength="1"), "strength is '1', expected float"),
    ("a number for a name", lambda b: b.update(name=3), "name is 3, expected str"),
    ("a number for a stamp", lambda b: b.update(stamp=3), "stamp is 3, expected dict"),
    ("edits by name", lambda b: b.update(edits={}), "edits is dict, expected list"),
    ("no edit", lambda b: b.update(edits=[[1]]), "no edit"),
    ("code", lambda b: b["edits"][0].update(kind="os.system"), "unknown kind 'os.system'"),
    ("our own program", lambda b: b["edits"][0].update(kind="M", module="saesteer.__main__"), "M"),
    ("an unknown field", lambda b: fields(b, ADD).update(more=1), "unexpected keyword"),
    ("a climbing key", lambda b: fields(b, ADD, IN)["vector"].update(key="../../x"), "KeyError"),
    ("no vector", lambda b: fields(b, ADD, IN).update(vector=None), "vector of Add is None"),
    ("a list of numbers", lambda b: fields(b, ADD, IN).update(vector=[1.0] * 32), "is tuple"),
    (
        "a matrix for a vector",
        lambda b: fields(b, ADD, IN).update(vector=fields(b, CLAMP, IN, "reader")["w_enc"]),
        r"shape \[32, 2\], expected Float\[Tensor, 'width'\]",
    ),
    ("a layer as text", lambda b: fields(b, ADD, IN, "site").update(layer="1"), "layer of Site"),
    ("no layer", lambda b: fields(b, ADD, IN, "site").update(layer=None), "layer of Site is None"),
    ("an unknown place", lambda b: fields(b, ADD, IN, "site").update(kind="x"), "is not a site"),
    ("a negative norm", lambda b: fields(b, SCALED, IN).update(typical_norm=-1.0), "norm is -1.0"),
    ("a norm as text", lambda b: fields(b, SCALED, IN).update(typical_norm="x"), "typical_norm of"),
    (
        "fewer features than columns",
        lambda b: fields(b, CLAMP, IN, "reader").update(features=[3]),
        r"w_enc has shape \[32, 2\], expected \[32, 1\]",
    ),
    (
        "a feature twice",
        lambda b: fields(b, CLAMP, IN, "reader").update(features=[3, 3]),
        "each of them once",
    ),
    (
        "another number of amounts",
        lambda b: fields(b, CLAMP, IN).update(value=fields(b, ADD, IN)["vector"]),
        r"value has shape \[32\], expected \[2\]",
    ),
    ("no features", lambda b: fields(b, CLAMP, IN).update(reader=None), "reader of Clamp is None"),
    ("a place as text", lambda b: fields(b, ADD).update(where="all"), "where of Edit is 'all'"),
    ("a gate as text", lambda b: fields(b, ADD).update(gate="x"), "gate of Edit is 'x'"),
    ("a schedule as text", lambda b: fields(b, ADD).update(schedule="x"), "schedule of Edit"),
    ("no position", lambda b: fields(b, AT, "where").update(indices=[]), "give indices"),
    ("an endless position", lambda b: fields(b, AT, "where").update(indices=[10**30]), "0 or more"),
    ("first of all", lambda b: fields(b, FIRST, "where").update(n=10**30), "1 or more"),
    ("half positions", lambda b: fields(b, AT, "where").update(indices=[1.5]), "indices of"),
    ("no span", lambda b: fields(b, SPAN, "where").update(text=""), "text to look for"),
    ("no half-life", lambda b: fields(b, SPAN, "schedule").update(half_life=0.0), "half_life is 0"),
    ("first none", lambda b: fields(b, FIRST, "where").update(n=-1), "1 or more"),
    (
        "a feature beyond",
        lambda b: fields(b, TOPK, IN, "reader").update(features=[500]),
        "feature 500 does not exist",
    ),
    (
        "no such activation",
        lambda b: fields(b, REPLACE, IN, "sae").update(activation="gelu"),
        "activation of SAE is 'gelu'",
    ),
    ("nothing to say", lambda b: b["prompt_edits"][0]["fields"].update(prefix=""), "give a prefix"),
]


@pytest.mark.parametrize(
    ("change", "words"), [m[1:] for m in MANIFESTS], ids=[m[0] for m in MANIFESTS]
)
def test_a_manifest_with_one_wrong_part(
    place: Place, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    folder = place.folder / "plan"
    several(place.sae).save(folder, place.model)
    Plan.load(folder, place.model)
    with_manifest(folder, change)
    refused(place, lambda: Plan.load(folder, place.model), PlanError, words)


WEIGHTS: list[tuple[str, Callable[[Path, dict[str, Any]], Any], str]] = [
    ("a pickle", lambda f, _: pickled(f.parent), "can't be read"),
    ("nothing", lambda *_: b"", "can't be read"),
    ("a header without end", lambda *_: struct.pack("<Q", 2**62) + b"{}", "can't be read"),
    (
        "a tensor larger than the file",
        lambda *_: headed(
            {"t0": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
        ),
        "can't be read",
    ),
    ("other tensors", lambda *_: {"x": VECTOR}, "damaged: KeyError"),
    ("NaN", lambda _, t: {k: v * NAN for k, v in t.items()}, "holds NaN or infinity"),
    ("infinity", lambda _, t: {k: v / 0 for k, v in t.items()}, "holds NaN or infinity"),
    ("bytes", lambda _, t: {k: v.to(torch.float8_e4m3fn) for k, v in t.items()}, "torch.float8"),
    ("integers", lambda _, t: {k: v.long() for k, v in t.items()}, "torch.int64 and shape"),
    ("numbers of no axes", lambda _, t: {k: v.flatten()[0] for k, v in t.items()}, "shape"),
    ("one axis more", lambda _, t: {k: v[None] for k, v in t.items()}, "expected Float"),
    ("less of each", lambda _, t: {k: v[:1].clone() for k, v in t.items()}, "damaged"),
]


@pytest.mark.parametrize(("change", "words"), [w[1:] for w in WEIGHTS], ids=[w[0] for w in WEIGHTS])
def test_tensors_that_are_not_what_the_manifest_says(
    place: Place, change: Callable[[Path, dict[str, Any]], Any], words: str
) -> None:
    folder = place.folder / "plan"
    several(place.sae).save(folder, place.model)
    with_tensors(folder, partial(change, folder))
    refused(place, lambda: Plan.load(folder, place.model), PlanError, words)


@pytest.mark.parametrize("name", [MANIFEST, TENSORS])
@pytest.mark.parametrize("source", ["folder", "hub"])
def test_a_truncated_or_missing_half(
    place: Place, name: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place.folder / "plan"
    several(place.sae).save(folder, place.model)
    monkeypatch.setattr("huggingface_hub.HfApi.snapshot_download", lambda *_a, **_k: str(folder))
    ref = folder if source == "folder" else "hub:me/polite"
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    refused(place, lambda: Plan.load(ref, place.model), PlanError, "damaged")
    (folder / name).unlink()
    refused(place, lambda: Plan.load(ref, place.model), PlanError, "holds no saved plan")


CAA, ONES = "vec_layer_1.pt", np.ones(32, np.float32)
FILES: list[tuple[str, Callable[[Path], Path], Error, str]] = [
    ("no file", lambda f: f / "nowhere.gguf", PlanError, "no such file|holds no saved plan"),
    ("no known kind", raw("v.bin", b"x"), PlanError, "no kind known"),
    *[
        (f"pickle as {name}", lambda f, n=name: raw(n, pickled(f))(f), PlanError, words)
        for name, words in (
            ("v.pt", r"no archive of torch\.save"),
            ("v.gguf", "can't be read as GGUF"),
            ("v.csv", "can't be read as CSV|are missing|has no rows"),
        )
    ],
    *[
        (f"nothing as {name}", raw(name, b""), PlanError, words)
        for name, words in (
            ("v.pt", r"no archive of torch\.save"),
            ("v.gguf", "can't be read as GGUF"),
            ("v.csv", "has no rows"),
        )
    ],
    (
        "pickle in torch's",
        lambda f: one(Touch(f / "was_here"))(f),
        PlanError,
        "nothing else is load",
    ),
    ("more than its file", one(torch.zeros(1).expand(10**12), CAA), PlanError, "larger than the"),
    ("sparse", lambda f: one(VECTOR.to_sparse(), CAA)(f), PlanError, "sparse"),
    ("no values", one(torch.ones(32, device="meta"), CAA), PlanError, "holds no values"),
    ("two axes", one(torch.ones(2, 32), CAA), PlanError, "expected one vector"),
    ("no entries", one(torch.ones(0), CAA), DimensionError, "made for width 0"),
    ("integers", one(VECTOR.long(), CAA), PlanError, "torch.int64 of shape"),
    ("complex", one(VECTOR.to(torch.complex64), CAA), PlanError, "complex64"),
    ("NaN", one(VECTOR * NAN, CAA), PlanError, "NaN or infinity"),
    ("too large for fp32", one(VECTOR.double() * 1e39, CAA), PlanError, "NaN or infinity"),
    ("no such layer", one(VECTOR, "vec_layer_40.pt"), SiteError, "layers 0-3"),
    ("another width", one(torch.ones(48), CAA), DimensionError, "made for width 48"),
    ("no layer told", one(VECTOR), PlanError, "does not say for which layer"),
    ("nothing held", one({}), PlanError, "unknown form"),
    ("a list", one([VECTOR]), PlanError, "holds a list of an unknown form"),
    ("truth for a layer", one({True: VECTOR}), PlanError, "unknown form"),
    ("a negative layer", one({-1: VECTOR}), PlanError, "from 0 on, got -1"),
    ("text for a vector", one({1: "v"}), PlanError, "expected vectors by layer"),
    ("no layers", one({"layer_activations": {}}), PlanError, "holds no vectors"),
    (
        "no such layer type",
        one({"layer_activations": {1: VECTOR}, "layer_type": "x"}),
        PlanError,
        "layer type 'x' is no site",
    ),
    ("no vector", by_module(steering_vector=None), PlanError, "expected one vector"),
    ("no such module", one({"q.1": {"steering_vector": VECTOR}}), SiteError, "is not a site"),
    ("no such action", by_module(action="multiply"), PlanError, "expected add or clamp"),
    ("a coefficient as text", by_module(steering_coefficient="x"), PlanError, "no number"),
    ("two coefficients", by_module(steering_coefficient=torch.ones(2)), PlanError, "no number"),
    ("NaN coefficient", by_module(steering_coefficient=NAN), PlanError, "NaN or infinity"),
    (
        "clamp along nothing",
        by_module(steering_vector=0 * VECTOR, action="clamp"),
        PlanError,
        "NaN",
    ),
    ("bias as text", by_module(action="clamp", bias="x"), PlanError, "bias has x, expected one"),
    (
        "a shorter bias",
        by_module(action="clamp", bias=torch.ones(3)),
        PlanError,
        "bias has width 3",
    ),
    ("single heads", by_module(head_index=3), PlanError, "head_index is set"),
    ("GGUF of a model", vectors(ONES, arch="llama"), PlanError, "GGUF of 'llama'"),
    ("GGUF of no vectors", vectors(ONES, "blk.1"), PlanError, "holds no vectors"),
    ("GGUF of two axes", vectors(np.ones((2, 16), np.float32)), PlanError, "expected one vector"),
    ("GGUF of integers", vectors(np.ones(32, np.int32)), PlanError, "stored as I32"),
    ("GGUF of NaN", vectors(ONES * np.nan), PlanError, "NaN or infinity"),
    ("GGUF too large for fp32", vectors(np.full(32, 1e300)), PlanError, "NaN or infinity"),
    ("GGUF of another width", vectors(np.ones(48, np.float32)), DimensionError, "width 48"),
    ("GGUF of no such layer", vectors(ONES, "direction.9"), SiteError, "layer 9 does not exist"),
    (
        "GGUF without end",
        raw("v.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62)),
        PlanError,
        "can't be read as GGUF",
    ),
    ("no such columns", raw("v.csv", b"a,b\n1,2\n"), PlanError, "columns .* are missing"),
    ("too few cells", table("sae_lens,add,SAE"), PlanError, "columns .* are missing"),
    ("too many cells", table("sae_lens,add,SAE,layers.1,7,1,,x,y"), PlanError, "more cells"),
    ("bytes", raw("v.csv", bytes(range(256))), PlanError, "can't be read as CSV"),
    ("no such feature", table("sae_lens,add,SAE,layers.1,700,1,"), FeatureError, "feature 700"),
    ("half a feature", table("sae_lens,add,SAE,layers.1,1.5,1,"), PlanError, "no number"),
    ("amount as text", table("sae_lens,add,SAE,layers.1,7,much,"), PlanError, "is much, no number"),
    ("endless amount", table("sae_lens,clamp,SAE,layers.1,7,inf,"), PlanError, "NaN or infinity"),
    ("no such place", table("sae_lens,add,SAE,nowhere,7,1,"), SiteError, "is not a site"),
    ("no such block", table("sae_lens,add,SAE,layers.99,7,1,"), SiteError, "layer 99"),
    ("another loader", table("sparsify,add,SAE,layers.1,7,1,"), PlanError, "only sae_lens"),
    ("no SAE", table("sae_lens,add,../../etc,layers.1,7,1,"), SaeError, "etc"),
]


@pytest.mark.parametrize(
    ("make", "error", "words"), [f[1:] for f in FILES], ids=[f[0] for f in FILES]
)
def test_files_of_other_libraries_that_are_not_what_they_say(
    place: Place, make: Callable[[Path], Path], error: Error, words: str
) -> None:
    save_sae(place.sae, place.folder / "sae")
    path = make(place.folder)
    refused(place, lambda: Plan.load(path, place.model), error, words)
    assert not (place.folder / "was_here").exists()


@pytest.mark.parametrize("keep", [3, 40, 200])
@pytest.mark.parametrize("make", [one(VECTOR, CAA), vectors(ONES)], ids=["torch", "gguf"])
def test_a_truncated_file(place: Place, make: Callable[[Path], Path], keep: int) -> None:
    path = make(place.folder)
    path.write_bytes(path.read_bytes()[:-keep])
    refused(place, lambda: Plan.load(path, place.model), PlanError, "can't be read|no archive")
