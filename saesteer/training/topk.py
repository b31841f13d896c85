"""SAEs of the TopK family: what is read is what is rebuilt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from saesteer.axes import Rows
from saesteer.errors import ConfigError
from saesteer.models import Site
from saesteer.saes import SAE
from saesteer.training.coder import scale_of
from saesteer.training.sparse import SparseCoder, TopKSettings, unit_rows

_QUIET = 0.3
"""Length of new encoder rows beside trained ones, at most and in thresholds; at full length they
would drown those."""
_LOWEST = 1e-3
"""Least threshold of a latent beside the mean one; at 0 it would have no unit."""


@final
class TopKCoder(SparseCoder):
    """TopK, BatchTopK, Matryoshka BatchTopK and AbsTopK on one site; the encoder starts tied."""

    def __init__(
        self, d_model: int, d_sae: int, settings: TopKSettings, *, seed: int, device: Any = "cpu"
    ) -> None:
        rows = unit_rows(d_sae, d_model, torch.Generator().manual_seed(seed)).to(device)
        super().__init__(rows.clone(), rows, settings)
        self._origin: SAE | None = None
        self.register_buffer("input_scale", torch.tensor(1.0, device=device))

    def split(self, batch: Rows) -> tuple[Tensor, Tensor]:
        """The same twice."""
        x = batch.float() * self.input_scale
        return x, x

    @torch.no_grad()
    def initialise(self, sample: Rows) -> None:
        """Set the input scale, and the decoder bias (the scaled mean) or all of a trained SAE."""
        self.input_scale.copy_(scale_of(sample))
        self.b_dec.copy_(sample.float().mean(0) * self.input_scale)
        if self._origin is not None:
            self._take(self._origin.to(device=self.w_enc.device, dtype=torch.float32))
            self._origin = None

    def begin_from(self, sae: SAE) -> None:
        """Start from a trained SAE instead of from random weights.

        Its latents keep their numbers; where there are more here, the others start quiet, and AuxK
        brings them in. An AbsTopK SAE takes another one's latents without their mirrors.

        Raises:
            ConfigError: it is wider than this one, or reads another width.
        """
        if self.settings.kind == "abstopk":
            sae = _unmirrored(sae)
        if sae.d_sae > len(self.w_enc) or sae.d_model != self.w_enc.shape[1]:
            raise ConfigError(
                f"init: {sae.name} has {sae.d_sae} latents of width {sae.d_model}, which do not "
                f"fit into {len(self.w_enc)} of width {self.w_enc.shape[1]}; raise d_sae."
            )
        self._origin = sae
        cuts = sae.threshold * sae.w_dec.norm(dim=-1)
        if self.settings.kind == "batchtopk" and not torch.allclose(cuts, cuts.mean()):
            self.norms = torch.ones_like(self.b_enc)[:, None]

    @torch.no_grad()
    def _take(self, sae: SAE) -> None:
        """Copy a trained SAE's weights, brought to this scale and to decoder rows of norm 1.

        Where its latents have thresholds of their own, each is measured in its threshold: encoder
        and bias are divided by it and the decoder row is multiplied, so that one cut serves all.
        """
        scale, own = self.input_scale, slice(sae.d_sae)
        norm = (sae.w_dec * scale).norm(dim=-1)
        b_enc = sae.b_enc if sae.apply_b_dec_to_input else sae.b_enc + sae.b_dec @ sae.w_enc
        cuts = sae.threshold * norm
        self.threshold.copy_(cuts.mean())
        has = self.threshold > 0  # TopK and ReLU have no thresholds
        self.w_enc.mul_(torch.where(has, self.threshold.clamp(max=1), 1.0) * _QUIET)
        self.w_enc[own] = sae.w_enc.t() * (norm / scale)[:, None]
        self.b_enc[own] = b_enc * norm
        self.w_dec[own] = F.normalize(sae.w_dec, dim=-1)
        self.b_dec.copy_(sae.b_dec * scale)
        if self.norms is not None:
            self.norms[own] = (cuts / self.threshold).clamp(min=_LOWEST)[:, None]
            self.w_enc.div_(self.norms)
            self.b_enc.div_(self.norms[:, 0])
            self.w_dec.mul_(self.norms)

    @torch.no_grad()
    def to_sae(self, sites: Sequence[Site], model_name: str) -> SAE:
        """BatchTopK as its running threshold; AbsTopK as TopK over each feature and its mirror."""
        (site,) = sites
        scale, kind = self.input_scale, self.settings.kind
        norms = torch.ones_like(self.b_enc)[:, None] if self.norms is None else self.norms
        w_enc, b_enc = self.w_enc * norms * scale, self.b_enc.detach() * norms[:, 0]
        w_dec = self.w_dec / norms / scale
        if kind == "abstopk":
            w_enc, w_dec = torch.cat([w_enc, -w_enc]), torch.cat([w_dec, -w_dec])
            b_enc = torch.cat([b_enc, -b_enc])
        cut = self.threshold * norms[:, 0] if kind == "batchtopk" else torch.zeros_like(b_enc)
        return SAE(
            w_enc=w_enc.t().contiguous().cpu(),
            b_enc=b_enc.clone().cpu(),
            w_dec=w_dec.contiguous().cpu(),
            b_dec=(self.b_dec / scale).cpu(),
            threshold=cut.cpu(),
            site=site,
            activation="jumprelu" if kind == "batchtopk" else "topk",
            k=self.settings.k,
            apply_b_dec_to_input=True,
            model_name=model_name,
            name=f"{model_name}/{site}",
        )


def _unmirrored(sae: SAE) -> SAE:
    """The first half of an SAE whose second half is its mirror, as `to_sae` stores AbsTopK; any
    other as it is."""
    half = sae.d_sae // 2
    by_latent = (sae.w_enc.t(), sae.w_dec, sae.b_enc)
    if not all(torch.equal(rows[:half], -rows[half:]) for rows in by_latent):
        return sae
    return replace(
        sae,
        w_enc=sae.w_enc[:, :half],
        b_enc=sae.b_enc[:half],
        w_dec=sae.w_dec[:half],
        threshold=sae.threshold[:half],
    )
