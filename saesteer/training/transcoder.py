"""A transcoder in training: one site is read, another rebuilt, each in a scale of its own.

Sources: Dunefsky et al. 2024 (transcoders), Paulo et al. 2025 (the linear skip connection, which
starts at zero). Decoder rows have unit norm, as an SAE's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.axes import Rows
from saesteer.models import Site
from saesteer.saes import Transcoder
from saesteer.training.coder import scale_of
from saesteer.training.sparse import SparseCoder, TopKSettings, unit_rows


@final
class SparseTranscoder(SparseCoder):
    """A batch's columns are those of the input site, then those of the target.

    Attributes:
        b_in: subtracted from the scaled input, as an SAE subtracts its decoder's bias.
        output_scale: brings the target to a mean squared norm of its width.
        w_skip: what the output takes linearly from the centred input, `[d_out, d_in]`, or None.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        d_sae: int,
        settings: TopKSettings,
        *,
        skip: bool,
        seed: int,
        device: Any = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        w_enc, w_dec = (unit_rows(d_sae, width, generator).to(device) for width in widths)
        super().__init__(w_enc, w_dec, settings)
        self._widths = widths
        self.b_in = nn.Parameter(torch.zeros(widths[0], device=device))
        zeros = torch.zeros(widths[1], widths[0], device=device)
        self.w_skip = nn.Parameter(zeros) if skip else None
        self.output_scale: Tensor
        self.register_buffer("input_scale", torch.tensor(1.0, device=device))
        self.register_buffer("output_scale", torch.tensor(1.0, device=device))

    def split(self, batch: Rows) -> tuple[Tensor, Tensor]:
        """Input and target."""
        x, target = batch.split(self._widths, dim=-1)
        return x.float() * self.input_scale, target.float() * self.output_scale

    @property
    def offset(self) -> Float[Tensor, " d_in"]:
        """The input's bias."""
        return self.b_in

    def base(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "*n d_out"]:
        """The decoder's bias, and the skip connection if there is one."""
        return self.b_dec if self.w_skip is None else (x - self.b_in) @ self.w_skip.t() + self.b_dec

    @torch.no_grad()
    def initialise(self, sample: Rows) -> None:
        """Set both scales, and both biases to the scaled means."""
        x, target = (part.float() for part in sample.split(self._widths, dim=-1))
        self.input_scale.copy_(scale_of(x))
        self.output_scale.copy_(scale_of(target))
        self.b_in.copy_(x.mean(0) * self.input_scale)
        self.b_dec.copy_(target.mean(0) * self.output_scale)

    @torch.no_grad()
    def to_sae(self, sites: Sequence[Site], model_name: str) -> Transcoder:
        """The transcoder in its threshold form, `b_in` folded into the other biases."""
        site, target = sites
        skip, b_dec = None, self.b_dec
        if self.w_skip is not None:
            b_dec = b_dec - self.w_skip @ self.b_in
            skip = (self.w_skip * (self.input_scale / self.output_scale)).cpu()
        return Transcoder(
            w_enc=(self.w_enc * self.input_scale).t().contiguous().cpu(),
            b_enc=(self.b_enc - self.w_enc @ self.b_in).cpu(),
            w_dec=(self.w_dec / self.output_scale).cpu(),
            b_dec=(b_dec / self.output_scale).cpu(),
            threshold=self.threshold.expand(len(self.b_enc)).clone().cpu(),
            site=site,
            target=target,
            w_skip=skip,
            model_name=model_name,
            name=f"{model_name}/{site}-{target}",
        )
