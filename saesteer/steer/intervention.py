"""Interventions are values: what an edit would add to an activation, and nothing about when.

Each gives Δh for every position, as if it were the only one; where, whether and how strongly it
acts is the plan's business, so strength multiplies Δh for all of them alike. Arithmetic is fp32
whatever the model's dtype. No answer depends on other rows or positions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Resid
from saesteer.errors import DimensionError, PlanError
from saesteer.metrics.outliers import OUTLIER_FACTOR
from saesteer.models.sites import Site


@dataclass(frozen=True, eq=False)
class Intervention(ABC):
    """A pure function on one site's activations."""

    site: Site

    @property
    @abstractmethod
    def width(self) -> int:
        """Size of the activations it edits."""

    @abstractmethod
    def describe(self) -> str:
        """What it does, in a few words, without the site: `clamp feature 55 to 6`."""

    @abstractmethod
    def delta(self, resid: Resid) -> Resid:
        """Δh for each position, in fp32.

        Args:
            resid: `[batch, pos, width]`, the site's activations before the plan's own edits.
        """

    def constant(self) -> Float[Tensor, " width"] | None:
        """Δh where it is the same at every position, so that it need not be worked out at each."""
        return None

    def span(self) -> Float[Tensor, "k width"] | None:
        """Rows that span all that Δh can be; None where it can be anything."""
        added = self.added()
        return None if added is None else added[None]

    def added(self) -> Float[Tensor, " width"] | None:
        """What Δh is a positive multiple of, at every position; None where its sign may vary."""
        return self.constant()

    def to(self, device: torch.device | str) -> Intervention:
        """The same intervention with its tensors in fp32 on `device`."""
        moved: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.init and hasattr(value, "to"):
                moved[entry.name] = value.to(device=device, dtype=torch.float32)
        return replace(self, **moved)


def as_tensor(given: Tensor | Any, who: str) -> Tensor:
    """A tensor, made of an array or of numbers if it is none.

    Raises:
        PlanError: none can be made of it.
    """
    try:
        return torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PlanError(f"{who}: got a {type(given).__name__}, expected a tensor.") from error


def as_vector(vector: Tensor | Any, who: str) -> Float[Tensor, " width"]:
    """`vector`, a tensor or an array, as fp32, copied out of whatever it was a view of.

    Raises:
        DimensionError: it has another shape than `[width]`.
        PlanError: it holds NaN or infinity, or is no array.
    """
    vector = as_tensor(vector, who)
    if vector.ndim != 1 or not vector.numel():
        raise DimensionError(f"{who}: got shape {list(vector.shape)}, expected one vector [width].")
    return finite(vector, who)


def finite(tensor: Tensor, who: str) -> Tensor:
    """`tensor` detached, copied and in fp32.

    Raises:
        PlanError: it holds NaN, infinity or what fp32 makes infinite, or no real floats at all.
    """
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        raise PlanError(
            f"{who}: got a tensor of {tensor.dtype}, {tensor.layout} on {tensor.device}, expected "
            "a dense one of floats; convert it with .to_dense() or .float()."
        )
    found = tensor.detach().to(torch.float32, copy=True)
    if not bool(torch.isfinite(found).all()):
        raise PlanError(f"{who}: the tensor holds NaN or infinity; check how it was computed.")
    return found


def is_outlier(norms: Tensor, typical_norm: float | None, who: str) -> Tensor:
    """Tokens whose norm exceeds 4 times the site's typical one, a constant of the model.

    The batch's own median would make a token's edit depend on its neighbours and on the cache.

    Raises:
        PlanError: no typical norm has been filled in.
    """
    if typical_norm is None:
        raise PlanError(
            f"{who} has no typical_norm yet; attaching its plan measures it, or set it."
        )
    return norms > OUTLIER_FACTOR * typical_norm


def check_typical(norm: float | None, who: str) -> None:
    """A site's typical ‖h‖, where one is given.

    Raises:
        PlanError: it is not above 0, or infinite.
    """
    if norm is not None and not 0 < norm < math.inf:
        raise PlanError(f"{who}: typical_norm is {norm}, expected the site's median ‖h‖.")


