"""Inference-time intervention: push the few attention heads that know the answer.

Every head's output z `[d_head]`, before W_O, is read at each text's last token and given a
logistic probe; the K heads of the best accuracy on the validation split get `z += α · σ · θ` at
every position that chooses a generated token. θ is a unit direction, σ the standard deviation of
activations along it. The plan's strength multiplies α.

Source: Li et al. 2023 (2306.03341) and their code (honest_llama): θ the mass mean (default; their
best) or the probe's weights; θ and σ over train and validation texts together, the probe on train
alone; K = 48 of LLaMA-7B's 1,024 heads, α = 15. Choices: K defaults to the same share of heads;
equal accuracies, common on small validation sets, go to the lower log loss, where theirs fall as
they come; one vector over a layer's heads side by side carries them all, so a layer has one hook.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from saesteer.axes import Rows, Vector
from saesteer.data.contrast import Contrast
from saesteer.methods.base import Family, Method, check_optional_site
from saesteer.methods.directions import Sides, logistic_direction
from saesteer.methods.heads import along, mass_mean_push, n_chosen, pushes, ranked_heads
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, add, generated


@final
@dataclass(frozen=True)
class ITI(Method):
    """Pushes of the best heads; `top_k` None takes the paper's share of them."""

    source: ClassVar[str] = "Li et al. 2023, 2306.03341"
    needs: ClassVar[str] = "two groups of texts, with a validation split"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    top_k: int | None = None
    alpha: float = 15.0
    direction: Literal["mass_mean", "probe"] = "mass_mean"

    @property
    def name(self) -> str:
        """The paper's name."""
        return "ITI"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit for each layer that has a chosen head, whatever `site` is; see `Method.fit`.

        Raises:
            ConfigError: more heads are asked for than there are, or none.
        """
        model = as_model(model)
        check_optional_site(model, site)
        top_k = n_chosen(model, self.name, self.top_k)
        push = mass_mean_push if self.direction == "mass_mean" else _probe_push
        chosen = ranked_heads(model, contrast, _logistic, push)[:top_k]
        acts = [add(place, vector) for place, vector in pushes(model, chosen, self.alpha).items()]
        return Plan(*acts, where=generated(), name=self.name)


def _logistic(train: Sides) -> Callable[[Rows], Tensor]:
    weight, bias = logistic_direction(train)
    return lambda rows: rows @ weight + bias


def _probe_push(train: Sides, held: Sides) -> Vector:
    both = Sides(*(torch.cat(rows) for rows in zip(train, held, strict=True)))
    return along(both, logistic_direction(train)[0])
