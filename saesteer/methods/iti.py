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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError
from saesteer.methods.base import Family, Method, check_optional_site
from saesteer.methods.directions import Sides, logistic_direction, read_sides
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, add, generated

SHARE = 48 / 1024
"""Heads that are pushed by default, as a share of all: the paper's K for LLaMA-7B."""


class _Head(NamedTuple):
    """One head as it ranks: best first in ascending order."""

    misses: float
    log_loss: float
    layer: int
    head: int
    push: Tensor


@final
@dataclass(frozen=True)
class ITI(Method):
    """Pushes of the best heads; `top_k` None takes the paper's share of them."""

    source: ClassVar[str] = "Li et al. 2023, 2306.03341"
    needs: ClassVar[str] = "two groups of texts, with a validation split"
    family: ClassVar[Family] = "dense"

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
        n_all, width = model.n_layers * model.layout.n_heads, model.layout.d_head
        top_k = max(round(SHARE * n_all), 1) if self.top_k is None else self.top_k
        if not 1 <= top_k <= n_all:
            raise ConfigError(f"ITI: top_k is {top_k}, but {model.name} has {n_all} heads.")
        chosen = sorted(self._heads(model, contrast), key=lambda head: head[:4])[:top_k]
        pushes: dict[int, Tensor] = {}
        for found in sorted(chosen, key=lambda head: (head.layer, head.head)):
            push = pushes.setdefault(found.layer, torch.zeros(model.layout.n_heads * width))
            push[found.head * width : (found.head + 1) * width] = self.alpha * found.push
        acts = [add(Site(layer, "head_out"), push) for layer, push in pushes.items()]
        return Plan(*acts, where=generated(), name=self.name)

    def _heads(self, model: Model, contrast: Contrast) -> Sequence[_Head]:
        """Every head with its probe's scores on validation and σ θ."""
        sites = [Site(layer, "head_out") for layer in range(model.n_layers)]
        splits = [contrast.split(name) for name in ("train", "validation")]
        train, held = (read_sides(model, split, sites, "last") for split in splits)
        width, heads = model.layout.d_head, []
        for site in sites:
            for head in range(model.layout.n_heads):
                share = (head * width, (head + 1) * width)
                pair = train[site].columns(*share), held[site].columns(*share)
                heads.append(_Head(*self._probe(*pair), site.layer, head, self._push(*pair)))
        return heads

    def _probe(self, train: Sides, held: Sides) -> tuple[float, float]:
        """Share of validation texts that a probe fitted to the train texts gets wrong; log loss."""
        weight, bias = logistic_direction(train)
        logits = held.rows @ weight + bias
        wrong = (logits > 0) != (held.labels > 0.5)
        loss = functional.binary_cross_entropy_with_logits(logits, held.labels)
        return float(wrong.float().mean()), float(loss)

    def _push(self, train: Sides, held: Sides) -> Tensor:
        both = Sides(*(torch.cat(rows) for rows in zip(train, held, strict=True)))
        raw = both.difference if self.direction == "mass_mean" else logistic_direction(train)[0]
        unit = functional.normalize(raw, dim=0)
        return unit * float((both.rows @ unit).std(correction=0))
