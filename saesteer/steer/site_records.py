"""What a pass leaves of one site, with norms or with the tensors that they are still to be of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saesteer.models.sites import Site


def norm(tensor: Tensor) -> Tensor:
    """‖·‖ over the last axis in fp32, outside any graph."""
    plain = tensor.detach() if tensor.requires_grad else tensor
    return torch.linalg.vector_norm(plain.float(), dim=-1)


class SiteRecord(NamedTuple):
    """One edited site in one pass.

    Attributes:
        norm: ‖h‖, `[batch, pos]`.
        mask: where at least one edit acted, `[batch, pos]`.
        size: ‖Δh‖ of all edits together, `[batch, pos]`, or `[]` where it is the same everywhere.
        deeds: each edit's number, its own mask (None: `mask`) and its own ‖Δh‖, shaped as `size`.
    """

    norm: Tensor
    mask: Tensor
    size: Tensor
    deeds: tuple[tuple[int, Tensor | None, Tensor], ...]


class Added(NamedTuple):
    """What a site adds wherever it acts, on one device: `vector` [width], its norm, its deeds."""

    site: Site
    vector: Tensor
    norm: Tensor
    deeds: tuple[tuple[int, Tensor | None, Tensor], ...]


class Draft(NamedTuple):
    """An edited site of which no norm has been taken yet.

    Attributes:
        resid: h, `[batch, pos, width]`.
        mask: where at least one edit acted, `[batch, pos]`.
        moves: each edit's number, its own mask (None: `mask`), its Δh and the norm of that where it
            is the same everywhere.
        total: Δh of all edits together, where it is not that of the only one.
    """

    site: Site
    resid: Tensor
    mask: Tensor
    moves: tuple[tuple[int, Tensor | None, Tensor, Tensor | None], ...]
    total: Tensor | None

    def settled(self) -> SiteRecord:
        """The same with norms in the place of vectors."""
        device = self.resid.device
        deeds = tuple(
            (
                edit,
                None if mask is None else mask.to(device),
                norm(move) if known is None else known,
            )
            for edit, mask, move, known in self.moves
        )
        size = deeds[0][2] if self.total is None else norm(self.total)
        return SiteRecord(norm(self.resid), self.mask.to(device), size, deeds)


class Waiting(NamedTuple):
    """What was added, to which activation (h, `[batch, pos, width]`), and the mask."""

    added: Added
    resid: Tensor
    mask: Tensor
