"""One training step of a TopK-family SAE, `batch -> StepResult`, sparse wherever sparse is exact.

The encoder's matmul is dense and may run in bf16, but only to find candidates; the latents that
survive are computed again in fp32. Everything after it touches k latents a token: the decoder and
both weight gradients are bags of rows, summed in a fixed order, so the step is deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

_CANDIDATE_SHARE = 0.8
"""Candidates are latents above this share of the running threshold; checked to be enough."""


@dataclass(frozen=True)
class StepResult:
    """What one step measured, as tensors on the device; reading them is the caller's choice.

    Attributes:
        loss: squared error over the variance of the batch, plus the auxiliary loss; 0-d.
        fvu: the error part alone, pooled over the batch.
        aux: the auxiliary loss before its coefficient.
        l0: active latents per token.
        threshold: smallest latent that survived in this batch.
    """

    loss: Tensor
    fvu: Tensor
    aux: Tensor
    l0: Tensor
    threshold: Tensor


@dataclass(frozen=True)
class Active:
    """The latents that survive a batch, row by row: n entries of (row, feature).

    `starts` `[batch]` is where each row's entries begin.
    """

    rows: Int[Tensor, " n"]
    features: Int[Tensor, " n"]
    starts: Int[Tensor, " batch"]


class TopKModule(nn.Module):
    """Weights of the SAE in training, both matrices as `[d_sae, d_model]` rows of features.

    Inputs are scaled by `input_scale` so that their mean squared norm is d_model.
    """

    def __init__(self, d_model: int, d_sae: int, *, seed: int, device: Any = "cpu") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        rows = F.normalize(torch.randn(d_sae, d_model, generator=generator), dim=-1).to(device)
        self.w_dec = nn.Parameter(rows)
        self.w_enc = nn.Parameter(rows.clone())
        self.b_enc = nn.Parameter(torch.zeros(d_sae, device=device))
        self.b_dec = nn.Parameter(torch.zeros(d_model, device=device))
        self._workspace: Tensor | None = None
        self.threshold: Tensor
        self.input_scale: Tensor
        self.last_fired: Tensor
        self.register_buffer("threshold", torch.tensor(0.0, device=device))
        self.register_buffer("input_scale", torch.tensor(1.0, device=device))
        self.register_buffer("last_fired", torch.zeros(d_sae, dtype=torch.long, device=device))

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "n d_model"]) -> None:
        """Set the input scale and the decoder bias (the scaled mean) from some activations."""
        sample = sample.float()
        rms = sample.pow(2).sum(-1).mean().sqrt()
        self.input_scale.copy_(sample.shape[-1] ** 0.5 / rms)
        self.b_dec.copy_(sample.mean(0) * self.input_scale)

    def workspace(self, n_rows: int, dtype: torch.dtype) -> Tensor:
        """The buffer for dense pre-activations, kept from step to step: page faults cost as much
        as the matmul."""
        kept = self._workspace
        if kept is None or kept.shape[0] != n_rows or kept.dtype != dtype:
            kept = self._workspace = self.w_enc.new_empty(n_rows, len(self.w_enc), dtype=dtype)
        return kept

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring every decoder row back to unit norm."""
        self.w_dec.copy_(F.normalize(self.w_dec, dim=-1))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Drop the part of each decoder row's gradient that would only change its norm."""
        grad = self.w_dec.grad
        assert grad is not None
        along = (grad * self.w_dec).sum(-1, keepdim=True)
        grad.addcmul_(along, self.w_dec, value=-1.0)


def _bag(weight: Tensor, index: Tensor, starts: Tensor, scale: Tensor) -> Tensor:
    """Sums of scaled rows of `weight`: one output row per start, in a fixed order."""
    return F.embedding_bag(index, weight, starts, mode="sum", per_sample_weights=scale)


def _dots(left: Tensor, right: Tensor, active: Active) -> Tensor:
    """`left[row] · right[feature]` for every active entry, in fp32, without materialising rows.

    It is the kernel by which autograd finds the gradient of a bag's per-sample weights.
    """
    if left.device.type != "cpu":
        return (left[active.rows] * right[active.features]).sum(-1)
    bag_of = active.rows
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, right, active.features, active.starts, bag_of, 0
    )


