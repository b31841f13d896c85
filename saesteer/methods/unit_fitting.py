"""Fittings that learn one direction of norm 1, and what they share: start, constraint and plan."""

from __future__ import annotations

from abc import abstractmethod
from typing import final

import torch
from torch import nn
from torch.nn import functional

from saesteer.methods.learned import Fitting, LearnedMethod, Rate, seeded
from saesteer.models import Model
from saesteer.models.sites import Site
from saesteer.steer import Plan, add, generated


class UnitFitting(Fitting):
    """A direction `[width]` at one site, random at the start; `loss` and `length` are the method's.

    Its norm is renewed at each step, and its gradient kept orthogonal to it.
    """

    def __init__(self, method: LearnedMethod, model: Model, site: Site, n_rows: int) -> None:
        super().__init__()
        self.model, self.site, self.n_rows = model, site, n_rows
        self._name = method.name
        with seeded(method.seed):
            start = functional.normalize(torch.randn(model.layout.width(site)), dim=0)
        self.direction = nn.Parameter(start.to(model.device))

    @abstractmethod
    def length(self) -> float:
        """How long the direction is in the plan, in the model's own scale."""

    @final
    def before_update(self) -> None:
        """No gradient along the direction, whose length is fixed."""
        assert self.direction.grad is not None
        along = self.direction.detach() / self.direction.detach().norm()
        self.direction.grad -= (self.direction.grad @ along) * along

    @final
    def after_update(self, rate: Rate) -> None:  # noqa: ARG002
        """Norm 1."""
        self.direction.div_(self.direction.norm())

    @final
    def plan(self) -> Plan:
        """The direction at its length, added to what is generated."""
        vector = self.direction.detach().cpu() * self.length()
        return Plan(add(self.site, vector), where=generated(), name=self._name)
