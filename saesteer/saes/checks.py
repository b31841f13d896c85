"""What every file of a sparse coder is checked for before anything is built from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from saesteer.errors import DimensionError, FeatureError, SaeError, SiteError
from saesteer.models.placing import as_device, as_dtype
from saesteer.models.sites import Site

Features = SupportsIndex | Iterable[SupportsIndex]


@contextmanager
def building(name: str) -> Iterator[None]:
    """Say in one line that files do not make what they should, whatever is odd in them.

    Raises:
        SaeError: instead of any error of a damaged config or of tensors that don't fit.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise SaeError(
            f"SAE {name}: cfg.json and the weights do not make an SAE ({type(error).__name__}: "
            f"{text}). The files are damaged or of another format."
        ) from error


def need(weights: Mapping[str, Tensor], key: str, name: str) -> Tensor:
    """A tensor that must be there.

    Raises:
        SaeError: it is not.
    """
    if key not in weights:
        raise SaeError(
            f"SAE {name}: the weights have no {key}, only {', '.join(sorted(weights))}. "
            "The file is damaged or of another architecture than cfg.json says."
        )
    return weights[key]


def check_finite(weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights that are no numbers.

    Raises:
        SaeError: naming the tensor.
    """
    for key, value in weights.items():
        if not bool(value.isfinite().all()):
            bad = int((~value.isfinite()).sum())
            raise SaeError(
                f"SAE {name}: {key} holds {bad} values that are NaN or infinite. "
                "The file is damaged; fetch or train it again."
            )


def check_shapes(name: str, tensors: Mapping[str, tuple[Tensor, tuple[int, ...]]]) -> None:
    """Tensors by name, each with the shape that it must have.

    Raises:
        DimensionError: naming the first that has another.
    """
    for key, (tensor, expected) in tensors.items():
        if tuple(tensor.shape) != expected:
            raise DimensionError(
                f"SAE {name}: {key} has shape {list(tensor.shape)}, expected {list(expected)} "
                "to fit the others. The file is damaged or misread."
            )


def check_width(resid: object, width: int, name: str, *, what: str = "activations") -> None:
    """Activations, or latents, must be a tensor of the width that is read.

    Raises:
        DimensionError: they have another, or are no tensor.
    """
    if not isinstance(resid, Tensor) or not resid.ndim:
        raise DimensionError(
            f"SAE {name} reads {what} as a tensor [..., {width}], got {type(resid).__name__}; "
            "torch.as_tensor makes one of an array."
        )
    if resid.shape[-1] != width:
        raise DimensionError(
            f"SAE {name} reads {what} of width {width}, got width {resid.shape[-1]}. "
            "Use an SAE trained on this model and site."
        )


def moved(
    coder: object,
    names: Iterable[str],
    device: torch.device | str | None,
    dtype: torch.dtype | str | None,
) -> dict[str, Any]:
    """A coder's tensors of these names elsewhere, also those by site; None leaves what it is.

    Raises:
        SaeError: there is no such device, or it is no dtype of floats.
    """
    device = None if device is None else as_device(device, SaeError)
    dtype = None if dtype is None else as_dtype(dtype, SaeError)

    def move(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: move(one) for key, one in value.items()}
        return None if value is None else value.to(device=device, dtype=dtype)

    return {name: move(getattr(coder, name)) for name in names}


def check_features(features: Features, d_sae: int, name: str) -> tuple[int, ...]:
    """One feature or several, as a tuple.

    Raises:
        FeatureError: no whole number, or it lies outside 0 to d_sae - 1.
    """
    try:
        chosen = _indices(features)
    except TypeError:
        raise FeatureError(
            f"features {features!r}: give a whole number, or several of them."
        ) from None
    for feature in chosen:
        if not 0 <= feature < d_sae:
            raise FeatureError(
                f"feature {feature} does not exist; SAE {name} has features 0–{d_sae - 1}."
            )
    return chosen


def _indices(features: Any) -> tuple[int, ...]:
    try:
        return (index(features),)
    except TypeError:
        return tuple(map(index, features))


def site_of(metadata: Mapping[str, Any], name: str, end: str = "") -> Site:
    """The site of `hook_name`, else of `hf_hook_name`, with its head if one is given.

    Args:
        end: `_out` for what a transcoder writes.

    Raises:
        SaeError: there is neither name, or they mean no site.
    """
    key, head = f"hook_name{end}", metadata.get(f"hook_head_index{end}")
    given = [hook for hook in (metadata.get(key), metadata.get(f"hf_{key}")) if hook is not None]
    if not given:
        raise SaeError(
            f"SAE {name}: cfg.json names no {key} in its metadata. "
            f"Set metadata.{key}, for example blocks.9.hook_resid_post."
        )
    site = _first_site(given, f"SAE {name}: {key}")
    if head is None or site.kind != "head_out":
        return site
    return dataclasses.replace(site, head=int(head))


def _first_site(given: Sequence[Any], who: str) -> Site:
    faults: list[SiteError] = []
    for hook in given:
        try:
            return Site.parse(hook)
        except SiteError as error:
            faults.append(error)
    raise SaeError(f"{who} {faults[0]}") from faults[0]
