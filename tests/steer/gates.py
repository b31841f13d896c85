"""Gates that only tests need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saesteer.models import Site
from saesteer.steer import Frame, register_kind


@register_kind
@dataclass(frozen=True)
class AtToken:
    """Open at one token; with `generated`, only where the model itself has said it."""

    token: int
    generated: bool = True
    sites: tuple[Site, ...] = ()

    def new_state(self) -> object:
        return None

    def open(self, readings: Mapping[Site, Tensor], frame: Frame, state: Any) -> Tensor:
        assert frame.input_ids is not None
        frame.note("token", frame.input_ids.float())
        found = (frame.input_ids == self.token) & frame.valid
        return (
            found & (frame.logical >= frame.need_prompt_lengths("gate"))
            if self.generated
            else found
        )

    def explain(self, evidence: Mapping[str, Any], row: int, index: int) -> str:
        return f"token {int(evidence['token'][row, index])}"
