"""RePS: one direction learned from preferences: steered, the wanted text; taken out, the other.

For pairs of a wanted text y⁺ and another y⁻ to one prompt, with ℓ the mean and L the total log
probability of a text, the loss is −log σ(Δ⁺) − log σ(Δ⁻): Δ⁺ = β⁺ ℓ(y⁺) − ℓ(y⁻) under `h += α w`,
β⁺ = max(s (L(y⁻) − L(y⁺)), 1) of the unsteered model; Δ⁻ = β⁻ ℓ(y⁻) − ℓ(y⁺) under
`h −= ReLU(h · w) w / ‖w‖²`, β⁻ = max(s (L(y⁺) − L(y⁻)), 1). w `[width]` has norm 1; α is drawn for
each step from `doses` times the site's typical ‖h‖. The plan adds w at their mean.

Source: Wu et al. 2025 (2505.20809), rank-1 form, from the formulas as reviews give them. There α
is one of fixed numbers made for Gemma and w has any length; here doses are relative and the length
fixed, so that one setting means the same for every model. No bias. Their code has s = 1, at which
β reaches tens of nats and the second term drowns the first: on SmolLM2-135M and `sentiment` 20
steps widen the held-out ℓ(y⁺) − ℓ(y⁻) from 0.13 to 0.30 with s = 1, to 0.42 with 0.02 (0.61 with
lr 0.03, too; random directions of that norm: 0.12 to 0.21). So 0.02 is the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError
from saesteer.methods.base import Family, site_or_default
from saesteer.methods.learned import Fitting, LearnedMethod, Measured, Turn
from saesteer.methods.learning_edits import TakeOut
from saesteer.methods.scoring import Texts, log_likelihood, n_asked, teacher_forced
from saesteer.methods.unit_fitting import UnitFitting
from saesteer.models import Model
from saesteer.models.sites import Site
from saesteer.steer import Intervention, Plan, generated
from saesteer.steer.intervention import Add
from saesteer.steer.norms import typical_norm


@final
@dataclass(frozen=True)
class RePS(LearnedMethod):
    """A learned direction.

    Attributes:
        doses: relative doses that it is learned at.
        beta_scale: s, what the differences of total log probabilities are multiplied by.
    """

    source: ClassVar[str] = "Wu et al. 2025, 2505.20809"
    needs: ClassVar[str] = "pairs, training"
    family: ClassVar[Family] = "dense"

    doses: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
    batch_size: int = 4
    beta_scale: float = 0.02
    lr: float = 3e-2

    def __post_init__(self) -> None:
        """Check the settings; see `Method`."""
        super().__post_init__()
        if not self.doses or min(self.doses) <= 0:
            raise ConfigError(f"RePS: doses is {self.doses!r}, expected numbers above 0.")
        if not self.beta_scale >= 0:
            raise ConfigError(f"RePS: beta_scale is {self.beta_scale}, expected 0 or more.")

    @property
    def name(self) -> str:
        """The paper's name."""
        return "RePS"

    def begin(self, model: Model, contrast: Contrast, site: Site | str | None) -> Fitting:
        """A random direction, and what the unsteered model makes of the pairs."""
        place = site_or_default(model, site)
        return _Fitting(self, model, contrast.split("train").pairs(), place)


@final
class _Fitting(UnitFitting):
    def __init__(
        self, method: RePS, model: Model, pairs: list[tuple[Example, Example]], site: Site
    ) -> None:
        super().__init__(method, model, site, len(pairs))
        self._method, self._pairs = method, pairs
        self._sizes = [dose * typical_norm(model, site) for dose in method.doses]
        with torch.no_grad():
            self._betas = torch.stack([self._beta(pair) for pair in pairs])

    def loss(self, turn: Turn) -> Measured:
        """Both preferences' losses, in nats."""
        n = len(turn.rows)
        chosen = [self._pairs[row] for row in turn.rows]
        texts = teacher_forced(self.model, [p for p, _ in chosen] + [q for _, q in chosen])
        size = self._sizes[int(torch.randint(len(self._sizes), (1,), generator=turn.draw))]
        steered = self._score(Add(self.site, size * self.direction), texts)
        suppressed = self._score(TakeOut(self.site, self.direction), texts)
        betas = self._betas[turn.rows].to(steered.device)
        more = betas[:, 0] * steered[:n] - steered[n:]
        less = betas[:, 1] * suppressed[n:] - suppressed[:n]
        parts = [-functional.logsigmoid(each).mean() for each in (more, less)]
        return Measured(parts[0] + parts[1], {"steering": parts[0], "suppression": parts[1]})

    def length(self) -> float:
        """The mean of the sizes that the direction was learned at."""
        return sum(self._sizes) / len(self._sizes)

    def _score(self, edit: Intervention, texts: Texts) -> Float[Tensor, " rows"]:
        with Plan(edit, where=generated()).on(self.model, texts.prompt_lengths):
            return log_likelihood(self.model, texts)

    def _beta(self, pair: tuple[Example, Example]) -> Float[Tensor, "2"]:
        texts = teacher_forced(self.model, pair)
        wanted, other = log_likelihood(self.model, texts) * n_asked(texts)
        scaled = self._method.beta_scale * (other - wanted)
        return torch.stack([scaled, -scaled]).clamp(min=1.0)
