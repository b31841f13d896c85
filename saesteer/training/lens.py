"""Standard (ReLU + L1), gated and JumpReLU SAEs: sae-lens's own training classes and losses.

They are dense from end to end, so there is no sparse step to gain; what they get here is the
stream, exact resume, and a common scale. Sources: Bricken et al. 2023 (standard), Rajamanoharan et
al. 2024 (gated; JumpReLU), McDougall et al. 2025 (Gemma Scope 2: the squared penalty around a
target L0, by which JumpReLU keeps to `k` here).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, assert_never, final

import torch
from jaxtyping import Int
from torch import Tensor

from saesteer.axes import Rows
from saesteer.models import Site
from saesteer.saes import SAE
from saesteer.saes.lens_format import sae_from
from saesteer.training.coder import Coder, StepResult, scale_of, squares

LensArch = Literal["standard", "gated", "jumprelu"]


@final
class LensCoder(Coder):
    """A sae-lens `TrainingSAE` on scaled inputs."""

    def __init__(
        self,
        d_model: int,
        d_sae: int,
        arch: LensArch,
        *,
        k: int,
        sparsity: float,
        warmup_steps: int,
        seed: int,
        device: Any = "cpu",
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner = _training_sae(d_model, d_sae, arch, k, sparsity).to(device)
        self._warmup_steps = warmup_steps
        self.input_scale: Tensor
        self.steps_done: Tensor
        self.register_buffer("steps_done", torch.tensor(0))
        self.register_buffer("input_scale", torch.tensor(1.0, device=device))

    def loss(self, batch: Rows, dead: Int[Tensor, " n_dead"] | None) -> StepResult:
        """Squared error per token plus the architecture's sparsity loss, as sae-lens has them."""
        from sae_lens.saes.sae import TrainStepInput

        x, done = batch.float() * self.input_scale, int(self.steps_done)
        quiet = x.new_zeros(self.inner.cfg.d_sae, dtype=torch.bool)
        if dead is not None:
            quiet[dead] = True
        rise = min(1.0, (done + 1) / max(1, self._warmup_steps))
        out = self.inner.training_forward_pass(
            TrainStepInput(x, self._coefficients(rise), quiet, done, is_logging_step=False)
        )
        on = out.feature_acts.detach() > 0
        error, spread = squares(x - out.sae_out.detach()), squares(x - x.mean(0))
        return StepResult(
            loss=out.loss,
            fvu=error.sum() / spread.sum(),
            fvu_per_token=(error / spread).mean(),
            aux=(out.loss - out.losses["mse_loss"]).detach(),
            l0=on.sum() / len(x),
            threshold=torch.where(on, out.feature_acts.detach(), torch.inf).min(),
            fires=on.sum(0).float(),
        )

    @torch.no_grad()
    def initialise(self, sample: Rows) -> None:
        """Set the input scale and the decoder bias (the scaled mean)."""
        self.input_scale.copy_(scale_of(sample))
        self.inner.b_dec.copy_(sample.float().mean(0) * self.input_scale)

    def before_update(self) -> None:
        """sae-lens leaves gradients as they are."""

    @torch.no_grad()
    def after_update(self, result: StepResult) -> None:  # noqa: ARG002 (no running statistics)
        """Count the step, for the warm-up of the sparsity loss."""
        self.steps_done += 1

    def figures(self) -> dict[str, float]:
        """Nothing else."""
        return {}

    @torch.no_grad()
    def to_sae(self, sites: Sequence[Site], model_name: str) -> SAE:
        """What sae-lens would save, read as any file of its format is."""
        (site,) = sites
        tensors = {name: value.detach().clone() for name, value in self.inner.state_dict().items()}
        self.inner.process_state_dict_for_saving_inference(tensors)
        cfg = self.inner.cfg.get_inference_sae_cfg_dict()
        cfg["normalize_activations"] = "expected_average_only_in"
        cfg["metadata"] = {
            "hook_name": site.lens_name,
            "model_name": model_name,
            "norm_scaling_factor": float(self.input_scale),
        }
        sae = sae_from(cfg, {n: t.cpu() for n, t in tensors.items()}, f"{model_name}/{site}")
        return replace(sae, metadata={})

    def _coefficients(self, rise: float) -> dict[str, float]:
        """Weights of the sparsity losses, `rise` of them during warm-up."""
        return {
            name: rise * (value if isinstance(value, float) else value.value)
            for name, value in self.inner.get_coefficients().items()
        }


def _training_sae(d_model: int, d_sae: int, arch: LensArch, k: int, sparsity: float) -> Any:
    import sae_lens.saes as lens

    size: Any = {"d_in": d_model, "d_sae": d_sae, "normalize_activations": "none"}
    match arch:
        case "standard":
            cfg = lens.StandardTrainingSAEConfig(**size, l1_coefficient=sparsity)
            return lens.StandardTrainingSAE(cfg)
        case "gated":
            cfg = lens.GatedTrainingSAEConfig(**size, l1_coefficient=sparsity)
            return lens.GatedTrainingSAE(cfg)
        case "jumprelu":
            cfg = lens.JumpReLUTrainingSAEConfig(
                **size,
                l0_coefficient=sparsity,
                jumprelu_sparsity_loss_mode="quadratic",
                target_l0=float(k),
                jumprelu_ste_to_input=True,
            )
            return lens.JumpReLUTrainingSAE(cfg)
        case _:
            assert_never(arch)
