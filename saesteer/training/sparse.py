"""What every coder of the TopK family shares: one loss, sparse wherever sparse is exact.

Architectures differ in which latents survive and in how many nested prefixes are rebuilt; coders
differ in what they read and what they rebuild. The encoder's matmul is dense and may run in bf16,
but only to nominate; all that follows touches k latents a token. Sources: Gao et al. 2024 (TopK,
AuxK), Bussmann et al. 2024 (BatchTopK) and 2025 (Matryoshka), Zhu et al. 2025 (AbsTopK).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from saesteer.axes import Rows
from saesteer.models import fastest_dtype
from saesteer.training.coder import Coder, StepResult, squares
from saesteer.training.kernels import Active, SparseSums, drop_along_, to_unit_
from saesteer.training.select import Kind, batch_survivors, row_survivors

BLOCK = 1024
"""Rows whose dense pre-activations are in memory together, where it can be so few. At 4,096 rows of
768 -> 24,576 the choice takes 8 % longer than with all, and the step 30 % less memory."""


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
        per_token: divide the error of every token by its own squared distance from the batch's
            mean, not the batch's error by the batch's variance.
        dtype: of the dense encoder matmul, but on a CPU: that takes the fastest, and gives the
            survivors of float32.
    """

    k: int
    kind: Kind = "batchtopk"
    widths: tuple[int, ...] = ()
    aux_k: int = 0
    aux_coefficient: float = 0.0
    threshold_rate: float = 0.01
    per_token: bool = False
    dtype: torch.dtype = torch.float32


def rows_together(n_rows: int, device: str | torch.device) -> int:
    """How many of a batch's rows have their dense pre-activations in memory at one time."""
    return n_rows if torch.device(device).type == "cuda" else min(n_rows, BLOCK)


