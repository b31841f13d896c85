"""ROME: one fact rewritten by a rank-one change of one MLP's output projection.

W ← W + (v* − W k*) (C⁻¹ k*)ᵀ / (k*ᵀ C⁻¹ k*), W `[d_model, d_mlp]`. k* `[d_mlp]` is what W reads at
the subject's last token, the mean over prefixes; C the second moment of such keys over texts. v* is
W k* + δ, δ learned: the loss is the new object's negative log likelihood (nats a token, the mean
over prefixes), plus KL from the unedited next-token distribution after the bare subject
(`kl_weight`), plus `decay` ‖δ‖² / ‖W k*‖². The plan is this one weight edit; strength scales ΔW.

The fact is a positive of the contrast's train split, by its place: its prompt, and its text as the
new object. The subject is a part of the prompt, or all of it.

Source: Meng et al. 2022 (2202.05262) and its code: 20 to 25 steps of Adam at 0.5, KL 0.0625, decay
0.5 there. Chosen here: prefixes are beginnings of the other train texts rather than sampled ones; C
comes from the train texts alone (the paper: 100,000 of Wikipedia), so it is shrunk to its mean
diagonal by `shrinkage`; the KL prompt is the subject rather than "{subject} is a"; W k* in the
decay's unit is the paper's clamp on ‖δ‖ as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import nn
from torch.nn import functional

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ContrastError
from saesteer.methods import facts
from saesteer.methods.base import Family, default_site
from saesteer.methods.learned import Fitting, LearnedMethod, Measured, Turn
from saesteer.methods.projections import Projection, projection
from saesteer.methods.scoring import log_likelihood
from saesteer.models import Model
from saesteer.models.sites import Site
from saesteer.steer import Plan


@final
@dataclass(frozen=True)
class ROME(LearnedMethod):
    """A rewritten fact.

    Attributes:
        subject: the part of the prompt whose last token carries the fact; None for the whole.
        fact: which of the train split's positives.
        n_prefixes: texts that the prompt is read after, beside none.
    """

    source: ClassVar[str] = "Meng et al. 2022, 2202.05262"
    needs: ClassVar[str] = "a fact: a prompt and its new ending; texts, training; weight edit"
    family: ClassVar[Family] = "dense"

    subject: str | None = None
    fact: int = 0
    n_prefixes: int = 4
    kl_weight: float = 0.0625
    decay: float = 0.5
    shrinkage: float = 0.1
    n_steps: int = 25
    lr: float = 0.5

    @property
    def name(self) -> str:
        """The paper's name."""
        return "ROME"

    def begin(self, model: Model, contrast: Contrast, site: Site | str | None) -> Fitting:
        """No change yet; see `LearnedMethod.begin`.

        Raises:
            ContrastError: no such fact, or a subject that is not in its prompt.
        """
        place = default_site(model) if site is None else model.check_site(site)
        train = contrast.split("train")
        if not 0 <= self.fact < len(train.positives):
            raise ContrastError(
                f"{contrast.name}: fact {self.fact} is none of {len(train.positives)} positives."
            )
        fact = train.positives[self.fact]
        if self.subject and self.subject not in (fact.prompt or ""):
            raise ContrastError(f"{contrast.name}: {self.subject!r} is not in {fact.prompt!r}.")
        return _Fitting(self, model, train, fact, projection(model, place.layer, "mlp"))


@final
class _Fitting(Fitting):
    def __init__(
        self, method: ROME, model: Model, train: Contrast, fact: Example, writes: Projection
    ) -> None:
        super().__init__()
        self._method, self._model, self._projection, self.n_rows = method, model, writes, 1
        prefixes = facts.beginnings([e for e in train.examples if e is not fact], method.n_prefixes)
        self._fact = facts.asked_after(model, fact, ["", *prefixes], method.subject)
        bare = method.subject or fact.prompt or fact.text
        self._bare = facts.asked_after(model, Example(fact.text, 1, prompt=bare), [""], None)
        with torch.no_grad():
            self._key, self._value = facts.read_keys(model, writes, self._fact)
            self._before = facts.next_token(model, self._bare)
        self._second = facts.second_moment(model, train.examples, writes.reads, method.shrinkage)
        self.delta = nn.Parameter(torch.zeros(len(self._value), device=model.device))

    def loss(self, turn: Turn) -> Measured:  # noqa: ARG002
        """Negative log likelihood of the new object, drift of the subject, and size of δ."""
        with self._projection.adding(facts.at_subject(self._fact, self.delta)):
            told = -log_likelihood(self._model, self._fact.texts).mean()
        with self._projection.adding(facts.at_subject(self._bare, self.delta)):
            now = facts.next_token(self._model, self._bare)
        drift = functional.kl_div(now, self._before, log_target=True, reduction="sum")
        size = self.delta.square().sum() / self._value.square().sum()
        whole = told + self._method.kl_weight * drift + self._method.decay * size
        return Measured(whole, {"nll": told, "kl": drift, "size": size})

    def plan(self) -> Plan:
        """The rank-one change."""
        row = torch.linalg.solve(self._second, self._key.double().cpu())
        row = (row / (row @ self._key.double().cpu())).float()
        left = self.delta.detach().cpu()[:, None]
        return Plan(self._projection.change(left, row[None]), name=self._method.name)
