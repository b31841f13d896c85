"""A crosscoder in training: one set of latents, read from and written to several sites.

It is an SAE on activations side by side, but for the norm that decoder rows are held to: their
norms, averaged over sites, are 1, so a latent may live at one site or at all of them. Lindsey et
al. 2024 weigh a latent by the sum of its decoder norms in the sparsity loss, and Minder et al. 2025
choose a batch's survivors by latent times that sum; with the sum held fixed, both are the latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from saesteer.axes import Rows
from saesteer.models import Site
from saesteer.saes import Crosscoder
from saesteer.training.coder import scale_of
from saesteer.training.sparse import SparseCoder, TopKSettings, unit_rows


@final
class SparseCrosscoder(SparseCoder):
    """`input_scale` `[n_sites]` brings each site to a mean squared norm of its width.

    Args:
        widths: of each site, by its name in figures.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        d_sae: int,
        settings: TopKSettings,
        *,
        seed: int,
        device: Any = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.cat([unit_rows(d_sae, w, generator) for w in widths.values()], dim=-1)
        rows = rows.to(device)
        super().__init__(rows / len(widths), rows, settings)
        self._names, self._widths = tuple(widths), tuple(widths.values())
        self.register_buffer("input_scale", torch.ones(len(widths), device=device))

    def split(self, batch: Rows) -> tuple[Tensor, Tensor]:
        """All sites, twice."""
        x = batch.float() * self._by_column(self.input_scale)
        return x, x

    def measures(self, target: Tensor, recon: Tensor) -> Mapping[str, Tensor]:
        """FVU of each site."""
        errors = (target - recon).pow(2).sum(0).split(self._widths)
        spreads = (target - target.mean(0)).pow(2).sum(0).split(self._widths)
        each = zip(self._names, errors, spreads, strict=True)
        return {f"fvu/{name}": error.sum() / spread.sum() for name, error, spread in each}

    @torch.no_grad()
    def initialise(self, sample: Rows) -> None:
        """Set every site's scale, and the decoder's bias to the scaled means."""
        scales = [scale_of(part) for part in sample.split(self._widths, dim=-1)]
        self.input_scale.copy_(torch.stack(scales))
        self.b_dec.copy_(sample.float().mean(0) * self._by_column(self.input_scale))

    @torch.no_grad()
    def before_update(self) -> None:
        """Drop the part of each decoder row's gradient that would only change its mean norm."""
        assert self.w_dec.grad is not None
        grads = self.w_dec.grad.split(self._widths, dim=-1)
        units = [F.normalize(part, dim=-1) for part in self.w_dec.split(self._widths, dim=-1)]
        pairs = list(zip(grads, units, strict=True))
        along = torch.stack([(grad * unit).sum(-1, keepdim=True) for grad, unit in pairs]).mean(0)
        for grad, unit in pairs:
            grad.addcmul_(along, unit, value=-1.0)

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the mean over sites of each decoder row's norms back to 1."""
        parts = self.w_dec.split(self._widths, dim=-1)
        norms = torch.stack([part.norm(dim=-1) for part in parts]).mean(0)
        self.w_dec.div_(norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None])

    @torch.no_grad()
    def to_sae(self, sites: Sequence[Site], model_name: str) -> Crosscoder:
        """The crosscoder in its threshold form, scales and the encoder's offset folded in."""
        scale = self._by_column(self.input_scale)

        def by_site(whole: Tensor) -> dict[Site, Tensor]:
            parts = whole.cpu().split(self._widths, dim=-1)
            return {site: part.clone() for site, part in zip(sites, parts, strict=True)}

        return Crosscoder(
            w_enc={s: w.t().contiguous() for s, w in by_site(self.w_enc * scale).items()},
            b_enc=(self.b_enc - self.w_enc @ self.b_dec).cpu(),
            w_dec=by_site(self.w_dec / scale),
            b_dec=by_site(self.b_dec / scale),
            threshold=self.threshold.expand(len(self.b_enc)).clone().cpu(),
            scale=dict(zip(sites, self.input_scale.tolist(), strict=True)),
            model_name=model_name,
            name=f"{model_name}/{'+'.join(map(str, sites))}",
        )

    def _by_column(self, of_site: Float[Tensor, " n_sites"]) -> Float[Tensor, " d_in"]:
        return torch.cat([of_site[i].expand(width) for i, width in enumerate(self._widths)])
