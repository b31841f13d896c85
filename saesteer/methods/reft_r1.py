"""ReFT-r1: one direction that detects a concept and steers towards it, learned on its texts.

Each token has the latent a = ReLU(h · w), w `[width]` of norm 1. While learning, a text's edited
positions get `h += w · mean of its k largest a`, and the loss is the text's negative log likelihood
(nats a token) plus λ times the mean of the other a, λ rising from 0 to `sparsity`, the model
frozen. The plan adds w times the mean, over the train texts, of what was added in learning. Its
unit vector is also the detector: h · ŵ, the largest over a text's tokens.

Source: Wu et al. 2025, AxBench (2501.17148), and its code, from which come: w renewed to norm 1 and
its gradient kept orthogonal to it at each step; the rise of λ; positives alone. There w starts at
random, and steering adds multiples of the largest latent seen in training; here the start is random
as well and the unit of strength is the mean, which the loss was taken at. Texts without a prompt
are edited from their first token on. No bias, as in the paper's formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from saesteer.data.contrast import Contrast, Example
from saesteer.methods.base import Family, site_or_default
from saesteer.methods.learned import Fitting, LearnedMethod, Measured, Turn
from saesteer.methods.learning_edits import TopKAdd
from saesteer.methods.scoring import Texts, log_likelihood, teacher_forced
from saesteer.methods.unit_fitting import UnitFitting
from saesteer.models import Model
from saesteer.models.sites import Site
from saesteer.steer import Plan, generated


@final
@dataclass(frozen=True)
class ReFTr1(LearnedMethod):
    """A learned direction; `n_largest` is k, `sparsity` the final λ."""

    source: ClassVar[str] = "Wu et al. 2025, 2501.17148"
    needs: ClassVar[str] = "texts that show the behaviour, training"
    family: ClassVar[Family] = "dense"

    n_largest: int = 8
    sparsity: float = 5e-3

    @property
    def name(self) -> str:
        """The paper's name."""
        return "ReFT-r1"

    def begin(self, model: Model, contrast: Contrast, site: Site | str | None) -> Fitting:
        """A random direction; see `LearnedMethod.begin`."""
        place = site_or_default(model, site)
        return _Fitting(self, model, contrast.split("train").positives, place)


@final
class _Fitting(UnitFitting):
    def __init__(self, method: ReFTr1, model: Model, texts: Sequence[Example], site: Site) -> None:
        super().__init__(method, model, site, len(texts))
        self._method, self._texts = method, texts

    def loss(self, turn: Turn) -> Measured:
        """Negative log likelihood and the other latents' mean."""
        texts = teacher_forced(self.model, [self._texts[row] for row in turn.rows])
        loss, others = self._run(texts)[1:]
        whole = loss + turn.share * self._method.sparsity * others.mean()
        return Measured(whole, {"nll": loss, "other_latents": others.mean()})

    def length(self) -> float:
        """What the direction added to the train texts on average."""
        sizes = [self._run(teacher_forced(self.model, [text]))[0] for text in self._texts]
        return float(torch.cat(sizes).mean())

    def _run(self, texts: Texts) -> tuple[Tensor, Tensor, Tensor]:
        """What each row was given, the mean loss, and the mean of each row's other latents."""
        edited = texts.tokens.attention_mask.clone()
        for row, length in enumerate(texts.prompt_lengths):
            edited[row, : length - 1] = False
        seen: list[tuple[Tensor, Tensor]] = []
        edit = TopKAdd(self.site, self.direction, edited.float(), self._method.n_largest, seen)
        with Plan(edit, where=generated()).on(self.model, texts.prompt_lengths):
            loss = -log_likelihood(self.model, texts).mean()
        return seen[-1][0], loss, seen[-1][1]
