"""Guiding Giants' controller: a small network decides, token by token, how strongly layers steer.

`h_l += strength · σ(s) · σ(g_l) · v_l` at every position that chooses a generated token and every
layer l from the last one read, L of them: v_l `[width]` lies along the behaviour's difference in
means at the site and is 2 `dose` / L of layer l's typical norm long, so that weights of a half,
about which they are held, make up `dose` over all layers (None: the difference over L); s and g
`[1 + L]` the outputs of a network with one hidden layer on that position's own activations. Learned
on the activations of prompts that should trigger (1) and that should not (0): cross entropy of σ(s)
against the label, plus, on those that should, 0.1 (mean |σ(g) − ½| + 0.01 mean σ(g)).

Source: Hegazy et al. 2025 (2505.20309) and its code (GuidingGiantsWAS), from which come the loss,
the ReLU and the last token as what is read in learning. Chosen otherwise: the code multiplies by s
itself, which turns benign texts away from v, where its loss takes σ(s); here σ(s) in both. It may
act at layers that a pass reaches before those it reads, with the decision of the token before; here
only from the last layer read on, so that a cache changes nothing. Activations are brought to RMS 1
each. It adds one raw vector at all layers. Its hidden layer has
1,024 units, its AdamW a rate of 5e-5 over 20 epochs of batches of 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from saesteer.axes import Rows, Vector
from saesteer.data.contrast import Contrast
from saesteer.features.activations import Pool
from saesteer.methods.base import (
    DOSE,
    Family,
    difference_in_means,
    dosed,
    read_contrast,
    site_or_default,
)
from saesteer.methods.directions import read_sides
from saesteer.methods.learned import Fitting, LearnedMethod, Measured, Turn, seeded
from saesteer.models import Model
from saesteer.models.sites import Site
from saesteer.steer import Edit, Plan, add
from saesteer.steer import controller as steering


@final
@dataclass(frozen=True)
class Controller(LearnedMethod):
    """A direction behind a learned controller.

    Attributes:
        condition: prompts that should (1) and should not (0) trigger it, or a name; None takes the
            behaviour's own texts.
        read: which token of a prompt is learned from, or how its tokens are pooled.
        inputs: layers that are read; the site's own if none.
        n_hidden: units of the hidden layer.
    """

    source: ClassVar[str] = "Hegazy et al. 2025, 2505.20309"
    needs: ClassVar[str] = "two groups of texts; a condition's texts, training"
    family: ClassVar[Family] = "dense"

    condition: Contrast | str | None = None
    read: Pool = "last"
    inputs: Sequence[int] = ()
    n_hidden: int = 256
    lr: float = 1e-3
    dose: float | None = DOSE

    @property
    def name(self) -> str:
        """What the paper calls it."""
        return "controller"

    def begin(self, model: Model, contrast: Contrast, site: Site | str | None) -> Fitting:
        """The direction, the prompts' activations and a random network."""
        place = site_or_default(model, site)
        inputs = [model.check_site(Site(i, place.kind)) for i in self.inputs] or [place]
        vector = difference_in_means(model, contrast, place)
        when = contrast if self.condition is None else read_contrast(self.condition)
        sides = read_sides(model, when.split("train"), inputs, self.read)
        rows = torch.cat([steering.levelled(sides[s].rows) for s in inputs], dim=-1)
        data = (rows.to(model.device), sides[inputs[0]].labels.to(model.device))
        last = max(s.layer for s in inputs)
        sites = [Site(layer, place.kind) for layer in range(last, model.n_layers)]
        share = None if self.dose is None else 2 * self.dose / len(sites)
        vectors = [dosed(model, at, vector / len(sites), share) for at in sites]
        return _Fitting(self, data, (tuple(inputs), sites), vectors)


_Sites = tuple[tuple[Site, ...], Sequence[Site]]
"""What is read, and where is steered."""


@final
class _Fitting(Fitting):
    def __init__(
        self,
        method: Controller,
        data: tuple[Rows, Tensor],
        sites: _Sites,
        vectors: Sequence[Vector],
    ) -> None:
        super().__init__()
        self._name, self._vectors = method.name, vectors
        self._inputs, self._sites = sites
        self._rows, self._labels = data
        self.n_rows = len(self._rows)
        with seeded(method.seed):
            self.hidden = nn.Linear(self._rows.shape[1], method.n_hidden)
            self.out = nn.Linear(method.n_hidden, 1 + len(self._sites))
        self.to(self._rows.device)

    def loss(self, turn: Turn) -> Measured:
        """Cross entropy of the scale in nats, and what holds the weights about a half."""
        logits = steering.network(self._rows[turn.rows], *self._parts)
        labels = self._labels[turn.rows]
        told = functional.binary_cross_entropy_with_logits(logits[:, 0], labels)
        weights = torch.sigmoid(logits[:, 1:])
        each = (weights - 0.5).abs().mean(-1) + 0.01 * weights.mean(-1)
        held = 0.1 * (each * labels).sum() / labels.sum().clamp(min=1)
        right = ((logits[:, 0] > 0) == (labels > 0.5)).float().mean()
        return Measured(told + held, {"cross_entropy": told, "accuracy": right})

    def plan(self) -> Plan:
        """One edit a layer, all with the network as it stands."""
        parts = [part.detach().cpu().clone() for part in self._parts]
        edits = [
            Edit(add(site, vector), schedule=steering.Controller(self._inputs, *parts, edit=index))
            for index, (site, vector) in enumerate(zip(self._sites, self._vectors, strict=True))
        ]
        return Plan(*edits, name=self._name)

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.hidden.weight, self.hidden.bias, self.out.weight, self.out.bias
