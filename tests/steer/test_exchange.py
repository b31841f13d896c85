"""Files of other libraries do here what they do there; what is no such file is one clear error."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from saesteer import steer
from saesteer.errors import OutputError, PlanError
from saesteer.saes import save_sae
from saesteer.steer import Edit, Plan
from saesteer.steer.exchange import read_plan, write_plan
from saesteer.steer.where import Everywhere, Generated

VECTORS = {i: torch.randn(32, generator=torch.Generator().manual_seed(i)) for i in (1, 2)}


def vectors_of(plan: Plan) -> dict[str, torch.Tensor]:
    return {str(e.intervention.site): e.intervention.constant() * e.strength for e in plan.edits}


def everywhere(*acts: Any) -> Plan:
    return Plan(*acts, where=steer.all(special=True))


def logits(model: Any, plan: Plan | None = None) -> torch.Tensor:
    batch = model.tokenize(["the rain in the town", "the sea"])
    if plan is None:
        return model.forward(batch)
    with torch.no_grad(), plan.on(model):
        return model.forward(batch)


def write_repeng(path: Path, vectors: dict[int, torch.Tensor], arch: str = "controlvector") -> Path:
    """What repeng's own `export_gguf` writes."""
    writer = GGUFWriter(path, arch)
    writer.add_string(f"{arch}.model_hint", "llama")
    writer.add_uint32(f"{arch}.layer_count", len(vectors))
    for layer, vector in vectors.items():
        writer.add_tensor(f"direction.{layer}", vector.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def saved(path: Path, held: Any) -> Path:
    torch.save(held, path)
    return path


def test_a_control_vector_is_added_behind_its_block_at_every_token(tmp_path, tiny_model) -> None:
    model = tiny_model("llama")
    plan = Plan.load(write_repeng(tmp_path / "v.gguf", VECTORS), model)
    assert all(isinstance(e.where, Everywhere) and e.where.special for e in plan.edits)
    handles = [
        model.hf.model.layers[i].register_forward_hook(lambda _m, _a, out, v=v: out + v)
        for i, v in VECTORS.items()
    ]
    with torch.no_grad():
        expected = logits(model)
    for handle in handles:
        handle.remove()
    real = model.tokenize(["the rain in the town", "the sea"]).attention_mask
    torch.testing.assert_close(logits(model, plan)[real], expected[real], rtol=0, atol=1e-4)


def test_a_written_control_vector_holds_strengths_and_sums(tmp_path, tiny_model) -> None:
    model = tiny_model("llama")
    acts = [steer.add("resid_post.1", VECTORS[1]), steer.add("resid_post.1", VECTORS[2])]
    plan = everywhere(acts[0], Edit(acts[1], where=steer.all(special=True), strength=3.0)) * 0.5
    assert write_plan(plan, tmp_path / "v.gguf", model) == ()
    (tensor,) = GGUFReader(tmp_path / "v.gguf").tensors
    assert tensor.name == "direction.1"
    expected = 0.5 * VECTORS[1] + 1.5 * VECTORS[2]
    torch.testing.assert_close(torch.from_numpy(tensor.data.copy()), expected)
    again = read_plan(tmp_path / "v.gguf")
    torch.testing.assert_close(vectors_of(again)["resid_post.1"], expected)


def test_positions_that_a_format_can_not_hold_are_named(tmp_path) -> None:
    plan = Plan(steer.add("resid_post.1", VECTORS[1]), where=steer.generated())
    (note,) = write_plan(plan, tmp_path / "v.gguf")
    assert "every position" in note


@pytest.mark.parametrize("form", ["by layer", "with type"])
def test_steering_vectors_layers_are_sites(tmp_path, form) -> None:
    held: Any = (
        VECTORS if form == "by layer" else {"layer_activations": VECTORS, "layer_type": "mlp"}
    )
    plan = read_plan(saved(tmp_path / "v.pt", held))
    kind = "resid_post" if form == "by layer" else "mlp_out"
    assert list(vectors_of(plan)) == [f"{kind}.1", f"{kind}.2"]
    assert torch.equal(vectors_of(plan)[f"{kind}.2"], VECTORS[2])


def test_caa_adds_its_vector_behind_the_prompt(tmp_path) -> None:
    plan = read_plan(saved(tmp_path / "vec_layer_13_Llama-2-7b-chat-hf.pt", VECTORS[1].half()))
    assert list(vectors_of(plan)) == ["resid_post.13"]
    assert isinstance(plan.edits[0].where, Generated)
    bare = saved(tmp_path / "vector.pt", VECTORS[1])
    assert list(vectors_of(read_plan(bare, "mlp_out.2"))) == ["mlp_out.2"]
    with pytest.raises(PlanError, match="does not say for which layer"):
        read_plan(bare)


def test_lm_evals_modules_and_actions(tmp_path, tiny_model) -> None:
    model = tiny_model("llama")
    bias, unit = torch.full((32,), 0.2), VECTORS[2] / VECTORS[2].norm()
    held = {
        "layers.1": {"steering_vector": VECTORS[1], "steering_coefficient": 0.5, "action": "add"},
        "layers.2": {
            "steering_vector": VECTORS[2],
            "steering_coefficient": 3.0,
            "action": "clamp",
            "bias": bias,
        },
    }
    plan = Plan.load(saved(tmp_path / "v.pt", held), model)
    add, clamp = (edit.intervention for edit in plan.edits)
    assert torch.equal(add.delta(torch.zeros(1, 1, 32)), (0.5 * VECTORS[1]).expand(1, 1, 32))
    h = torch.randn(2, 3, 32)
    new = h + clamp.delta(h)
    torch.testing.assert_close((new - bias) @ unit, torch.full((2, 3), 3.0))
    across = torch.eye(32) - torch.outer(unit, unit)
    torch.testing.assert_close(new @ across, h @ across, atol=1e-5, rtol=0)


@pytest.mark.parametrize("arch", ["llama", "gpt2", "neox"])
def test_what_is_written_for_lm_eval_comes_back(tmp_path, tiny_model, arch) -> None:
    model = tiny_model(arch)
    plan = everywhere(steer.add("resid_post.1", VECTORS[1]), steer.add("mlp_out.2", VECTORS[2])) * 2
    assert write_plan(plan, tmp_path / "v.pt", model) == ()
    held = torch.load(tmp_path / "v.pt", weights_only=True)
    assert set(held) <= {name for name, _ in model.layout.base.named_modules()}
    again = Plan.load(tmp_path / "v.pt", model)
    assert list(vectors_of(again)) == ["resid_post.1", "mlp_out.2"]
    torch.testing.assert_close(logits(model, again), logits(model, plan))


def test_lm_evals_table_names_features_of_an_sae(tmp_path, tiny_model, tiny_sae) -> None:
    model = tiny_model("llama")
    sae = tiny_sae(model, "resid_post.2")
    save_sae(sae, tmp_path / "sae")
    rows = [["sae_lens", "add", str(tmp_path / "sae"), "layers.1", "7", "10.0", "", "", "seven"]]
    rows.append(["sae_lens", "clamp", str(tmp_path / "sae"), "", "3", "2.0", "", "", ""])
    head = "loader action sparse_model hookpoint feature_index steering_coefficient head_index"
    with (tmp_path / "v.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[*head.split(), "sae_id", "description"], *rows])
    plan = Plan.load(tmp_path / "v.csv", model)
    assert [str(e.intervention.site) for e in plan.edits] == ["resid_post.1", "resid_post.2"]
    torch.testing.assert_close(vectors_first(plan), 10.0 * sae.w_dec[7], rtol=1e-2, atol=1e-2)


def vectors_first(plan: Plan) -> torch.Tensor:
    return plan.edits[0].intervention.constant()


def test_a_table_with_two_rows_of_one_module_is_refused(tmp_path, tiny_model, tiny_sae) -> None:
    """lm-eval's `derive_steer_config` keeps them by module: the first would do nothing."""
    save_sae(tiny_sae(tiny_model("llama"), "resid_post.2"), tmp_path / "sae")
    head = "loader,sparse_model,hookpoint,feature_index,steering_coefficient"
    rows = [f"sae_lens,{tmp_path / 'sae'},{name},{i},2" for i, name in enumerate(("", "layers.2"))]
    (tmp_path / "v.csv").write_text("\n".join([head, *rows]))
    with pytest.raises(PlanError, match=r"line 3: resid_post\.2 has a row already"):
        read_plan(tmp_path / "v.csv")


def test_no_table_is_written_since_lm_eval_adds_nothing_from_one(tmp_path) -> None:
    with pytest.raises(PlanError, match=r"expected \.gguf, \.pt\."):
        write_plan(everywhere(steer.add("resid_post.1", VECTORS[1])), tmp_path / "v.csv")


def rewritten(path: Path, name: str | None = None, compress: int = zipfile.ZIP_STORED) -> Path:
    """The archive again, with an entry of another name, or compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w", compress) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
        if name is not None:
            archive.writestr(name, b"x")
    return path


def test_bombs_and_climbing_paths_are_not_opened(tmp_path, monkeypatch) -> None:
    files = [
        rewritten(
            saved(tmp_path / "zip.pt", torch.zeros(1_000_000)), compress=zipfile.ZIP_DEFLATED
        ),
        rewritten(saved(tmp_path / "climbs.pt", VECTORS), name="../../evil"),
        rewritten(saved(tmp_path / "root.pt", VECTORS), name="/evil"),
    ]
    monkeypatch.setattr(torch, "load", lambda *_a, **_k: pytest.fail("it was opened"))
    for file in files:
        with pytest.raises(PlanError, match="it was not opened"):
            read_plan(file)


def test_what_no_vector_can_say_is_not_written(tmp_path, tiny_model, tiny_sae) -> None:
    sae = tiny_sae(tiny_model("llama"), "resid_post.2")
    for plan in (
        Plan(steer.clamp(sae, 3, 1.0)),
        Plan(Edit(steer.add("resid_post.1", VECTORS[1]), schedule=steer.decay(3.0))),
        Plan(steer.PromptEdit(prefix="x")),
    ):
        for name in ("v.gguf", "v.pt"):
            with pytest.raises(PlanError):
                write_plan(plan, tmp_path / name)
            assert not (tmp_path / name).exists()
    with pytest.raises(PlanError, match="resid_post sites only"):
        write_plan(everywhere(steer.add("mlp_out.1", VECTORS[1])), tmp_path / "v.gguf")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        write_plan(everywhere(steer.add("resid_post.1", VECTORS[1])), tmp_path / "file" / "v.pt")


@pytest.mark.parametrize("name", ["v.gguf", "v.pt"])
def test_a_file_that_can_not_be_finished_leaves_the_old_one(tmp_path, monkeypatch, name) -> None:
    plan = everywhere(steer.add("resid_post.1", VECTORS[1]))
    write_plan(plan, tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def full(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(GGUFWriter, "write_tensors_to_file", lambda w: full(w.path, b"GG"))
    with pytest.raises(OutputError, match="can't be written"):
        write_plan(plan * 2, tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_that_llama_cpp_refuses_a_direction_of_block_0_is_told(tmp_path) -> None:
    """Its `common_control_vector_load_one`: "invalid (zero) direction tensor layer index"."""
    plan = everywhere(steer.add("resid_post.0", VECTORS[1]), steer.add("resid_post.1", VECTORS[2]))
    (note,) = write_plan(plan, tmp_path / "v.gguf")
    assert note.startswith("direction.0: llama.cpp")
    assert list(vectors_of(read_plan(tmp_path / "v.gguf"))) == ["resid_post.0", "resid_post.1"]