class _SparseReconstruct(torch.autograd.Function):
    """`sum_j relu(pre_j) w_dec_j + b_dec` over active entries, with sparse gradients for all."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_enc: Tensor,
        b_enc: Tensor,  # noqa: ARG004 (backward returns its gradient)
        w_dec: Tensor,
        b_dec: Tensor,
        active: Active,
        values: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, w_enc, w_dec, b_dec, values)
        ctx.active = active
        return _bag(w_dec, active.features, active.starts, values) + b_dec

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, w_enc, w_dec, b_dec, values = ctx.saved_tensors
        active: Active = ctx.active
        grad = grad.contiguous()
        grad_values = _dots(grad, w_dec, active) * (values > 0)
        by_feature = torch.argsort(active.features, stable=True)
        features, rows = active.features[by_feature], active.rows[by_feature]
        starts = torch.searchsorted(features, torch.arange(len(w_enc), device=features.device))
        grad_w_dec = _bag(grad, rows, starts, values[by_feature])
        grad_w_enc = _bag(x - b_dec, rows, starts, grad_values[by_feature])
        grad_b_enc = torch.zeros_like(w_enc[:, 0]).index_add_(0, active.features, grad_values)
        grad_b_dec = grad.sum(0) - grad_b_enc @ w_enc
        return None, grad_w_enc, grad_b_enc, grad_w_dec, grad_b_dec, None, None


@torch.no_grad()
def select(
    x: Tensor, module: TopKModule, k: int, kind: Literal["batchtopk", "topk"], dtype: torch.dtype
) -> tuple[Active, Tensor]:
    """The surviving entries of a batch and their fp32 values.

    Args:
        x: scaled inputs, `[batch, d_model]`.
        dtype: of the dense matmul that finds the candidates.
    """
    centred = x - module.b_dec
    pre = module.workspace(len(x), dtype)
    torch.addmm(module.b_enc.to(dtype), centred.to(dtype), module.w_enc.to(dtype).t(), out=pre)
    if kind == "topk":
        active = _row_candidates(pre, k)
        return active, (_dots(centred, module.w_enc, active) + module.b_enc[active.features]).relu()
    active = _candidates(pre, module.threshold * _CANDIDATE_SHARE, k * len(x))
    values = (_dots(centred, module.w_enc, active) + module.b_enc[active.features]).relu()
    keep = values.topk(min(k * len(x), len(values)), sorted=False).indices.sort().values
    rows = active.rows[keep]
    return Active(rows, active.features[keep], _starts(rows, len(x))), values[keep]


def _candidates(pre: Tensor, floor: Tensor, wanted: int) -> Active:
    """Entries above `floor` (which must be positive), or the largest ones if those are too few."""
    flat = pre.flatten()
    found = (flat > floor).nonzero().squeeze(1) if bool(floor > 0) else flat[:0].long()
    if len(found) < wanted:
        found = flat.topk(min(wanted, flat.numel()), sorted=False).indices.sort().values
    rows = found // pre.shape[1]
    return Active(rows, found % pre.shape[1], _starts(rows, len(pre)))


def _row_candidates(pre: Tensor, k: int) -> Active:
    features = pre.topk(k, dim=-1, sorted=False).indices
    rows = torch.arange(len(pre), device=pre.device).repeat_interleave(k)
    return Active(rows, features.flatten(), torch.arange(0, len(rows), k, device=pre.device))


def _starts(rows: Tensor, n_rows: int) -> Tensor:
    return torch.searchsorted(rows, torch.arange(n_rows, device=rows.device))


def sae_loss(
    module: TopKModule,
    batch: Tensor,
    *,
    k: int,
    kind: Literal["batchtopk", "topk"],
    dead: Tensor | None,
    aux_k: int,
    aux_coefficient: float,
    dtype: torch.dtype,
) -> tuple[StepResult, Active, Tensor]:
    """Loss of one batch of raw activations `[batch, d_model]`; call `.loss.backward()` on it.

    Returns:
        the figures, the entries chosen, and their values; a value of 0 did not fire.

    Args:
        dead: indices of dead latents, or None where there are none.
        dtype: of the dense encoder matmul.
    """
    x = batch.float() * module.input_scale
    active, values = select(x, module, k, kind, dtype)
    recon = _SparseReconstruct.apply(
        x, module.w_enc, module.b_enc, module.w_dec, module.b_dec, active, values
    )
    error = x - recon
    variance = (x - x.mean(0)).pow(2).sum()
    fvu = error.pow(2).sum() / variance
    aux = _aux_loss(module, x, error.detach(), dead, aux_k) if dead is not None else fvu * 0.0
    lowest = torch.where(values > 0, values, torch.inf).min()
    l0 = (values > 0).sum() / len(x)
    loss = fvu + aux_coefficient * aux
    return StepResult(loss, fvu.detach(), aux.detach(), l0, lowest), active, values


def _aux_loss(module: TopKModule, x: Tensor, error: Tensor, dead: Tensor, aux_k: int) -> Tensor:
    """How badly the dead latents model what the live ones left over.

    Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders, AuxK.
    """
    w_enc, w_dec = module.w_enc.index_select(0, dead), module.w_dec.index_select(0, dead)
    pre = (x - module.b_dec.detach()) @ w_enc.t() + module.b_enc.index_select(0, dead)
    top = pre.topk(min(aux_k, len(dead)), dim=-1)
    latents = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    return (error - latents @ w_dec).pow(2).sum() / error.pow(2).sum()
