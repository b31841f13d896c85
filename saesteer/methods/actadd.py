"""Activation Addition: the difference of two prompts, token by token, added at the prompt's front.

Unlike CAA it needs one pair and no averaging, and it acts on the prompt rather than on what is
generated: `h[i] += c · (h⁺[i] − h⁻[i])` for the first k positions, k the longer prompt's tokens
(in a text with a shorter prompt the last of them are generated tokens).
Source: Turner et al. 2023 (2308.10248), which pads the shorter prompt with spaces, as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from jaxtyping import Float
from torch import Tensor

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError
from saesteer.features.activations import prefix_ids
from saesteer.methods.base import Family, Method, site_or_default
from saesteer.models import Model, as_model
from saesteer.models.model import pad_rows
from saesteer.models.record import record
from saesteer.models.sites import Site
from saesteer.steer import Edit, Plan, add, positions

_ROUNDING = 1e-5
"""Two rows of one batch differ by up to so much of ‖h‖ where their tokens are the same."""


@final
@dataclass(frozen=True)
class ActAdd(Method):
    """One prompt pair; None takes the texts of the contrast's first train pair."""

    source: ClassVar[str] = "Turner et al. 2023, 2308.10248"
    needs: ClassVar[str] = "one pair of prompts"
    family: ClassVar[Family] = "dense"

    positive: str | None = None
    negative: str | None = None

    @property
    def name(self) -> str:
        """The paper's name."""
        return "ActAdd"

    def prompts(self, contrast: Contrast) -> tuple[str, str]:
        """The pair that is compared, with the contrast's own where a field is None."""
        if self.positive is not None and self.negative is not None:
            return self.positive, self.negative
        first = contrast.split("train").pairs()[0]
        positive = first[0].text if self.positive is None else self.positive
        negative = first[1].text if self.negative is None else self.negative
        return positive, negative

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit a position, from the first; positions where the prompts agree get none.

        Raises:
            ContrastError: the two prompts give the same activations.
        """
        model = as_model(model)
        place = site_or_default(model, site)
        vectors = _differences(model, *self.prompts(contrast), place)
        edits = [
            Edit(add(place, vector), where=positions([index]))
            for index, vector in enumerate(vectors)
            if float(vector.norm()) > 0
        ]
        if not edits:
            raise ContrastError(
                f"ActAdd: both prompts give the same activations at {place}; give two that differ."
            )
        return Plan(*edits, name=self.name)


def _differences(
    model: Model, positive: str, negative: str, site: Site
) -> Float[Tensor, "k d_model"]:
    """h⁺ − h⁻ at each position, the shorter prompt padded with spaces on the right."""
    prefix = prefix_ids(model)
    rows = [
        prefix + list(model.tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in (positive, negative)
    ]
    space = list(model.tokenizer(" ", add_special_tokens=False)["input_ids"])[:1] or [model.pad_id]
    width = max(len(row) for row in rows)
    filled = [row + space * (width - len(row)) for row in rows]
    resid = record(model, pad_rows(filled, model.pad_id), [site])[site].float().cpu()
    difference = resid[0] - resid[1]
    rounding = difference.norm(dim=-1) < _ROUNDING * resid[0].norm(dim=-1)
    return difference.masked_fill(rounding[:, None], 0.0)
