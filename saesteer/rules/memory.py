"""What a rule gate remembers of one text: aggregates over the prompt, and scores so far."""

from __future__ import annotations

from typing import NamedTuple, final

from torch import Tensor

from saesteer.rules.causal_scores import CausalState
from saesteer.rules.prompt_scores import PromptState, Scored, Totals
from saesteer.steer.frame import Frame


class Seen(NamedTuple):
    """What one pass adds to it: prompt totals, causal concepts' own scores, and their resets."""

    totals: Totals | None = None
    own: Scored | None = None
    resets: Tensor | None = None


@final
class RuleState:
    """The state of one text; `select_rows` follows the cache."""

    def __init__(self, *, prompt: bool, causal: bool) -> None:
        """Start with no column seen."""
        self.prompt = PromptState() if prompt else None
        self.causal = CausalState() if causal else None

    def write(self, frame: Frame, seen: Seen) -> None:
        """Keep what another gate of the same rules found in this pass."""
        if self.prompt is not None and seen.totals is not None:
            self.prompt.write(frame, seen.totals)
        if self.causal is not None and seen.own is not None and seen.resets is not None:
            self.causal.write(frame, seen.own, seen.resets)

    def select_rows(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        for part in (self.prompt, self.causal):
            if part is not None:
                part.select_rows(rows)
