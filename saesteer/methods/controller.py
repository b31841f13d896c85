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
only from the last layer read on, so that a cache changes nothing. Activations are brought to RMS 1.
It adds 4 times one raw vector at all layers; 1,024 units, AdamW at 5e-5, 20 epochs, batches of 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import nn

from saesteer.data.contrast import Contrast
from saesteer.features.activations import Pool
from saesteer.methods.base import (
    DOSE,
    Family,
    difference_in_means,
    dosed,
    read_contrast,
    site_or_default,
    sites_or_default,
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
        condition: prompts that should (1) and should not (0) trigger it; the behaviour's for None.
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
    dose: float | None = 2 * DOSE  # tokens behind the prompt, never learned, open it less

    @property
    def name(self) -> str:
        """What the paper calls it."""
        return "controller"

    def begin(self, model: Model, contrast: Contrast, site: Site | str | None) -> Fitting:
        """The direction, the prompts' activations and a random network."""
        return _Fitting(self, model, contrast, site_or_default(model, site))


@final
class _Fitting(Fitting):
    def __init__(self, method: Controller, model: Model, contrast: Contrast, place: Site) -> None:
        super().__init__()
        self._name = method.name
        self._inputs = tuple(sites_or_default(model, place, method.inputs))
        last = max(site.layer for site in self._inputs)
        sites = [Site(layer, place.kind) for layer in range(last, model.n_layers)]
        vector = difference_in_means(model, contrast, place) / len(sites)
        share = None if method.dose is None else 2 * method.dose / len(sites)
        self._acts = [add(at, dosed(model, at, vector, share)) for at in sites]
        when = contrast if method.condition is None else read_contrast(method.condition)
        sides = read_sides(model, when.split("train"), self._inputs, method.read)
        rows = torch.cat([steering.levelled(sides[s].rows) for s in self._inputs], dim=-1)
        self._rows = rows.to(model.device)
        self._labels = sides[self._inputs[0]].labels.to(model.device)
        self.n_rows = len(rows)
        with seeded(method.seed):
            self.hidden = nn.Linear(rows.shape[1], method.n_hidden)
            self.out = nn.Linear(method.n_hidden, 1 + len(sites))
        self.to(model.device)

    def loss(self, turn: Turn) -> Measured:
        """Cross entropy of the scale in nats, and what holds the weights about a half."""
        logits = steering.network(self._rows[turn.rows], *self.parameters())
        labels = self._labels[turn.rows]
        told = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels)
        weights = torch.sigmoid(logits[:, 1:])
        each = (weights - 0.5).abs().mean(-1) + 0.01 * weights.mean(-1)
        held = 0.1 * (each * labels).sum() / labels.sum().clamp(min=1)
        right = ((logits[:, 0] > 0) == (labels > 0.5)).float().mean()
        return Measured(told + held, {"cross_entropy": told, "accuracy": right})

    def plan(self) -> Plan:
        """One edit a layer, all with the network as it stands."""
        parts = [part.detach().cpu().clone() for part in self.parameters()]
        edits = [
            Edit(act, schedule=steering.Controller(self._inputs, *parts, edit=index))
            for index, act in enumerate(self._acts)
        ]
        return Plan(*edits, name=self._name)
