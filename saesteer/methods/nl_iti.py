"""Non-linear ITI: heads chosen by a small MLP that sees the last tokens, then pushed as ITI does.

A head's output z `[d_head]`, before W_O, is averaged over a text's `n_tokens` last tokens and given
an MLP probe of `n_hidden` units; the K heads of the best accuracy on the validation split get
`z += α · σ · θ` at every position that chooses a generated token. θ is the unit difference in means
of the same averages, σ their standard deviation along it. The plan's strength multiplies α.

Source: Hoscilowicz et al. 2024 (2403.18680) and their code (Samsung/NL-ITI), whose defaults are
the mean of two tokens, 16 hidden units, K = 48 of 1,024 heads, α = 15 on LLaMA-7B; on SmolLM2-135M
15 costs 1.4 nats a token and a perplexity of 20, so α is 5 here. The probe only
chooses; the push is a difference in means there, too. Choices: their probes have batch norm and
take ten epochs of Adam on thousands of answers, keeping the epoch that does best on validation;
here some dozen texts are usual, so the probe is fitted by L-BFGS with an L2 penalty on the train
split alone and validation only ranks. Ties go to the lower log loss and K scales with the model,
as in `ITI`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch import Tensor

from saesteer.axes import Rows
from saesteer.data.contrast import Contrast
from saesteer.methods.base import Family, Method, check_optional_site
from saesteer.methods.directions import Sides
from saesteer.methods.heads import mass_mean_push, n_chosen, pushes, ranked_heads
from saesteer.methods.mlp_probe import fit_mlp
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, add, generated


@final
@dataclass(frozen=True)
class NLITI(Method):
    """Pushes of the heads that an MLP reads best; `top_k` None takes the paper's share of them."""

    source: ClassVar[str] = "Hoscilowicz et al. 2024, 2403.18680"
    needs: ClassVar[str] = "two groups of texts, with a validation split"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    top_k: int | None = None
    alpha: float = 5.0
    n_tokens: int = 2
    n_hidden: int = 16
    seed: int = 0

    @property
    def name(self) -> str:
        """The paper's name."""
        return "NL-ITI"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit for each layer that has a chosen head, whatever `site` is; see `Method.fit`.

        Raises:
            ConfigError: more heads are asked for than there are, or none.
        """
        model = as_model(model)
        check_optional_site(model, site)
        top_k = n_chosen(model, self.name, self.top_k)
        heads = ranked_heads(model, contrast, self._mlp, mass_mean_push, "mean", self.n_tokens)
        acts = [add(at, vector) for at, vector in pushes(model, heads[:top_k], self.alpha).items()]
        return Plan(*acts, where=generated(), name=self.name)

    def _mlp(self, train: Sides) -> Callable[[Rows], Tensor]:
        return fit_mlp(train, self.n_hidden, self.seed).logit