@final
@dataclass(frozen=True, eq=False)
class Add(Intervention):
    """h + v."""

    vector: Float[Tensor, " width"]

    @property
    def width(self) -> int:
        """Size of the vector."""
        return self.vector.shape[0]

    def describe(self) -> str:
        """`add a vector of norm 8.1`."""
        return f"add a vector of norm {float(self.vector.detach().norm()):.3g}"

    def constant(self) -> Float[Tensor, " width"]:
        """The vector."""
        return self.vector

    def delta(self, resid: Resid) -> Resid:
        """The vector, at every position."""
        return self.vector.expand(resid.shape)


@final
@dataclass(frozen=True, eq=False)
class AddScaled(Intervention):
    """h + ‖h‖ v; where ‖h‖ is more than 4 times `typical_norm`, that norm stands in for it."""

    vector: Float[Tensor, " width"]
    typical_norm: float | None = None

    def __post_init__(self) -> None:
        """Check the norm; see `check_typical`."""
        check_typical(self.typical_norm, "add_scaled")

    @property
    def width(self) -> int:
        """Size of the vector."""
        return self.vector.shape[0]

    def describe(self) -> str:
        """`add a vector of norm 0.2 ‖h‖`."""
        return f"add a vector of norm {float(self.vector.detach().norm()):.3g} ‖h‖"

    def added(self) -> Float[Tensor, " width"]:
        """The vector."""
        return self.vector

    def delta(self, resid: Resid) -> Resid:
        """The vector times each token's norm, outliers held to the typical one."""
        norms = resid.float().norm(dim=-1, keepdim=True)
        outlier = is_outlier(norms, self.typical_norm, "add_scaled")
        return torch.where(outlier, self.typical_norm or 0.0, norms) * self.vector


@final
@dataclass(frozen=True, eq=False)
class ProjectOut(Intervention):
    """h without its part in a subspace, given by orthonormal rows."""

    basis: Float[Tensor, "k width"]

    @property
    def width(self) -> int:
        """Size of the basis vectors."""
        return self.basis.shape[1]

    def describe(self) -> str:
        """`project out 1 direction`."""
        k = self.basis.shape[0]
        return f"project out {k} direction{'s'[: k != 1]}"

    def span(self) -> Float[Tensor, "k width"]:
        """The basis."""
        return self.basis

    def delta(self, resid: Resid) -> Resid:
        """Minus the projection onto the subspace."""
        return -(resid.float() @ self.basis.T) @ self.basis


def add(site: Site | str, vector: Tensor | Any) -> Add:
    """Add `vector` `[width]`, in the model's own scale.

    Raises:
        DimensionError, PlanError: no vector, or not finite.
    """
    return Add(Site.parse(site), as_vector(vector, "add"))


def add_scaled(
    site: Site | str, vector: Tensor | Any, typical_norm: int | float | None = None
) -> AddScaled:
    """Add `vector` `[width]` in units of each token's ‖h‖; a unit vector makes strength the dose.

    Args:
        typical_norm: the site's median ‖h‖; measured once on a built-in text when left out.

    Raises:
        DimensionError, PlanError: no vector, or not finite.
    """
    norm = None if typical_norm is None else float(typical_norm)
    return AddScaled(Site.parse(site), as_vector(vector, "add_scaled"), norm)


def project_out(site: Site | str, vector: Tensor | Any) -> ProjectOut:
    """Remove the direction `[width]`, or the span of the rows `[k, width]`.

    Raises:
        DimensionError: neither shape, or no rows.
        PlanError: the rows are zero or linearly dependent, or not finite.
    """
    vector = as_tensor(vector, "project_out")
    if vector.ndim not in (1, 2) or not vector.numel():
        raise DimensionError(
            f"project_out: got shape {list(vector.shape)}, expected [width] or [k, width]."
        )
    rows = finite(torch.atleast_2d(vector), "project_out")
    if int(torch.linalg.matrix_rank(rows)) < rows.shape[0]:
        raise PlanError(
            f"project_out: {rows.shape[0]} rows span fewer dimensions; drop zero or dependent ones."
        )
    return ProjectOut(Site.parse(site), torch.linalg.qr(rows.T).Q.T.contiguous())
