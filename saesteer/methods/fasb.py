"""FASB: let the model speak, and when a probe says that it goes astray, take back and steer.

A logistic probe gives each generated token the probability p_t that the text is of the positive
kind. While the mean of p over the answer so far is at least τ nothing is done. When it falls below,
the last s tokens are taken back and generated again, and from there on

    h += strength · (1 - p̄) · α ŵ [width],    p̄ the mean then,

with α `dose` times the site's typical norm, or for None ŵ · (mean h⁺ − mean h⁻).

The mean is asked again when the answer is longer than it was, so every token is taken back at most
once per length and decoding ends.

Source: "Steering When Necessary: Flexible Steering Large Language Models with Backtracking" (2025),
the method from its description, not its code. There probes and directions are those of the best
attention heads; here one residual site, as for the linear probe. Choices: p is read before the
plan's own edit at the site; special tokens count like others; the strength holds until the next
cut; the answer's tokens are those that the model itself has said, so the prompt does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError
from saesteer.features.activations import Pool
from saesteer.methods.base import DOSE, Family, Method, dosed, site_or_default
from saesteer.methods.directions import logistic_direction, read_sides, spanning
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Edit, Plan, ProbeFalls, TakeBackAndSteer, add, dial, generated, key_of


@final
@dataclass(frozen=True)
class FASB(Method):
    """Backtracking steering.

    Attributes:
        tau: mean probability below which the answer is taken back.
        n_back: s, tokens taken back at a time.
        read: how a training text becomes the probe's row.
    """

    source: ClassVar[str] = "Cheng et al. 2025, Steering When Necessary"
    needs: ClassVar[str] = "two groups of texts"
    family: ClassVar[Family] = "dense"

    tau: float = 0.5
    n_back: int = 10
    dose: float | None = DOSE
    read: Pool = "mean"

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: tau is no probability, or n_back below 1.
        """
        super().__post_init__()
        if not 0 <= self.tau <= 1:
            raise ConfigError(f"FASB: tau is {self.tau}, expected a probability, 0 to 1.")

    @property
    def name(self) -> str:
        """The paper's name."""
        return "FASB"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit behind a dial, and the control that takes back; see `Method.fit`."""
        model = as_model(model)
        place = site_or_default(model, site)
        sides = read_sides(model, contrast.split("train"), [place], self.read)[place]
        weight, bias = logistic_direction(sides)
        vector = spanning(weight, sides, f"{contrast.name} at {place}")
        vector = dosed(model, place, vector, self.dose)
        key = key_of("FASB", vector)
        probe = ProbeFalls(place, weight, bias, self.tau)
        edit = Edit(add(place, vector), where=generated(), schedule=dial(key, 0.0))
        return Plan(edit, TakeBackAndSteer(key, self.n_back, gate=probe), name=self.name)
