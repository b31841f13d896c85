"""Find and read an SAE: a folder, one that ships with the package, or one from sae-lens' registry.

Folders are read with safetensors alone; sae-lens is imported only for the registry and for folders
written before its version 6. Weights may be stored in bf16; they are computed with in fp32.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saesteer.errors import DimensionError, NetworkError, SaeError, none_such
from saesteer.files import path_of
from saesteer.saes.lens_format import CFG_NAME, WEIGHTS_NAME, sae_from
from saesteer.saes.old_format import modern_cfg, sae_lens
from saesteer.saes.processing import check_centring
from saesteer.saes.sae import SAE

if TYPE_CHECKING:
    from saesteer.models.model import Model

SaeRef = str | Path | tuple[str, str]
"""A folder, a shipped name, `release:id`, or (release, id)."""

_UNREACHABLE = ("Connect", "Timeout", "Offline", "LocalEntryNotFound", "Proxy", "Socket")
"""Parts of the names of errors that mean no network, whichever HTTP client the hub uses."""


def load_sae(
    ref: SaeRef,
    sae_id: str | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
) -> SAE:
    """Load an SAE for reading and steering.

    Args:
        ref: a folder in sae-lens format; `smollm2-135m-instruct/resid_post.9`, which ships with
            the package; `release:id`; or (release, id). A release is a name in sae-lens'
            registry or a hub repository `owner/name`.
        sae_id: the id, where `ref` is a release alone.
        dtype: dtype to compute in, whatever the file stores.

    Raises:
        SaeError: unknown, damaged, or of a form that can't be read exactly.
        DimensionError: tensors that do not fit together.
        NetworkError: the hub could not be reached.
    """
    return sae_from(*read_files(ref, sae_id)).to(device=device, dtype=dtype)


def read_files(
    ref: SaeRef, sae_id: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Config, tensors and name of whatever lies under a reference, before it is given a meaning.

    Raises:
        SaeError: unknown or damaged.
        NetworkError: the hub could not be reached.
    """
    match _resolve(ref, sae_id):
        case Path() as folder:
            name = next((n for n, place in shipped_saes().items() if place == folder), str(ref))
            return (
                _read_cfg(folder / CFG_NAME, name),
                _read_weights(folder / WEIGHTS_NAME, name),
                name,
            )
        case (release, identity):
            return _from_registry(release, identity)


def sae_path(ref: SaeRef, sae_id: str | None = None) -> Path:
    """The folder that an SAE lies in; one from the hub is fetched into the hub's cache first.

    Raises:
        SaeError: unknown.
        NetworkError: the hub could not be reached.
    """
    match _resolve(ref, sae_id):
        case Path() as folder:
            return folder
        case (release, identity):
            return _fetch_folder(release, identity)


def shipped_saes() -> dict[str, Path]:
    """Names of the SAEs inside the package, with their folders."""
    root = Path(str(files("saesteer"))) / "assets" / "saes"
    found = sorted(root.glob(f"**/{CFG_NAME}"))
    return {cfg.parent.relative_to(root).as_posix(): cfg.parent for cfg in found}


def as_sae(given: object) -> SAE:
    """`given` itself, which must be an SAE and not, say, the name of one.

    Raises:
        SaeError: it is none; says how a name is read.
    """
    if not isinstance(given, SAE):
        raise SaeError(none_such(given, "SAE", "load_sae"))
    return given


def check_width(sae: object, model: Model) -> None:
    """Make sure that this is an SAE that fits this model at its site.

    Raises:
        SaeError: it is no SAE, or was trained without a mean that this model's norms see.
        DimensionError: another width; names both.
        SiteError: the model has no such site.
    """
    sae = as_sae(sae)
    site = model.check_site(sae.site)
    width = model.layout.width(site)
    if width != sae.d_model:
        raise DimensionError(
            f"SAE {sae.name} reads activations of width {sae.d_model}, but {model.name} has width "
            f"{width} at {site}. Use an SAE trained on this model and site."
        )
    if sae.centred:
        check_centring(sae.name, model)


