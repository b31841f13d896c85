"""A whole run on a tiny model: what it leaves in its folder, and how it fails."""

from __future__ import annotations

import json
import resource
import shutil
import time
import warnings
from dataclasses import asdict, replace

import pytest
import torch

from saesteer.config import (
    ScoreConfig,
    SupervisedConfig,
    TextConfig,
    TrainSAEConfig,
    WandbConfig,
    load_config,
)
from saesteer.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    SiteError,
    TextEndedError,
)
from saesteer.models import Site, installed, record
from saesteer.saes import load_crosscoder, load_sae, load_transcoder
from saesteer.training import folder as folder_module
from saesteer.training import rates as rates_module
from saesteer.training import sae as sae_module
from saesteer.training.learner import Learner
from saesteer.training.sae import open_trainer, train_sae

FILES = ["cfg.json", "checkpoints", "config.resolved.yaml", "lineage.json", "metrics.jsonl"]


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def trained(run, settings, tmp_path):
    out = tmp_path / "run"
    assert run(settings(), out) == out
    return out


def test_a_run_leaves_its_files(trained, settings):
    assert names_in(trained) == [*FILES, "sae_weights.safetensors"]
    assert load_config(TrainSAEConfig, trained / "config.resolved.yaml") == settings()
    assert names_in(trained / "checkpoints") == ["step-00000020", "step-00000030"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_dtype_that_was_the_fastest_is_written_down(
    run, settings, tmp_path, monkeypatch, dtype
):
    monkeypatch.setattr(rates_module, "fastest_dtype", lambda _: dtype)
    out = run(settings(dtype="fastest", n_tokens=3 * 64), tmp_path / "run")
    resolved = load_config(TrainSAEConfig, out / "config.resolved.yaml")
    assert resolved == settings(dtype=str(dtype).removeprefix("torch."), n_tokens=3 * 64)


def test_the_figures_of_every_step_are_there_and_the_loss_falls(trained, figures_of):
    lines = figures_of(trained)
    assert [line["step"] for line in lines] == list(range(1, 31))
    keys = "loss fvu fvu_per_token aux l0 threshold running_threshold dead_fraction grad_norm lr"
    keys += " n_tokens n_read n_outliers"
    assert all(set(keys.split()) <= line.keys() for line in lines)
    assert lines[-1]["fvu"] < 0.7 * lines[0]["fvu"]
    assert [line["n_tokens"] for line in lines] == [64 * i for i in range(1, 31)]
    assert all(0 < line["l0"] <= 4.0001 for line in lines)


def test_figures_come_as_often_as_asked_and_at_the_end(run, settings, tmp_path, figures_of):
    run(settings(log_every_steps=7), tmp_path / "run")
    assert [line["step"] for line in figures_of(tmp_path / "run")] == [7, 14, 21, 28, 30]


def test_the_metadata_says_how_it_was_trained(trained):
    metadata = json.loads((trained / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert metadata["model_name"] == "tiny-llama"
    assert (metadata["arch"], metadata["k"], metadata["n_tokens"]) == ("batchtopk", 4, 30 * 64)
    assert metadata["n_tokens_read"] > metadata["n_tokens"]
    assert 0 <= metadata["dead_fraction"] <= 1


@pytest.fixture
def resid(model):
    batch = model.tokenize("the quick brown fox over the lazy dog in the rain")
    return next(iter(record(model, batch, ["resid_post.1"]).values()))[0]


@pytest.mark.parametrize("arch", ["batchtopk", "topk"])
def test_what_ships_computes_what_was_trained(run, settings, model, tmp_path, resid, arch):
    trainer = open_trainer(settings(arch=arch), model)
    for _ in range(12):
        trainer.step()
    module, sae = trainer.learners[""].coder, trainer.learners[""].to_sae(model.name)
    with torch.no_grad():
        x = resid * module.input_scale
        pre = (x - module.b_dec) @ module.w_enc.t() + module.b_enc
        if arch == "topk":
            latents = pre.relu() * (pre >= pre.topk(4, -1).values[:, -1:])
        else:
            latents = pre.relu() * (pre > module.threshold)
        recon = (latents @ module.w_dec + module.b_dec) / module.input_scale
    assert (latents > 0).any()
    assert (latents == 0).any()
    torch.testing.assert_close(sae.encode(resid), latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(sae.decode(latents), recon, atol=1e-4, rtol=1e-4)
    assert str(sae.site) == "resid_post.1"


EVERY_ARCH = ["batchtopk", "topk", "matryoshka", "abstopk", "standard", "gated", "jumprelu"]


@pytest.mark.parametrize("arch", EVERY_ARCH)
def test_the_folder_loads_here_and_in_sae_lens_with_equal_codes(
    run, settings, tmp_path, resid, arch
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens
    out = run(settings(arch=arch), tmp_path / "run")
    ours, theirs = load_sae(out), sae_lens.SAE.load_from_disk(out)
    with torch.no_grad():
        latents = theirs.encode(resid)
        torch.testing.assert_close(ours.encode(resid), latents, atol=1e-5, rtol=1e-5)
        decoded = theirs.decode(latents)
        torch.testing.assert_close(ours.decode(latents), decoded, atol=1e-4, rtol=1e-5)
    assert (latents > 0).any()
    assert theirs.cfg.metadata.arch == arch


def test_the_threshold_form_fires_about_k_latents(run, settings, model, tmp_path):
    config = settings(n_tokens=64 * 100, k=6, threshold_rate=0.05)
    sae = load_sae(run(config, tmp_path / "run"))
    stream = open_trainer(config, model).stream
    rows = torch.cat([stream.next_batch() for _ in range(8)])
    l0 = (sae.encode(rows) > 0).float().sum(-1).mean().item()
    assert 4 < l0 < 8


def test_two_runs_are_the_same_bits(run, settings, tmp_path, figures_of):
    one, two = (run(settings(), tmp_path / name) for name in ("one", "two"))
    weights = [(out / "sae_weights.safetensors").read_bytes() for out in (one, two)]
    assert weights[0] == weights[1]
    assert figures_of(one) == figures_of(two)


def test_a_second_run_does_not_overwrite_the_first(run, settings, trained):
    before = (trained / "metrics.jsonl").read_bytes()
    with pytest.raises(OutputError, match=r"already holds a run; pass --resume, or choose another"):
        run(settings(), trained)
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_a_second_run_is_refused_before_the_model_loads(settings, trained, monkeypatch):
    monkeypatch.setattr(sae_module, "load_model", lambda *_a, **_o: pytest.fail("it was loaded"))
    with pytest.raises(OutputError, match="already holds a run"):
        train_sae(settings(), trained)


def test_a_finished_run_whose_checkpoints_are_gone_stays(run, settings, tmp_path):
    """It can't be resumed, and a variant of the same name is another SAE."""
    variants = {"a": {"seed": 1}, "b": {"seed": 2}}
    out = run(settings(n_tokens=128, variants=variants), tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    before = (out / "b" / "sae_weights.safetensors").read_bytes()
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"already holds a finished a/cfg\.json"):
            run(settings(n_tokens=128, variants=variants), out, resume=resume)
    assert (out / "b" / "sae_weights.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "files",
    [
        {"metrics.jsonl": "mine"},
        {"config.resolved.yaml": "mine: 1", "metrics.jsonl": "mine"},
    ],
)
def test_files_that_are_no_runs_stay(run, settings, tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(OutputError, match="already holds a run"):
        run(settings(), tmp_path)
    with pytest.raises(CheckpointError, match=r"is no run's|not of a run like this"):
        run(settings(), tmp_path, resume=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_two_runs_do_not_share_a_folder(run, settings, model, tmp_path):
    """The second comes while the first has no checkpoint yet."""
    out, config = tmp_path / "run", settings(n_tokens=128, checkpoint_every_steps=100)
    seen = []

    def progress(*_):
        for resume in (False, True):
            with pytest.raises(OutputError) as error:
                run(settings(seed=7), out, resume=resume)
            seen.append(str(error.value))

    train_sae(config, out, model=model, progress=progress)
    assert "already holds a run" in seen[0]
    assert "another process is at work in" in seen[1]
    assert load_config(TrainSAEConfig, out / "config.resolved.yaml") == config
    assert names_in(out) == [*FILES, "sae_weights.safetensors"], "the lock is gone"


def test_a_full_disk_under_the_figures_is_one_error(run, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda *_, **__: "x" * 6_000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))
    try:
        with pytest.raises(OutputError, match=r"metrics\.jsonl can't be written: File too large"):
            run(settings(), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_an_output_that_cant_be_written(run, settings, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="can't be written: Not a directory"):
        run(settings(), tmp_path / "file" / "run")
    with pytest.raises(OutputError, match="can't be written: File exists"):
        run(settings(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_that_is_there_is_used(run, settings, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run(settings(n_tokens=128), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "cfg.json").exists()


def test_text_that_ends_early(run, settings, tmp_path, figures_of):
    out = tmp_path / "run"
    with pytest.raises(
        TextEndedError, match=r"ended after ([\d,]+) of 10,880 tokens; resume"
    ) as end:
        run(settings(n_tokens=10_880), out)
    done = int(str(end.value).split()[4].replace(",", "")) // 64
    assert names_in(out / "checkpoints")[-1] == f"step-{done:08d}", "no step is lost"
    assert not (out / "cfg.json").exists()
    run(settings(n_tokens=10_880, passes=9), out, resume=True)
    assert load_sae(out).metadata["n_tokens"] == 10_880
    assert [line["step"] for line in figures_of(out)] == list(range(1, 171))


@pytest.mark.parametrize("content", ["", '{"text": ""}\n', '{"text": "the rain"}\n'])
def test_text_without_enough_tokens_leaves_nothing(run, settings, tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="the text ended after 0 of 1,920 tokens"):
        run(settings(path=str(path)), tmp_path / "new" / "run")
    assert names_in(tmp_path) == ["a.jsonl"]


def test_a_failure_at_the_start_leaves_a_folder_as_it_was(run, settings, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError):
        run(settings(path=str(tmp_path / "a.jsonl")), out)
    assert names_in(out) == ["notes.txt"]


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"path": "/no/such/text"}, DataError, "/no/such/text: no such file or folder"),
        ({"site": "resid_post.9"}, SiteError, "layer 9 does not exist"),
        ({"site": "residual.1"}, SiteError, "'residual.1' is not a site"),
    ],
)
def test_wrong_settings_leave_nothing(run, settings, tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message):
        run(settings(**changes), tmp_path / "run")
    assert names_in(tmp_path) == []


def test_rows_longer_than_the_model_reads(run, settings, tmp_path):
    config = settings()
    config = replace(config, text=TextConfig(config.text.path, context=300))
    with pytest.raises(ConfigError, match=r"rows of 300 tokens .*-llama, which has 256 posit"):
        run(config, tmp_path / "run")
    assert names_in(tmp_path) == []


def test_damaged_text_midway_keeps_the_checkpoints(run, settings, tmp_path, training_text):
    lines = "".join(
        json.dumps({"text": f"the quick brown fox {i} over the lazy dog in the rain"}) + "\n"
        for i in range(80)
    )
    (tmp_path / "a.jsonl").write_text(lines + '{"text": "cut')
    with pytest.raises(DataError, match=r"a\.jsonl, line 81: not valid JSON"):
        run(settings(path=str(tmp_path / "a.jsonl"), n_tokens=10**6), tmp_path / "run")
    assert len(names_in(tmp_path / "run" / "checkpoints")) == 2


def test_a_diverging_loss_is_named(run, settings, tmp_path, monkeypatch):
    original = Learner.step

    def spoil(self, batch):
        if self.step_count == 12:
            with torch.no_grad():
                self.coder.w_dec.fill_(float("nan"))
        return original(self, batch)

    monkeypatch.setattr(Learner, "step", spoil)
    with pytest.raises(DataError, match=r"the loss is nan at step 13; lower lr"):
        run(settings(), tmp_path / "run")
    assert names_in(tmp_path / "run" / "checkpoints") == ["step-00000010"]


@pytest.mark.parametrize("variants", [{}, {"k=2_d_sae=64": {"k": 2}}], ids=["one", "swept"])
def test_an_offline_wandb_run_lies_beside_the_sae(run, settings, tmp_path, variants):
    config = settings(n_tokens=256, wandb=WandbConfig(project="tests"), variants=variants)
    out = run(config, tmp_path / "run")
    (kept,) = out.glob("wandb/offline-run-*/*.wandb")
    assert kept.stat().st_size > 0


def test_wandb_gets_the_same_figures(run, settings, tmp_path, monkeypatch, figures_of):
    started = []

    class Fake:
        run_id = "abc"

        def __init__(self, **options):
            started.append(options)
            self.lines = {}

        def log(self, step, figures):
            self.lines[step] = dict(figures)

        def table(self, name, rows):
            raise AssertionError("training logs no table")

        def artifact(self, name, folder, lineage, kind="sae"):
            started.append((name, folder, lineage["config"]["seed"]))

        def finish(self, *, failed=False):
            started.append(self.lines)

    monkeypatch.setattr(folder_module, "WandbTracker", Fake)
    config = settings(wandb=WandbConfig(project="p", name="n"))
    out = tmp_path / "run"
    run(config, out, stop_at=12)
    run(config, out, resume=True)
    first, lines, second, artifact, rest = started
    assert artifact == ("sae", out, 0)
    assert (first["project"], first["mode"], first["run_id"]) == ("p", "offline", None)
    assert second["run_id"] == "abc", "a resumed run goes on under its id"
    assert first["config"] == asdict(config)
    assert [*lines, *rest] == list(range(1, 31))
    assert {**lines, **rest}[30]["fvu"] == figures_of(out)[-1]["fvu"]


def test_scores_are_taken_on_the_way(settings, model, tmp_path, figures_of):
    config = settings(
        score=ScoreConfig(every_steps=8), variants={"a": {}, "b": {"k": 2}}, n_tokens=20 * 64
    )
    seen = []

    def scorer(of_model):
        def score(sae):
            seen.append((of_model, sae.k))
            return {"held_out_kl": sae.w_enc.norm().item()}

        return score

    out = train_sae(config, tmp_path / "run", model=model, scorer=scorer)
    assert seen == 2 * [(model, 4), (model, 2)]
    lines = [line for line in figures_of(out) if "a/density" in line]
    assert [line["step"] for line in lines] == [8, 16]
    for line in lines:
        for name, k in (("a", 4), ("b", 2)):
            density = line[f"{name}/density"]
            assert sum(density["counts"]) + density["never_fired"] == 64
            assert mean_frequency(density) == pytest.approx(k / 64, rel=0.35)
    assert lines[0]["a/held_out_kl"] != lines[1]["a/held_out_kl"]


def mean_frequency(density) -> float:
    """Mean over all latents, each in the middle of its bin."""
    low, high = density["log10_edges"][:-1], density["log10_edges"][1:]
    middles = [10 ** ((a + b) / 2) for a, b in zip(low, high, strict=True)]
    latents = sum(density["counts"]) + density["never_fired"]
    return sum(n * m for n, m in zip(density["counts"], middles, strict=True)) / latents


def test_nothing_is_read_ahead_while_the_scorer_has_the_model(
    run, settings, model, tmp_path, figures_of
):
    """A hook of the scorer's, at the site that is read, as when an SAE stands in there."""
    point = model.layout.point(Site(1, "resid_post"))

    def scorer(_):
        def score(_):
            with installed([(point, torch.zeros_like)]):
                time.sleep(0.002)
            return {}

        return score

    long = {"n_tokens": 100 * 64, "shuffle_batches": 1}
    plain = figures_of(run(settings(**long), tmp_path / "plain"))
    ahead = settings(**long, prefetch=200, score=ScoreConfig(every_steps=1))
    scored = figures_of(train_sae(ahead, tmp_path / "ahead", model=model, scorer=scorer))
    assert [line["loss"] for line in scored] == [line["loss"] for line in plain]


def test_frequencies_survive_a_stop(run, settings, tmp_path, figures_of):
    config = settings(score=ScoreConfig(every_steps=15))
    whole = figures_of(run(config, tmp_path / "whole"))
    run(config, tmp_path / "cut", stop_at=12)
    assert figures_of(run(config, tmp_path / "cut", resume=True)) == whole
    assert [line["step"] for line in whole if "density" in line] == [15, 30]


def test_beside_the_sae_lies_what_it_came_from(trained, settings):
    lineage = json.loads((trained / "lineage.json").read_text())
    assert lineage["sha256"].keys() == {"cfg.json", "sae_weights.safetensors"}
    assert lineage["config"] == json.loads(json.dumps(asdict(settings())))
    assert lineage["n_read"] > lineage["n_tokens"] > 0


def test_variants_lie_in_folders_of_their_own(run, settings, tmp_path, figures_of, resid):
    variants = {"k2": {"k": 2}, "early": {"site": "resid_post.0", "arch": "topk"}}
    out = run(settings(variants=variants), tmp_path / "run")
    assert names_in(out) == ["checkpoints", "config.resolved.yaml", "early", "k2", "metrics.jsonl"]
    few, early = load_sae(out / "k2"), load_sae(out / "early")
    assert (str(few.site), str(early.site)) == ("resid_post.1", "resid_post.0")
    assert early.activation == "topk"
    assert few.metadata["k"] == 2
    assert figures_of(out)[-1].keys() >= {"k2/fvu", "early/fvu", "n_tokens"}
    assert load_config(TrainSAEConfig, out / "config.resolved.yaml").variants == variants


def test_a_run_may_start_from_a_trained_sae(settings, model, tmp_path):
    train_sae(settings(), tmp_path / "first", model=model)
    more = settings(init=str(tmp_path / "first"), d_sae=80, warmup_steps=0, lr=1e-9)
    train_sae(more, tmp_path / "second", model=model)
    first, second = load_sae(tmp_path / "first"), load_sae(tmp_path / "second")
    assert second.d_sae == 80
    cosines = torch.cosine_similarity(first.w_dec, second.w_dec[:64])
    torch.testing.assert_close(cosines, torch.ones(64))


def test_only_the_topk_family_starts_from_a_trained_sae(settings):
    with pytest.raises(ConfigError, match="init"):
        settings(init="somewhere", arch="gated")


def test_relatives_are_variants_of_one_run(run, settings, tmp_path, labelled_text):
    """An SAE, a transcoder and a crosscoder from one pass, each as if it had been trained alone."""
    variants = {
        "sae": {},
        "transcoder": {"site": "mlp_in.1", "target": "mlp_out.1", "skip": True},
        "crosscoder": {"sites": ["resid_post.0"]},
    }
    told = SupervisedConfig(labelled_text)
    out = run(settings(variants=variants, supervised=told), tmp_path / "run")
    assert load_sae(out / "sae").metadata["supervised_latent"] == 0
    assert load_transcoder(out / "transcoder").w_skip is not None
    assert len(load_crosscoder(out / "crosscoder").sites) == 2
    names = {f"{name}/supervised_accuracy" for name in variants}
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last.keys() >= {*names, "crosscoder/fvu/resid_post.0"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"target": "mlp_out.9"}, SiteError, r"layer 9 does not exist .*mlp_out\.9"),
        ({"target": "mlp_outt.1"}, SiteError, r"'mlp_outt\.1' is not a site; write KIND"),
        ({"target": "blocks.1.hook_resid_post"}, ConfigError, r"must differ from site"),
        ({"sites": ["resid_post.1"]}, ConfigError, r"resid_post\.1, resid_post\.1: .*must differ"),
        ({"sites": ["resid_post.2", "resid_post.7"]}, SiteError, r"layer 7 does not exist"),
    ],
)
def test_sites_that_make_no_pair_leave_nothing_behind(
    run, settings, tmp_path, changes, error, message
):
    with pytest.raises(error, match=message):
        run(settings(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("label", "message"),
    [(None, "line 3: no label"), (3, "line 3: label 3"), (1, "labels are all 1; both 0 and 1")],
)
def test_bad_labels_leave_nothing_behind(run, settings, tmp_path, label, message):
    path = tmp_path / "told.jsonl"
    records = [{"text": "rain", "label": 1}] * 2 + [{"text": "sea", "label": label}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(DataError, match=message):
        run(settings(supervised=SupervisedConfig(str(path))), tmp_path / "run")
    assert not (tmp_path / "run").exists()
