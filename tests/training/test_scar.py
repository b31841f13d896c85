"""SCAR's supervised latent: its loss by hand, and what it knows of text that it never saw."""

from __future__ import annotations

import json
import math

import pytest
import torch
from coders import moved
from sklearn.metrics import roc_auc_score

from saesteer.config import SupervisedConfig
from saesteer.models import record
from saesteer.saes import load_sae, load_transcoder
from saesteer.training.crosscoder import SparseCrosscoder
from saesteer.training.scar import SupervisedCoder, supervised_loss
from saesteer.training.sparse import TopKSettings
from saesteer.training.topk import TopKCoder
from saesteer.training.transcoder import SparseTranscoder

D_MODEL, D_SAE, BATCH, LATENT = 24, 80, 32, 7
KINDS = ("batchtopk", "topk", "abstopk", "matryoshka", "transcoder", "crosscoder")


@pytest.fixture
def batch() -> torch.Tensor:
    rows = 3 * torch.randn(BATCH, D_MODEL, generator=torch.Generator().manual_seed(2)) + 1
    labels = torch.tensor([0.0, 1.0, math.nan, 1.0]).repeat(BATCH // 4)
    return torch.cat([rows, labels[:, None]], dim=-1)


def coder_of(kind):
    nested = (10, 33, D_SAE) if kind == "matryoshka" else ()
    cut = kind if kind in ("topk", "abstopk") else "batchtopk"
    settings = TopKSettings(k=5, kind=cut, widths=nested, aux_k=6, aux_coefficient=0.25)
    if kind == "transcoder":
        coder = SparseTranscoder((10, 14), D_SAE, settings, skip=True, seed=0)
    elif kind == "crosscoder":
        coder = SparseCrosscoder({"a": 10, "b": 14}, D_SAE, settings, seed=0)
    else:
        coder = TopKCoder(D_MODEL, D_SAE, settings, seed=0)
    return moved(coder)


def dense_bce(coder, batch):
    """Of the tokens with labels only, by the formula: -y log σ(pre) - (1 - y) log(1 - σ(pre))."""
    rows, labels = batch[:, :-1], batch[:, -1]
    x = coder.split(rows)[0]
    offset = coder.b_in if isinstance(coder, SparseTranscoder) else coder.b_dec
    pre = ((x - offset) @ coder.w_enc.t() + coder.b_enc)[:, LATENT]
    told = [i for i in range(BATCH) if not math.isnan(labels[i])]
    p = torch.sigmoid(pre)
    each = [-torch.log(p[i]) if labels[i] == 1 else -torch.log(1 - p[i]) for i in told]
    right = [(pre[i] > 0) == (labels[i] == 1) for i in told]
    return torch.stack(each).mean(), sum(map(float, right)) / len(told)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_both_losses(batch, kind):
    coder = coder_of(kind)
    plain = coder.loss(batch[:, :-1], None)
    expected, accuracy = dense_bce(coder, batch)
    (plain.loss + 2.5 * expected).backward()
    gradients = {name: p.grad.clone() for name, p in coder.named_parameters()}
    coder.zero_grad()
    result = SupervisedCoder(coder, LATENT, 2.5).loss(batch, None)
    result.loss.backward()
    assert result.loss.item() == pytest.approx((plain.loss + 2.5 * expected).item(), rel=1e-5)
    assert result.extra["supervised_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert result.extra["supervised_accuracy"].item() == pytest.approx(accuracy)
    assert result.extra["labelled_fraction"].item() == 0.75
    assert result.fvu.item() == plain.fvu.item()
    for name, parameter in coder.named_parameters():
        assert (parameter.grad - gradients[name]).norm() <= 1e-5 * gradients[name].norm(), name


def test_a_batch_without_labels_has_no_supervised_loss(batch):
    coder = coder_of("batchtopk")
    batch[:, -1] = math.nan
    plain = coder.loss(batch[:, :-1], None)
    result = SupervisedCoder(coder, LATENT, 2.5).loss(batch, None)
    assert torch.equal(result.loss, plain.loss)
    assert all(math.isnan(result.extra[f"supervised_{name}"]) for name in ("loss", "accuracy"))
    result.loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in coder.parameters())


def test_the_loss_of_one_label_is_the_textbooks():
    pre, labels = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0])
    expected = (math.log(1 + math.exp(-2.0)) + math.log(1 + math.exp(-1.0))) / 2
    assert supervised_loss(pre, labels).item() == pytest.approx(expected, rel=1e-6)
    assert supervised_loss(pre, labels * math.nan).item() == 0.0
    confident = supervised_loss(torch.tensor([500.0]), torch.tensor([0.0]))
    assert confident.item() == pytest.approx(500.0)


def scores_of(model, shipped, latent):
    """Area under the ROC curve of a latent's pre-activation, over tokens of unseen documents."""
    values, labels = [], []
    unseen = {0: ("fox brown quick quick", "brown fox"), 1: ("sea rain town town", "town sea")}
    for label, texts in unseen.items():
        for text in texts:
            acts = record(model, model.tokenize(text), [shipped.site])[shipped.site][0, 1:]
            pre = shipped.pre(acts)[:, latent]
            values += pre.tolist()
            labels += [label] * len(pre)
    return roc_auc_score(labels, values)


@pytest.mark.parametrize("changes", [{}, {"site": "mlp_in.1", "target": "mlp_out.1"}], ids=str)
def test_the_latent_separates_the_labels_on_text_it_never_saw(
    run, settings, model, tmp_path, labelled_text, figures_of, changes
):
    told = SupervisedConfig(labelled_text, latent=5, weight=2.0)
    usual = {"passes": 4, "n_tokens": 100 * 64, "decay_share": 0.1, **changes}
    out = run(settings(supervised=told, **usual), tmp_path / "told")
    load = load_transcoder if changes else load_sae
    assert scores_of(model, load(out), 5) > 0.95
    others = [scores_of(model, load(out), latent) for latent in (6, 7, 8, 9)]
    assert all(0.0 <= score < 0.95 for score in others)
    first, last = figures_of(out)[0], figures_of(out)[-1]
    assert last["supervised_loss"] < 0.3 < first["supervised_loss"]
    assert last["supervised_accuracy"] > 0.9
    assert 0.2 < last["labelled_fraction"] < 0.8
    assert last["fvu"] < first["fvu"]
    metadata = json.loads((out / "cfg.json").read_text())["metadata"]
    assert metadata["supervised_latent"] == 5


def test_without_labels_nothing_is_supervised(run, settings, tmp_path, figures_of):
    out = run(settings(), tmp_path / "plain")
    assert not [key for key in figures_of(out)[-1] if "supervised" in key or "label" in key]
    assert "supervised_latent" not in (out / "cfg.json").read_text()
