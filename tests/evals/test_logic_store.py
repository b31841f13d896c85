"""Readers kept in a folder read what they read before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from saesteer.config.answers import AnswerConfig, AnswerTaskConfig
from saesteer.evals import answer_chains
from saesteer.evals.logic_reader import StatementReader, fit_reader, random_sae
from saesteer.evals.logic_store import load_or_fit, load_readers, readers_folder, save_readers
from saesteer.models import Model, fastest_dtype
from saesteer.saes import SAE

from .test_logic_reader import SITE, planted_sae, text

pytestmark = pytest.mark.usefixtures("brief_identities")


def readers() -> tuple[dict[str, StatementReader], tuple[SAE, ...]]:
    saes, texts = (planted_sae(),), [text(seed) for seed in range(12)]
    other = (random_sae(saes[0], texts[0].text.resid[0]),)
    spaces = {"activation-reasoning": saes, "random-sae": other, "dense-probe": ()}
    return {name: fit_reader(texts, SITE, space) for name, space in spaces.items()}, saes


def test_kept_readers_read_the_same(tmp_path: Path):
    made, saes = readers()
    save_readers(made, tmp_path / "kept", saes)
    again = load_readers(tmp_path / "kept", saes)
    assert list(again) == list(made)
    assert again["activation-reasoning"].saes is saes
    assert again["dense-probe"].saes == ()
    for name, reader in made.items():
        for seed in (40, 41, 42):
            assert again[name].read(text(seed).text) == reader.read(text(seed).text)


def test_a_second_run_does_not_fit_and_a_damaged_folder_is_fitted_again(tmp_path: Path):
    made, saes = readers()
    fits = []

    def fit() -> dict[str, StatementReader]:
        fits.append(1)
        return made

    folder = readers_folder(tmp_path, saes, n_fit=12, seed=0)
    load_or_fit(folder, saes, fit)
    load_or_fit(folder, saes, fit)
    assert len(fits) == 1
    (folder / "tensors.safetensors").write_bytes(b"no tensors")
    load_or_fit(folder, saes, fit)
    load_or_fit(folder, saes, fit)
    assert len(fits) == 2
    (folder / "random-sae-0" / "sae_weights.safetensors").write_bytes(b"no tensors")
    load_or_fit(folder, saes, fit)
    load_or_fit(folder, saes, fit)
    assert len(fits) == 3


def test_the_fastest_dtype_has_the_folder_of_the_dtype_that_it_is_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Callable[..., Model]
):
    folders: list[Path] = []
    monkeypatch.setattr(
        answer_chains, "load_or_fit", lambda folder, *_: folders.append(folder) or {}
    )
    model, sae = tiny_model("llama"), planted_sae()
    here = str(fastest_dtype(model.device)).removeprefix("torch.")
    for dtype in ("fastest", here, "float64"):
        given = AnswerTaskConfig("prontoqa", fit_dtype=dtype, keep=str(tmp_path))
        answer_chains.ChainTask(AnswerConfig(given)).fit(model, sae, print)
    assert folders[0] == folders[1] != folders[2]


def test_other_settings_or_another_sae_have_another_folder(tmp_path: Path):
    from dataclasses import replace

    sae = planted_sae()
    other = replace(sae, w_enc=sae.w_enc * 2)
    folders = {
        readers_folder(tmp_path, (one,), n_fit=n, seed=seed)
        for one, n, seed in ((sae, 1, 0), (sae, 2, 0), (sae, 1, 1), (other, 1, 0))
    }
    assert len(folders) == 4
    assert readers_folder(tmp_path, (planted_sae(),), n_fit=1, seed=0) in folders
