"""EigenShift: damp the output layer's components along which unwanted texts are generated.

W = Σ σ_i u_i v_iᵀ is the output layer `[vocab, d_model]`, h the states that it reads where a text's
own tokens are chosen. A component's score is the mean of |h · v_i| over the unwanted texts less
that over the others, in units of its standard deviation over all texts. The `n_components` of the
highest scores get σ_i multiplied by `damping`: ΔW = (damping − 1) W V Vᵀ, V their v_i. The plan is
this one weight edit; an output layer tied to the embedding is changed alone. Strength scales ΔW.

Source: Shaik et al. 2025, Redefining Experts (2509.16660), and their code (EigenShift). They score
by the signed mean of h · v_i where the unwanted words themselves are made, found by a classifier,
less that at the first token of harmless answers, and multiply 5 of 4,096 singular values by 0.1.
Chosen otherwise: all of a text's own tokens, since contrasts name no words; sizes in place of
signed values, since the sign of a singular vector is arbitrary and damping acts on both alike;
more components, since on the embedded model 8 of 576 could not be told from noise (0.03 nats; 32:
0.19; 128: 1.9 and hardly text any more). Plans steer towards the positives, so the negatives'
components go unless `remove="positives"`. Components are the eigenvectors of WᵀW, d_model of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.axes import Rows
from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError, ContrastError
from saesteer.methods.base import Family, Method, Side, check_optional_site
from saesteer.methods.scoring import teacher_forced
from saesteer.models import Model, as_model
from saesteer.models.limits import finite_rows
from saesteer.models.offload import weight_of
from saesteer.models.sites import Site
from saesteer.steer import Plan, WeightEdit

_BATCH = 16


@final
@dataclass(frozen=True)
class EigenShift(Method):
    """A damped output layer.

    Attributes:
        remove: the side whose components are damped.
        damping: what their singular values are multiplied by; 0 takes them out.
    """

    source: ClassVar[str] = "Shaik et al. 2025, 2509.16660"
    needs: ClassVar[str] = "two groups of texts; weight edit"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    n_components: int = 32
    damping: float = 0.1
    remove: Side = "negatives"

    def __post_init__(self) -> None:
        """Check the settings; see `Method`."""
        super().__post_init__()
        if not 0.0 <= self.damping < 1.0:
            raise ConfigError(f"EigenShift: damping is {self.damping}, expected 0 to below 1.")

    @property
    def name(self) -> str:
        """The paper's name."""
        return "EigenShift"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One weight edit, whatever `site` is; see `Method.fit`.

        Raises:
            ContrastError: no component goes with the texts that are to go.
        """
        model = as_model(model)
        check_optional_site(model, site)
        train = contrast.split("train")
        weight = weight_of(model.layout.unembed).float().cpu()
        vectors = torch.linalg.eigh((weight.T @ weight).double()).eigenvectors.float()
        sides = [_sizes(model, each, vectors) for each in (train.positives, train.negatives)]
        kept, unwanted = sides if self.remove == "negatives" else sides[::-1]
        spread = torch.cat(sides).std(0, correction=0).clamp(min=torch.finfo(torch.float32).tiny)
        score = (unwanted.mean(0) - kept.mean(0)) / spread
        best = score.topk(min(self.n_components, len(score)))
        chosen = vectors[:, best.indices[best.values > 0]]
        if not chosen.shape[1]:
            raise ContrastError(f"{contrast.name}: no component goes with its {self.remove}.")
        unembed = model.layout.unembed
        path = next(n for n, module in model.hf.named_modules() if module is unembed)
        left = (self.damping - 1.0) * (weight @ chosen)
        edit = WeightEdit(f"{path}.weight", left, chosen.T.contiguous(), untie=True)
        return Plan(edit, name=self.name)


@torch.no_grad()
def _sizes(
    model: Model, examples: tuple[Example, ...], vectors: Float[Tensor, "width width"]
) -> Rows:
    """Each text's mean |h · v_i| over the states that choose its own tokens."""
    rows: list[Tensor] = []
    for start in range(0, len(examples), _BATCH):
        texts = teacher_forced(model, examples[start : start + _BATCH])
        states = model.forward(texts.tokens, base_only=True)[:, :-1].float().cpu()
        finite_rows(states, model, "its output")
        choosing = texts.asked[:, 1:].cpu()
        rows += [
            (each[where] @ vectors).abs().mean(0)
            for each, where in zip(states, choosing, strict=True)
        ]
    return torch.stack(rows)
