"""TopK, BatchTopK, Matryoshka BatchTopK and AbsTopK: one loss, sparse wherever sparse is exact.

They differ in which latents survive and in how many nested prefixes are rebuilt, nothing else. The
encoder's matmul is dense and may run in bf16, but only to nominate; all that follows touches k
latents a token. Sources: Gao et al. 2024 (TopK, AuxK), Bussmann et al. 2024 (BatchTopK) and 2025
(Matryoshka), Zhu et al. 2025 (AbsTopK).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from saesteer.axes import Rows
from saesteer.errors import ConfigError
from saesteer.models import Site
from saesteer.saes import SAE
from saesteer.training.coder import Coder, StepResult, scale_of, squares
from saesteer.training.kernels import Active, SparseSums
from saesteer.training.select import Kind, survivors

_QUIET = 0.3
"""Length of new encoder rows beside trained ones; at full length they would drown those."""


@dataclass(frozen=True)
class TopKSettings:
    """What a TopK-family loss depends on beside its weights.

    Attributes:
        k: latents per token, exact or on average by `kind`.
        widths: nested prefixes that each reconstruct alone, increasing, the last one d_sae; a
            single one is plain BatchTopK.
        aux_k: dead latents that model the error.
        aux_coefficient: weight of that loss.
        threshold_rate: step of the running threshold.
        dtype: of the dense encoder matmul.
    """

    k: int
    kind: Kind = "batchtopk"
    widths: tuple[int, ...] = ()
    aux_k: int = 0
    aux_coefficient: float = 0.0
    threshold_rate: float = 0.01
    dtype: torch.dtype = torch.float32


@final
class TopKCoder(Coder):
    """Weights of a TopK-family SAE, both matrices as `[d_sae, d_model]` rows of features."""

    def __init__(
        self, d_model: int, d_sae: int, settings: TopKSettings, *, seed: int, device: Any = "cpu"
    ) -> None:
        super().__init__()
        self.settings = settings
        generator = torch.Generator().manual_seed(seed)
        rows = F.normalize(torch.randn(d_sae, d_model, generator=generator), dim=-1).to(device)
        self.w_dec = nn.Parameter(rows)
        self.w_enc = nn.Parameter(rows.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae, device=device))
        self.b_dec = nn.Parameter(torch.zeros(d_model, device=device))
        self._origin: SAE | None = None
        self._workspace: Tensor | None = None
        self._edges = torch.tensor(settings.widths, device=device)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(0.0, device=device))
        self.register_buffer("input_scale", torch.tensor(1.0, device=device))

    def loss(self, batch: Rows, dead: Int[Tensor, " n_dead"] | None) -> StepResult:
        """Squared error over the batch's variance (its mean over nested prefixes), plus AuxK."""
        x = batch.float() * self.input_scale
        active, latents = self.select(x)
        nested = active.nested(self._edges) if len(self._edges) > 1 else active
        sums = SparseSums.apply(
            x, self.w_enc, self.b_enc, self.w_dec, self.b_dec, nested, latents
        ).view(len(x), nested.levels, -1)
        prefixes = [sums[:, 0] + self.b_dec]
        for level in range(1, nested.levels):
            prefixes.append(prefixes[-1] + sums[:, level])
        errors, spread = [squares(x - recon) for recon in prefixes], squares(x - x.mean(0))
        losses = torch.stack([error.sum() for error in errors]) / spread.sum()
        aux = self._aux_loss(x, (x - prefixes[-1]).detach(), dead)
        on = latents != 0
        return StepResult(
            loss=losses.mean() + self.settings.aux_coefficient * aux,
            fvu=losses[-1].detach(),
            fvu_per_token=(errors[-1].detach() / spread).mean(),
            aux=aux.detach(),
            l0=on.sum() / len(x),
            threshold=torch.where(on, latents.abs(), torch.inf).min(),
            fires=torch.zeros_like(self.b_enc).index_add_(0, active.features, on.float()).detach(),
        )

    @torch.no_grad()
    def select(self, x: Float[Tensor, "rows d_model"]) -> tuple[Active, Float[Tensor, " n"]]:
        """The surviving entries of scaled inputs and their fp32 latents."""
        settings, dtype = self.settings, self.settings.dtype
        centred = x - self.b_dec
        pre = self.workspace(len(x), dtype)
        torch.addmm(self.b_enc.to(dtype), centred.to(dtype), self.w_enc.to(dtype).t(), out=pre)
        return survivors(
            centred, pre, self.w_enc, self.b_enc, settings.k, settings.kind, self.threshold
        )

    def workspace(self, n_rows: int, dtype: torch.dtype) -> Tensor:
        """The buffer for dense pre-activations, kept from step to step: page faults cost as much
        as the matmul."""
        kept = self._workspace
        if kept is None or kept.shape[0] != n_rows or kept.dtype != dtype:
            kept = self._workspace = self.w_enc.new_empty(n_rows, len(self.w_enc), dtype=dtype)
        return kept

    @torch.no_grad()
    def initialise(self, sample: Rows) -> None:
        """Set the input scale, and the decoder bias (the scaled mean) or all of a trained SAE."""
        self.input_scale.copy_(scale_of(sample))
        self.b_dec.copy_(sample.float().mean(0) * self.input_scale)
        if self._origin is not None:
            self._take(self._origin.to(device=self.w_enc.device, dtype=torch.float32))

    def begin_from(self, sae: SAE) -> None:
        """Start from a trained SAE instead of from random weights.

        Its latents keep their numbers; where there are more here, the others start quiet, and AuxK
        brings them in.

        Raises:
            ConfigError: it is wider than this one, or reads another width.
        """
        if sae.d_sae > len(self.w_enc) or sae.d_model != self.w_enc.shape[1]:
            raise ConfigError(
                f"init: {sae.name} has {sae.d_sae} latents of width {sae.d_model}, which do not "
                f"fit into {len(self.w_enc)} of width {self.w_enc.shape[1]}; raise d_sae."
            )
        self._origin = sae

    def _take(self, sae: SAE) -> None:
        """Copy a trained SAE's weights, brought to this scale and to decoder rows of norm 1."""
        scale, own = self.input_scale, slice(sae.d_sae)
        norm = (sae.w_dec * scale).norm(dim=-1)
        b_enc = sae.b_enc if sae.apply_b_dec_to_input else sae.b_enc + sae.b_dec @ sae.w_enc
        self.w_enc *= _QUIET
        self.w_enc[own] = sae.w_enc.t() * (norm / scale)[:, None]
        self.b_enc[own] = b_enc * norm
        self.w_dec[own] = F.normalize(sae.w_dec, dim=-1)
        self.b_dec.copy_(sae.b_dec * scale)
        self.threshold.copy_((sae.threshold * norm).mean())

    @torch.no_grad()
    def before_update(self) -> None:
        """Drop the part of each decoder row's gradient that would only change its norm."""
        grad = self.w_dec.grad
        assert grad is not None
        along = (grad * self.w_dec).sum(-1, keepdim=True)
        grad.addcmul_(along, self.w_dec, value=-1.0)

    @torch.no_grad()
    def after_update(self, result: StepResult) -> None:
        """Bring decoder rows back to unit norm; move the running threshold."""
        self.w_dec.copy_(F.normalize(self.w_dec, dim=-1))
        rate = torch.where(self.threshold > 0, self.settings.threshold_rate, 1.0)
        moved = self.threshold + rate * (result.threshold - self.threshold)
        self.threshold.copy_(torch.where(moved.isfinite(), moved, self.threshold))

    def figures(self) -> dict[str, float]:
        """The threshold that would ship."""
        return {"running_threshold": float(self.threshold)}

    @torch.no_grad()
    def to_sae(self, site: Site, model_name: str) -> SAE:
        """BatchTopK as its running threshold; AbsTopK as TopK over each feature and its mirror."""
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

    def _aux_loss(self, x: Tensor, error: Tensor, dead: Tensor | None) -> Tensor:
        """How badly the dead latents model what the live ones left over.

        Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders, AuxK.
        """
        if dead is None or not self.settings.aux_k:
            return x.new_zeros(())
        w_enc, w_dec = self.w_enc.index_select(0, dead), self.w_dec.index_select(0, dead)
        pre = (x - self.b_dec.detach()) @ w_enc.t() + self.b_enc.index_select(0, dead)
        signed = self.settings.kind == "abstopk"
        top = (pre.abs() if signed else pre).topk(min(self.settings.aux_k, len(dead)), dim=-1)
        kept = pre.gather(-1, top.indices)
        latents = torch.zeros_like(pre).scatter(-1, top.indices, kept if signed else kept.relu())
        return (error - latents @ w_dec).pow(2).sum() / error.pow(2).sum()
