"""A shared plan is the saved plan and a card; nothing else is fetched, and no network is one error.

The hub is replaced by a folder, since it is the network; everything else is the real thing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from saesteer import steer
from saesteer.errors import NetworkError, PlanError
from saesteer.steer import Plan
from saesteer.steer.exchange import Card, fetch_plan, push_to_hub


class FolderHub:
    """A hub in a folder, with the three calls that are used."""

    def __init__(self, root: Path) -> None:
        self.root, self.private = root, False

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> None:
        self.private = private
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(self, *, repo_id: str, folder_path: str, repo_type: str, commit_message: str):
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return f"folder://{repo_id}"

    def snapshot_download(self, repo_id: str, *, revision: Any, allow_patterns: list[str]) -> str:
        seen = self.root / "cache" / f"{repo_id}-{revision}"
        seen.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            shutil.copy(self.root / repo_id / name, seen)
        return str(seen)


@pytest.fixture
def hub(tmp_path: Path) -> FolderHub:
    return FolderHub(tmp_path)


@pytest.fixture
def plan() -> Plan:
    return Plan(steer.add("resid_post.1", torch.ones(32)), strength=0.5, name="polite")


def test_a_pushed_plan_comes_back_for_its_model(hub, plan, tiny_model) -> None:
    model = tiny_model("llama")
    card = Card("CAA", "36 pairs | own", 0.12, {"effect, test": 0.4312}, licence="mit")
    where = push_to_hub(plan, "me/polite", model=model, card=card, private=True, api=hub)
    assert where == "folder://me/polite"
    assert hub.private
    again = fetch_plan("hub:me/polite@main", model, api=hub)
    assert (again.name, again.strength) == ("polite", 0.5)
    assert torch.equal(again.edits[0].intervention.constant(), torch.ones(32))
    with pytest.raises(PlanError, match="made for tiny-llama with other weights"):
        fetch_plan("hub:me/polite", tiny_model("llama", 1), api=hub)


def test_the_card_says_what_the_plan_can_not(hub, plan, tiny_model) -> None:
    model = tiny_model("llama")
    card = Card("CAA", "36 pairs | own", 0.12, {"effect, test": 0.4312}, licence="mit")
    push_to_hub(plan, "me/polite", model=model, card=card, api=hub)
    text = (hub.root / "me" / "polite" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    told = yaml.safe_load(head)
    assert (told["base_model"], told["license"]) == ("tiny-llama", "mit")
    for part in ("resid_post.1", "CAA", r"36 pairs \| own", "0.12", "0.4312", model.fingerprint()):
        assert part in body
    assert 'Plan.load("hub:me/polite", model)' in body
    assert "not stated" in Card().render(plan, "me/polite")


def test_the_card_names_every_act() -> None:
    weight = steer.WeightEdit("lm_head.weight", torch.ones(3, 1), torch.ones(1, 2), strength=2.0)
    text = Card().render(Plan(weight, steer.Backtrack(n=2)), "me/edited")
    assert "1. change lm_head.weight by rank 1, strength 2\n1. take back 2 tokens\n" in text


def test_other_files_of_a_repository_are_not_fetched(hub, plan) -> None:
    push_to_hub(plan, "me/polite", api=hub)
    (hub.root / "me" / "polite" / "evil.py").write_text("raise SystemExit")
    fetch_plan("hub:me/polite", api=hub)
    names = {path.name for path in (hub.root / "cache").rglob("*") if path.is_file()}
    assert names == {"manifest.json", "tensors.safetensors"}


@pytest.mark.parametrize("name", ["polite", "../../etc/passwd", "a/b/c", "hub:x", ""])
def test_a_name_that_is_no_repository_is_refused(hub, plan, name) -> None:
    with pytest.raises(PlanError, match="no repository"):
        push_to_hub(plan, name, api=hub)
    with pytest.raises(PlanError, match="no repository"):
        fetch_plan(f"hub:{name}", api=hub)


def test_without_a_network_the_real_client_gives_one_error(plan, monkeypatch, tmp_path) -> None:
    api = HfApi(endpoint="http://127.0.0.1:9")
    with pytest.raises(NetworkError, match="hub:me/polite: the hub"):
        push_to_hub(plan, "me/polite", api=api)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(NetworkError, match="can't be reached"):
        Plan.load("hub:me/polite")


def test_an_unknown_repository_is_not_called_a_network_fault(plan, hub, monkeypatch) -> None:
    import httpx

    answer = httpx.Response(404, request=httpx.Request("GET", "http://hub"))

    def missing(*_args: Any, **_kwargs: Any) -> str:
        raise RepositoryNotFoundError("404", response=answer)

    monkeypatch.setattr(hub, "snapshot_download", missing)
    with pytest.raises(PlanError, match="no such plan on the hub"):
        fetch_plan("hub:me/polite", api=hub)
