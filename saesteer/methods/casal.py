"""CASAL: steering baked into one layer's weights, by teaching them what steering would have done.

v `[width]` is the difference in means at the site, the residual stream after a block. ΔW of that
block's MLP (or attention) output projection is learned so that the stream becomes h + α v where the
behaviour is wanted and stays h elsewhere. The loss is the mean over a text's own tokens of ‖h' −
target‖² / ‖α v‖², plus the same over all other tokens (special, prompts', massive ones), whose
target is h, h' the stream under W + ΔW. The plan is the one weight edit; strength scales ΔW.

Source: Yang et al. 2025 (2510.02324): the local representation loss, no cross entropy, one
submodule of one layer. There questions that the model can't answer are steered to a refusal and
those it can away from it; here `condition` says which prompts are steered (1), and the others (0)
are left as they are; without it every text is. What its loss does at other tokens is not known to
us: they are held, since ΔW acts on all. Adam on the whole of ΔW, which starts at 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast
from saesteer.errors import SiteError
from saesteer.features.activations import kept_tokens, text_batches
from saesteer.methods.base import Family, difference_in_means, read_contrast, site_or_default
from saesteer.methods.learned import Fitting, LearnedMethod, Measured, Turn
from saesteer.methods.projections import Part, projection
from saesteer.models import Model, TokenBatch, install
from saesteer.models.sites import Site
from saesteer.steer import Plan


@final
@dataclass(frozen=True)
class CASAL(LearnedMethod):
    """A learned weight edit.

    Attributes:
        condition: texts to steer (1) and to leave alone (0), or a name; None steers all texts.
        alpha: how far, in units of the difference in means.
        part: whose output projection learns.
    """

    source: ClassVar[str] = "Yang et al. 2025, 2510.02324"
    needs: ClassVar[str] = "two groups of texts; a condition's texts, training; weight edit"
    family: ClassVar[Family] = "dense"

    condition: Contrast | str | None = None
    alpha: float = 1.0
    part: Part = "mlp"
    lr: float = 1e-3

    @property
    def name(self) -> str:
        """The paper's name."""
        return "CASAL"

    def begin(self, model: Model, contrast: Contrast, site: Site | str | None) -> Fitting:
        """No change yet; see `LearnedMethod.begin`."""
        place = site_or_default(model, site)
        if place.kind != "resid_post":
            raise SiteError(f"CASAL teaches a block what comes out of it; got {place}, expected "
                            f"resid_post.{place.layer}.")  # fmt: skip
        when = contrast if self.condition is None else read_contrast(self.condition)
        vector = self.alpha * difference_in_means(model, contrast, place)
        return _Fitting(self, model, when.split("train"), place, vector)


@final
class _Fitting(Fitting):
    def __init__(
        self, method: CASAL, model: Model, texts: Contrast, site: Site, vector: Vector
    ) -> None:
        super().__init__()
        self._method, self._model, self._texts, self._site = method, model, texts.examples, site
        self._vector, self.n_rows = vector.to(model.device), len(texts)
        self._projection = projection(model, site.layer, method.part)
        self.change = nn.Parameter(torch.zeros_like(self._projection.weight, dtype=torch.float32))

    def loss(self, turn: Turn) -> Measured:
        """Squared distances from the targets, in units of ‖α v‖²."""
        chosen = [self._texts[row] for row in turn.rows]
        (batch,) = text_batches(self._model, chosen, len(chosen))
        with torch.no_grad():
            plain = self._stream(batch.tokens)
        with self._projection.adding(lambda x, y: y + (x.float() @ self.change.T).to(y.dtype)):
            found = self._stream(batch.tokens)
        own = kept_tokens(plain, batch).to(plain.device)
        wanted = torch.tensor([self._wanted(chosen[row].label) for row in batch.rows])
        shift = wanted.to(plain.device)[:, None, None] * self._vector
        error = (found - plain - torch.where(own[..., None], shift, 0.0)).square().sum(-1)
        error = error / self._vector.square().sum()
        others = batch.tokens.attention_mask & ~own
        steered, held = (error[m].sum() / m.sum().clamp(min=1) for m in (own, others))
        return Measured(steered + held, {"own_tokens": steered, "other_tokens": held})

    def plan(self) -> Plan:
        """The change as it stands."""
        return Plan(self._projection.change(self.change), name=self._method.name)

    def _wanted(self, label: int) -> float:
        return 1.0 if self._method.condition is None else float(label)

    def _stream(self, tokens: TokenBatch) -> Float[Tensor, "batch pos width"]:
        seen: list[Tensor] = []
        handle = install(self._model.layout.point(self._site), lambda resid: seen.append(resid))
        try:
            self._model.forward(tokens, base_only=True)
        finally:
            handle.remove()
        return seen[-1].float()
