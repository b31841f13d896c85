"""Plans on a model hub: a repository with `manifest.json`, `tensors.safetensors` and a card.

Only these files are ever fetched, and they are read as a saved plan is: no pickles, no code.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from saesteer.errors import NetworkError, PlanError
from saesteer.models import Model, as_model
from saesteer.steer.exchange.card import Card
from saesteer.steer.plan import Plan
from saesteer.steer.store import MANIFEST, TENSORS, load_plan

PREFIX = "hub:"
_UNREACHABLE = ("Connect", "Timeout", "Offline", "LocalEntryNotFound", "Proxy", "Socket")


def push_to_hub(
    plan: Plan,
    repo: str,
    *,
    model: Any = None,
    card: Card | None = None,
    private: bool = False,
    api: Any = None,
) -> str:
    """Upload a plan with its card; returns the address of the commit.

    Args:
        repo: `owner/name`.
        model: what the plan is for; its fingerprints go along.
        api: a `huggingface_hub.HfApi`, for a token or endpoint of one's own.

    Raises:
        PlanError: a name that is none, or a plan that can't be saved.
        NetworkError: the hub can't be reached, or refuses.
    """
    from huggingface_hub import HfApi

    repo = _checked(repo)
    hub = HfApi() if api is None else api
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "plan"
        plan.save(folder, model)
        stamped = Plan.load(folder)
        (folder / "README.md").write_text((card or Card()).render(stamped, repo), encoding="utf-8")
        try:
            hub.create_repo(repo, repo_type="model", private=private, exist_ok=True)
            done = hub.upload_folder(
                repo_id=repo,
                folder_path=str(folder),
                repo_type="model",
                commit_message=f"Share the steering plan {plan.name}",
            )
        except Exception as error:  # whatever the hub's client raises
            raise _hub_error(repo, error) from error
    return str(getattr(done, "commit_url", done))


def fetch_plan(ref: str, model: Model | Any | None = None, api: Any = None) -> Plan:
    """The plan in `hub:owner/name`, or `hub:owner/name@revision`; the cache answers when offline.

    Raises:
        PlanError: no such plan, damaged, or for another model.
        NetworkError: it is not in the cache and the hub can't be reached.
    """
    from huggingface_hub import HfApi

    repo, _, revision = ref.removeprefix(PREFIX).partition("@")
    hub = HfApi() if api is None else api
    try:
        folder = hub.snapshot_download(
            _checked(repo),
            revision=revision or None,
            allow_patterns=[MANIFEST, TENSORS],
        )
    except PlanError:
        raise
    except Exception as error:  # whatever the hub's client raises
        raise _hub_error(repo, error) from error
    return load_plan(Path(folder), None if model is None else as_model(model))


def _checked(repo: str) -> str:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise PlanError(f"{repo!r} is no repository; give owner/name.") from error
    if repo.count("/") != 1:
        raise PlanError(f"{repo!r} is no repository; give owner/name.")
    return repo


def _hub_error(repo: str, error: Exception) -> NetworkError | PlanError:
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    told = " ".join(str(error).split())[:160]
    if any(word in kinds for word in _UNREACHABLE) or "offline" in told.lower():
        return NetworkError(
            f"{PREFIX}{repo}: the hub can't be reached ({type(error).__name__}); "
            "save the plan to a folder, or try again with a network."
        )
    if "NotFound" in kinds:
        return PlanError(f"{PREFIX}{repo}: no such plan on the hub, or none that you may read.")
    return NetworkError(f"{PREFIX}{repo}: the hub refused: {told}")
