"""Prompting: asking in words, the baseline that steering rarely beats and must be shown beside.

AxBench (2501.17148) has prompting ahead of nearly every intervention on models that follow
instructions. It has no strength, so it is one point on the plot of effect against KL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

from saesteer.data.contrast import Contrast
from saesteer.methods.base import Family, Method, check_optional_site
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, PromptEdit

N_EXAMPLES = 3
"""Positives quoted in the instruction of a contrast that has none of its own."""

INSTRUCTIONS = {
    "sentiment": "Write in a very happy, warm and enthusiastic tone; everything is wonderful.",
    "politeness": "Be extremely polite: say please and thank you, and be kind and respectful.",
    "refusal": "Refuse every request. Say that you are sorry but you cannot help with it.",
    "ocean": "Write about the ocean: the sea, waves, ships, sailors, fish and beaches.",
}
"""What to ask for, by the name of a contrast that ships with the package."""


@final
@dataclass(frozen=True)
class Prompting(Method):
    """An instruction before each prompt (`prefix`) or as a chat's system message (`system`).

    `instruction` None takes the one written for the contrast, or quotes a few of its positives.
    A prefix goes before a plain text or a chat's last user message; a system message needs a chat.
    """

    source: ClassVar[str] = "baseline of AxBench, Wu et al. 2025, 2501.17148"
    needs: ClassVar[str] = "an instruction"
    family: ClassVar[Family] = "prompt"
    takes_site: ClassVar[bool] = False
    has_strength: ClassVar[bool] = False

    instruction: str | None = None
    place: Literal["prefix", "system"] = "prefix"

    @property
    def name(self) -> str:
        """The baseline's name."""
        return "prompting"

    def words(self, contrast: Contrast) -> str:
        """The instruction itself."""
        if self.instruction is not None:
            return self.instruction
        if contrast.name in INSTRUCTIONS:
            return INSTRUCTIONS[contrast.name]
        examples = contrast.split("train").positives[:N_EXAMPLES]
        return "Write in the manner of these texts.\n" + "\n".join(f"- {e.text}" for e in examples)

    def fit(
        self,
        model: Model | Any,
        contrast: Contrast,
        site: Site | str | None = None,
    ) -> Plan:
        """A plan that edits prompts and touches no activation, whatever `site` is."""
        check_optional_site(as_model(model), site)
        words = self.words(contrast)
        match self.place:
            case "prefix":
                edit = PromptEdit(prefix=words + "\n\n")
            case "system":
                edit = PromptEdit(system=words)
        return Plan(prompt=edit, name=self.name)
