"""SAEs of the TopK family: what is read is what is rebuilt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Rows
from saesteer.models import Site
from saesteer.saes import SAE
from saesteer.training.coder import scale_of
from saesteer.training.sparse import SparseCoder, TopKSettings, drop_radial, renorm, unit_rows


@final
class TopKCoder(SparseCoder):
    """TopK, BatchTopK, Matryoshka BatchTopK and AbsTopK on one site; the encoder starts tied."""

    def __init__(
        self, d_model: int, d_sae: int, settings: TopKSettings, *, seed: int, device: Any = "cpu"
    ) -> None:
        rows = unit_rows(d_sae, d_model, torch.Generator().manual_seed(seed)).to(device)
        super().__init__(rows.clone(), rows, settings)
        self.register_buffer("input_scale", torch.tensor(1.0, device=device))

    def split(self, batch: Rows) -> tuple[Tensor, Tensor]:
        """The same twice."""
        x = batch.float() * self.input_scale
        return x, x

    @property
    def offset(self) -> Float[Tensor, " d_model"]:
        """The decoder's bias."""
        return self.b_dec

    def base(self, x: Rows) -> Float[Tensor, " d_model"]:  # noqa: ARG002 (the same for all)
        """The decoder's bias."""
        return self.b_dec

    def measures(self, target: Tensor, recon: Tensor) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Nothing."""
        return {}

    @torch.no_grad()
    def initialise(self, sample: Rows) -> None:
        """Set the input scale and the decoder bias (the scaled mean)."""
        self.input_scale.copy_(scale_of(sample))
        self.b_dec.copy_(sample.float().mean(0) * self.input_scale)

    def before_update(self) -> None:
        """Keep the decoder's gradient from changing norms."""
        drop_radial(self.w_dec)

    def constrain(self) -> None:
        """Bring decoder rows back to unit norm."""
        renorm(self.w_dec)

    @torch.no_grad()
    def to_sae(self, sites: Sequence[Site], model_name: str) -> SAE:
        """BatchTopK as its running threshold; AbsTopK as TopK over each feature and its mirror."""
        (site,) = sites
        scale, kind = self.input_scale, self.settings.kind
        w_enc, b_enc, w_dec = self.w_enc * scale, self.b_enc.detach(), self.w_dec / scale
        if kind == "abstopk":
            w_enc, w_dec = torch.cat([w_enc, -w_enc]), torch.cat([w_dec, -w_dec])
            b_enc = torch.cat([b_enc, -b_enc])
        cut = self.threshold if kind == "batchtopk" else torch.zeros_like(self.threshold)
        return SAE(
            w_enc=w_enc.t().contiguous().cpu(),
            b_enc=b_enc.clone().cpu(),
            w_dec=w_dec.contiguous().cpu(),
            b_dec=(self.b_dec / scale).cpu(),
            threshold=cut.expand(len(b_enc)).clone().cpu(),
            site=site,
            activation="jumprelu" if kind == "batchtopk" else "topk",
            k=self.settings.k,
            apply_b_dec_to_input=True,
            model_name=model_name,
            name=f"{model_name}/{site}",
        )
