"""Persona vectors: how responses differ inside when a character trait is asked for.

v = mean h(responses under trait-eliciting instructions) − mean h(under suppressing ones) `[width]`,
each response counted once, as the mean over its own tokens; `h += strength · α v` at every position
that chooses a generated token, α such that α v is `dose` times the site's typical norm long (1 for
None; the paper tries 0.5 to 2.5 on two models). The same vector serves three ends:

- steering: strength below 0 suppresses the trait;
- `monitor`: the projection of a prompt's last token on v̂ tells, before a word is written, how much
  of the trait the response will show;
- preventative steering: the plan attached while fine-tuning (`plan.on(model, prompt_lengths=...)`
  around the training step, then taken off) supplies the trait, so weights needn't learn it.
  Gradients flow through the edit.

Source: Chen et al. 2025, Persona Vectors (2507.21509). There a language model writes five pairs of
instructions and the questions, a judge keeps the responses that show the trait (score above 50 of
100) or don't, and the layer is the one where steering does most. Here `elicit`, `suppress` and
`questions` are settings from which the model itself writes the responses; without questions the
contrast's texts are the responses, their prompts the instructions. `judge` scores 0 to 1; None
keeps all. The layer is `site` (a third of the way by default): sweep it with a comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from torch.nn import functional

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError
from saesteer.features.concepts import ProbeReadout
from saesteer.methods.base import (
    DOSE,
    Family,
    Method,
    difference_in_means,
    dosed,
    site_or_default,
)
from saesteer.models import Model, Prompt, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, add, generated


@final
@dataclass(frozen=True)
class PersonaVectors(Method):
    """The trait's vector; `n_tokens` is the length of a response that the model writes."""

    source: ClassVar[str] = "Chen et al. 2025, 2507.21509"
    needs: ClassVar[str] = "responses with and without a trait, or instructions and questions"
    family: ClassVar[Family] = "dense"

    elicit: Sequence[str] = ()
    suppress: Sequence[str] = ()
    questions: Sequence[str] = ()
    judge: Callable[[str], float] | None = None
    n_tokens: int = 64
    dose: float | None = DOSE

    @property
    def name(self) -> str:
        """The paper's name."""
        return "persona vectors"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The vector as a plan; see `Method.fit`.

        Raises:
            ConfigError: questions without instructions of both kinds.
            ContrastError: the judge leaves no response of one kind.
        """
        model = as_model(model)
        place = site_or_default(model, site)
        told = self.responses(model) if self.questions else contrast
        vector = dosed(model, place, difference_in_means(model, told, place), self.dose)
        return Plan(add(place, vector), where=generated(), name=self.name)

    def monitor(
        self, model: Model | Any, contrast: Contrast, site: Site | str | None = None
    ) -> ProbeReadout:
        """h · v̂, a readout for concepts and rules; `prompt_projections` reads prompts with it."""
        act: Any = self.fit(model, contrast, site).edits[0].intervention
        return ProbeReadout(act.site, functional.normalize(act.vector, dim=0))

    def responses(self, model: Model) -> Contrast:
        """The model's own answers to every question under every instruction, greedily.

        Raises:
            ConfigError, ContrastError: as for `fit`.
        """
        if not (self.elicit and self.suppress):
            raise ConfigError(f"{self.name}: questions need instructions in elicit and suppress.")
        found: list[Example] = []
        for label, instructions in ((1, self.elicit), (0, self.suppress)):
            for instruction in instructions:
                prompts = [_prompt(model, instruction, question) for question in self.questions]
                answers = model.generate(prompts, max_new_tokens=self.n_tokens)
                texts = [answers] if isinstance(answers, str) else answers
                found += [
                    Example(text, label, prompt=_as_text(model, prompt))
                    for text, prompt in zip(texts, prompts, strict=True)
                    if text.strip() and (self.judge is None or (self.judge(text) > 0.5) == label)
                ]
        return Contrast(tuple(found), name=f"{self.name}: responses")


def _prompt(model: Model, instruction: str, question: str) -> Prompt:
    """The chat that asks; plain text for a model without a template."""
    if not model.has_chat_template:
        return f"{instruction}\n\n{question}\n"
    return [{"role": "system", "content": instruction}, {"role": "user", "content": question}]


def _as_text(model: Model, prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else model.render(prompt)