class SparseCoder(Coder):
    """Weights as rows of features: `w_enc` `[d_sae, d_in]` and `w_dec` `[d_sae, d_out]`.

    `input_scale` brings what is read to a mean squared norm of its width. `norms` `[d_sae, 1]` are
    those that decoder rows are held at, where they are not all 1: a latent is then measured in
    units of its own threshold.
    """

    w_enc: nn.Parameter
    w_dec: nn.Parameter

    def __init__(self, w_enc: Tensor, w_dec: Tensor, settings: TopKSettings) -> None:
        super().__init__()
        device = w_dec.device
        self.settings = settings
        self.w_dec = nn.Parameter(w_dec)
        self.w_enc = nn.Parameter(w_enc)
        self.b_enc = nn.Parameter(torch.zeros(len(w_enc), device=device))
        self.b_dec = nn.Parameter(torch.zeros(w_dec.shape[1], device=device))
        self._workspace: Tensor | None = None
        self._cast: Tensor | None = None
        self._edges = torch.tensor(settings.widths, device=device)
        self.input_scale: Tensor
        self.threshold: Tensor
        self.norms: Tensor | None
        self.register_buffer("norms", None)
        self.register_buffer("threshold", torch.tensor(0.0, device=device))

    @property
    def replayable(self) -> bool:
        """A batch's choice has as many nominees as it has; a row's has always k."""
        return self.settings.kind != "batchtopk"

    @abstractmethod
    def split(self, batch: Rows) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, "n d_out"]]:
        """What is read and what is to be rebuilt, both scaled."""

    @property
    def offset(self) -> Float[Tensor, " d_in"]:
        """What the encoder subtracts from its input: the decoder's bias, as an SAE does."""
        return self.b_dec

    def base(self, x: Float[Tensor, "n d_in"]) -> Float[Tensor, "*n d_out"]:  # noqa: ARG002
        """What is rebuilt where no latent is active: the decoder's bias, whatever was read."""
        return self.b_dec

    def measures(self, target: Tensor, recon: Tensor) -> Mapping[str, Tensor]:  # noqa: ARG002
        """What else to measure of a reconstruction: nothing."""
        return {}

    def loss(self, batch: Rows, dead: Int[Tensor, " n_dead"] | None) -> StepResult:
        """Squared error over variance (the mean over nested prefixes), plus AuxK."""
        x, target = self.split(batch)
        active, latents = self.select(x)
        nested = active.nested(self._edges) if len(self._edges) > 1 else active
        sums, latents = SparseSums.apply(
            x, self.w_enc, self.b_enc, self.w_dec, self.offset, nested, latents
        )
        sums = sums.view(len(x), nested.levels, -1)
        prefixes = [sums[:, 0] + self.base(x)]
        for level in range(1, nested.levels):
            prefixes.append(prefixes[-1] + sums[:, level])
        spread = squares(target - target.mean(0))
        errors = [squares(target - recon) for recon in prefixes]
        pooled = torch.stack([error.sum() for error in errors]) / spread.sum()
        each = torch.stack([(error / spread).mean() for error in errors])
        losses = each if self.settings.per_token else pooled
        recon = prefixes[-1].detach()
        aux = self._aux_loss(x, target - recon, dead)
        cut = latents.detach()
        on = cut != 0
        return StepResult(
            loss=losses.mean() + self.settings.aux_coefficient * aux,
            fvu=pooled[-1].detach(),
            fvu_per_token=each[-1].detach(),
            aux=aux.detach(),
            l0=on.sum() / len(x),
            threshold=torch.where(on, cut.abs(), torch.inf).min(),
            fires=torch.zeros_like(self.b_enc).index_add_(0, active.features, on.float()).detach(),
            extra=self.measures(target, recon),
            recon=prefixes[-1],
            survivors=(active.rows, latents),
        )

    def raw(self, recon: Float[Tensor, "n d_out"]) -> Float[Tensor, "n d_out"]:
        """A reconstruction in the model's own units."""
        return recon / self.input_scale

    def pre(self, batch: Rows, latent: int) -> Float[Tensor, " n"]:
        """Pre-activations of one latent, with gradients."""
        return (self.split(batch)[0] - self.offset) @ self.w_enc[latent] + self.b_enc[latent]

    @torch.no_grad()
    def select(self, x: Float[Tensor, "rows d_in"]) -> tuple[Active, Float[Tensor, " n"]]:
        """The surviving entries of scaled inputs and their fp32 latents."""
        settings, centred = self.settings, x - self.offset
        weights = self.w_enc, self.b_enc, settings.k
        if settings.kind == "batchtopk":
            dense = partial(self._dense_alone, centred)
            return batch_survivors(
                centred, dense, *weights, self.threshold, self._rough, sure=self._sure
            )
        blocks: list[Active] = []
        latents: list[Tensor] = []
        signed = settings.kind == "abstopk"
        for rows, pre in self._dense(centred, self._rough):
            active, found = row_survivors(rows, pre, *weights, signed=signed, sure=self._sure)
            blocks.append(active)
            latents.append(found)
        if len(blocks) == 1:
            return blocks[0], latents[0]
        return Active.joined(blocks), torch.cat(latents)

    @property
    def _rough(self) -> torch.dtype:
        """Of the pre-activations that nominate: on a CPU whichever is fastest, since the choice is
        made sure there; a GPU would have to be waited for."""
        cpu = self.w_enc.device.type == "cpu"
        return fastest_dtype("cpu") if cpu else self.settings.dtype

    @property
    def _sure(self) -> bool:
        """Whether nominees may have to be looked at."""
        return self.w_enc.device.type == "cpu" and self._rough != torch.float32

    def _dense_alone(self, centred: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
        return (pre for _, pre in self._dense(centred, dtype))

    def _dense(
        self, centred: Float[Tensor, "rows d_in"], dtype: torch.dtype
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and their pre-activations, all at once on a GPU, else a block at a time, each in the
        memory of the last one."""
        size = rows_together(len(centred), centred.device)
        pre, bias, columns = self.workspace(size, dtype), self.b_enc.to(dtype), self._columns(dtype)
        for block in centred.split(size):
            out = pre[: len(block)]
            torch.addmm(bias, block.to(dtype), columns.t(), out=out)
            yield block, out

    def _columns(self, dtype: torch.dtype) -> Tensor:
        """The encoder's columns in a dtype, in memory that is kept as the workspace is."""
        if dtype == self.w_enc.dtype:
            return self.w_enc
        if self._cast is None or self._cast.dtype != dtype:
            self._cast = torch.empty_like(self.w_enc, dtype=dtype)
        return self._cast.copy_(self.w_enc)

    def workspace(self, n_rows: int, dtype: torch.dtype) -> Tensor:
        """The buffer for dense pre-activations, kept from step to step: page faults cost as much
        as the matmul."""
        kept = self._workspace
        if kept is None or kept.shape[0] != n_rows or kept.dtype != dtype:
            kept = self._workspace = self.w_enc.new_empty(n_rows, len(self.w_enc), dtype=dtype)
        return kept

    @torch.no_grad()
    def before_update(self) -> None:
        """Drop the part of each decoder row's gradient that would only change its norm."""
        grad = self.w_dec.grad
        assert grad is not None
        drop_along_(grad, self.w_dec if self.norms is None else self.w_dec / self.norms)

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring decoder rows back to their norms."""
        to_unit_(self.w_dec)
        if self.norms is not None:
            self.w_dec.mul_(self.norms)

    @torch.no_grad()
    def after_update(self, result: StepResult) -> None:
        """Hold the decoder's norms; move the running threshold."""
        self.constrain()
        rate = torch.where(self.threshold > 0, self.settings.threshold_rate, 1.0)
        moved = self.threshold + rate * (result.threshold - self.threshold)
        self.threshold.copy_(torch.where(moved.isfinite(), moved, self.threshold))

    def figures(self) -> dict[str, float]:
        """The threshold that would ship."""
        return {"running_threshold": float(self.threshold)}

    def _aux_loss(self, x: Tensor, error: Tensor, dead: Tensor | None) -> Tensor:
        """How badly the dead latents model what the live ones left over.

        Source: Gao et al. 2024, Scaling and evaluating sparse autoencoders, AuxK.
        """
        if dead is None or not self.settings.aux_k:
            return x.new_zeros(())
        w_enc, w_dec = self.w_enc.index_select(0, dead), self.w_dec.index_select(0, dead)
        pre = (x - self.offset.detach()) @ w_enc.t() + self.b_enc.index_select(0, dead)
        signed = self.settings.kind == "abstopk"
        top = (pre.abs() if signed else pre).topk(min(self.settings.aux_k, len(dead)), dim=-1)
        kept = pre.gather(-1, top.indices)
        latents = torch.zeros_like(pre).scatter(-1, top.indices, kept if signed else kept.relu())
        return (error - latents @ w_dec).pow(2).sum() / error.pow(2).sum()


def unit_rows(d_sae: int, width: int, generator: torch.Generator) -> Float[Tensor, "d_sae width"]:
    """Random directions."""
    return F.normalize(torch.randn(d_sae, width, generator=generator), dim=-1)