def _resolve(ref: SaeRef, sae_id: str | None) -> Path | tuple[str, str]:
    """Decide what a reference means, without reading weights."""
    if isinstance(ref, tuple):
        if len(ref) != 2 or sae_id is not None:
            told = ref if sae_id is None else (*ref, sae_id)
            raise SaeError(f"{told} is no SAE's name: give (release, id), a pair.")
        return _named(str(ref[0]), str(ref[1]))
    if sae_id is not None:
        return _named(str(ref), sae_id)
    path = path_of(ref, SaeError)
    if path.is_dir():
        return path
    shipped = shipped_saes()
    if str(ref) in shipped:
        return shipped[str(ref)]
    release, colon, identity = str(ref).partition(":")
    if isinstance(ref, str) and colon and release and identity:
        return _named(release, identity)
    raise SaeError(
        f"no SAE {str(ref)!r}: it is not a folder and not shipped "
        f"({_nearest(str(ref), shipped)}). Give a folder, a shipped name or release:id."
    )


def _named(release: str, identity: str) -> Path | tuple[str, str]:
    """The folder of an SAE that ships, else what the registry is asked for."""
    return shipped_saes().get(f"{release}/{identity}", (release, identity))


def _nearest(wanted: str, known: Mapping[str, Any]) -> str:
    """Names that look like the wanted one, or the first few."""
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
    names = close or list(known)[:3]
    return f"{'nearest' if close else 'known'}: {', '.join(names) or 'none'}"


def _read_cfg(path: Path, name: str) -> dict[str, Any]:
    """`cfg.json` as a dict in the form of sae-lens 6."""
    try:
        cfg = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SaeError(
            f"SAE {name}: no {path.name} in {path.parent}. Give a folder in sae-lens format."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise SaeError(f"SAE {name}: {path} can't be read as JSON: {_line(error)}.") from error
    if not isinstance(cfg, dict):
        raise SaeError(f"SAE {name}: {path} holds a {type(cfg).__name__}, expected an object.")
    return modern_cfg(cfg, name)


def _read_weights(path: Path, name: str) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise SaeError(
            f"SAE {name}: no {path.name} in {path.parent}. Give a folder in sae-lens format."
        ) from None
    except (OSError, SafetensorError) as error:
        raise SaeError(
            f"SAE {name}: {path} is truncated or corrupted ({_line(error)}). "
            "Fetch or train it again."
        ) from error
    whole = [key for key, tensor in tensors.items() if not tensor.is_floating_point()]
    if whole:
        told = f"{whole[0]} is {tensors[whole[0]].dtype}, expected floats"
        raise SaeError(f"SAE {name}: {path}: {told}. Fetch or train it again.")
    return tensors


def _from_registry(release: str, identity: str) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Loaded through sae-lens, then taken apart into what a folder would hold."""
    name = f"{release}:{identity}"
    _check_release(release, identity)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lens = sae_lens().SAE.from_pretrained(release, identity, device="cpu")
    except Exception as error:
        raise _registry_error(name, error) from error
    return lens.cfg.to_dict(), lens.state_dict(), name


def _check_release(release: str, identity: str) -> None:
    """Refuse names that the registry does not hold; `owner/name` is a hub repository."""
    directory = sae_lens("loading.pretrained_saes_directory").get_pretrained_saes_directory()
    if release not in directory and "/" not in release:
        raise SaeError(
            f"no SAE release {release!r} in sae-lens' registry "
            f"({_nearest(release, directory)}). Give one of its releases, or a hub repository."
        )
    if release in directory and identity not in directory[release].saes_map:
        raise SaeError(
            f"release {release} has no SAE {identity!r} "
            f"({_nearest(identity, directory[release].saes_map)})."
        )


def _fetch_folder(release: str, identity: str) -> Path:
    from huggingface_hub import snapshot_download

    _check_release(release, identity)
    directory = sae_lens("loading.pretrained_saes_directory")
    repo, inner = directory.get_repo_id_and_folder_name(release, identity)
    try:
        root = snapshot_download(repo, allow_patterns=[inner, f"{inner}/*"])
    except Exception as error:
        raise _registry_error(f"{release}:{identity}", error) from error
    return Path(root) / inner


def _registry_error(name: str, error: Exception) -> SaeError | NetworkError:
    """One line for whatever the hub, the network or sae-lens raised."""
    kinds = " ".join(type(e).__name__ for e in _chain(error))
    if any(word in kinds for word in _UNREACHABLE):
        return NetworkError(
            f"SAE {name} has to be fetched from the model hub, which can't be reached "
            f"({_line(error)}). Connect, or give a folder."
        )
    return SaeError(f"SAE {name} can't be loaded: {_line(error)}.")


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:200]
