"""Plans that edit or read single attention heads, or all of them side by side, in one hook.

`head_out.1` and `head_out.1.2` name parts of one tensor. All that a plan reads and edits there it
reads and edits as it came, and what both change is changed by the sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saesteer.models import Layout, Site
from saesteer.steer.acts import narrow
from saesteer.steer.frame import Frame
from saesteer.steer.site_hook import Visit


def columns_of(layout: Layout, site: Site) -> slice:
    """The share of a site in the activation of `site.whole`."""
    columns = layout.point(site).columns
    return slice(None) if columns is None else slice(*columns)


def side_by_side(layout: Layout, reads: Mapping[Site, Visit], edits: Mapping[Site, Visit]) -> Visit:
    """One visit of the whole: first all that read a part of it, then all that edit one."""
    reading = [(columns_of(layout, site), read) for site, read in reads.items()]
    editing = [(columns_of(layout, site), edit) for site, edit in edits.items()]
    overlap = any(site.head is None for site in edits)

    def visit(whole: Tensor, frame: Frame) -> Tensor | None:
        for columns, read in reading:
            read(whole[..., columns], frame)
        new: Tensor | None = None
        for columns, edit in editing:
            old = whole[..., columns]
            edited = edit(old, frame)
            if edited is not None:
                new = whole.clone() if new is None else new
                there = new[..., columns]
                new[..., columns] = _joined(old, there, edited) if overlap else edited
        return new

    return visit


def _joined(old: Tensor, there: Tensor, edited: Tensor) -> Tensor:
    """Both changes of `old`; bit for bit the only one where there is one."""
    wide = there.float() + (edited.float() - old.float())
    both = (there != old) & (edited != old)
    return torch.where(both, narrow(wide, old, old.dtype), torch.where(there != old, there, edited))
