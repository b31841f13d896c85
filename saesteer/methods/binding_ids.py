"""Binding IDs: swap which of two things in a text belongs to which, by the vectors that tie them.

In "Ann lives in Rome, and Bob lives in Oslo" the model marks Ann and Rome with one binding vector
and Bob and Oslo with another. Δ = mean h(word in the second pair) − mean h(word in the first)
`[d_model]` over contexts drawn from a template, in which every word stands in both places equally
often, so that what remains is the binding. `h += strength · Δ` at the tokens of `swap[0]` and
`h −= strength · Δ` at those of `swap[1]`, where either first occurs in the prompt.

Source: Feng and Steinhardt 2023 (2310.17191): mean differences over contexts, added to entities or
attributes, switch whom the model thinks bound to what. They overwrite the stored activations of all
layers; edits add up along the residual, so here single layers get their own Δ: those at `DEPTHS`
unless `layers` or a site is given. On SmolLM2-135M, 24 questions of the default template, layer 20
alone made the other one's place 5.3 nats likelier against one's own (4.3 to 6.3; random vectors of
that length: -0.3); layers 4, 12 and 20 5.5, but of a pair mostly the second one's; layers up to 8
alone nothing. A word of several tokens counts as their mean. What a contrast's texts say is not
used: the template is the data.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ConfigError
from saesteer.features.activations import pooled_activations
from saesteer.methods.base import Family, Method, site_or_default
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Edit, Plan, add, spans

TEMPLATE = "Here is what we know: {} lives in {}, and {} lives in {}."
ENTITIES = ("Ann", "Bob", "Carl", "Dora", "Emma", "Fred", "Grace", "Hugo")
DEPTHS = (2 / 3,)
"""Where the residual is edited by default, as shares of the layers: 20 of 30."""
ATTRIBUTES = ("Rome", "Oslo", "Paris", "Berlin", "London", "Madrid", "Cairo", "Tokyo")


@final
@dataclass(frozen=True)
class BindingIDs(Method):
    """A swap of two words' bindings.

    Attributes:
        swap: two words of the prompts to be steered, in the order in which these name them.
        of: whether they stand in the template's first and third place or in the others.
        layers: where to act, each with its own Δ, at the site's kind.
        template: four `{}`: entity, attribute, entity, attribute.
        n_contexts: contexts drawn; each is read with its entities, or attributes, either way round.
    """

    source: ClassVar[str] = "Feng and Steinhardt 2023, 2310.17191"
    needs: ClassVar[str] = "a template with entities and attributes"
    family: ClassVar[Family] = "dense"

    swap: tuple[str, str] = ATTRIBUTES[:2]
    of: Literal["entity", "attribute"] = "attribute"
    layers: Sequence[int] = ()
    template: str = TEMPLATE
    entities: Sequence[str] = ENTITIES
    attributes: Sequence[str] = ATTRIBUTES
    n_contexts: int = 50
    seed: int = 0

    @property
    def name(self) -> str:
        """The paper's name."""
        return "binding IDs"

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """Two edits at each of `layers`, else at `site`, else at the default's; see `Method.fit`.

        Raises:
            ConfigError: a template without four places, or fewer than two words of a kind.
        """
        del contrast  # the template is the data
        model = as_model(model)
        edits = [
            Edit(add(place, sign * vector), spans(word, 0))
            for place, vector in self._differences(model, self._sites(model, site)).items()
            for sign, word in zip((1, -1), self.swap, strict=True)
        ]
        return Plan(*edits, name=self.name)

    def _sites(self, model: Model, site: Site | str | None) -> list[Site]:
        place = site_or_default(model, site)
        layers = self.layers or (
            [round(d * model.n_layers) for d in DEPTHS] if site is None else ()
        )
        return [model.check_site(Site(at, place.kind)) for at in dict.fromkeys(layers)] or [place]

    def contexts(self) -> list[tuple[str, str, str, str]]:
        """What fills the template: each draw, then the same with two words swapped."""
        if len(self.entities) < 2 or len(self.attributes) < 2 or self.template.count("{}") != 4:
            raise ConfigError(
                f"{self.name}: template {self.template!r} needs four {{}}, and two words or more "
                "for each of entities and attributes."
            )
        draw, drawn = random.Random(self.seed), []
        for _ in range(self.n_contexts):
            e, f = draw.sample(list(self.entities), 2)
            a, b = draw.sample(list(self.attributes), 2)
            drawn += [(e, a, f, b), (f, a, e, b) if self.of == "entity" else (e, b, f, a)]
        return drawn

    def _differences(self, model: Model, sites: Sequence[Site]) -> dict[Site, Vector]:
        slots = (0, 2) if self.of == "entity" else (1, 3)
        examples = [[self._word(words, slot) for words in self.contexts()] for slot in slots]
        first, second = (pooled_activations(model, each, sites) for each in examples)
        return {site: second[site].mean(0) - first[site].mean(0) for site in sites}

    def _word(self, words: tuple[str, str, str, str], slot: int) -> Example:
        """One word behind all that comes before it; the space between them is the word's."""
        pieces = self.template.split("{}")
        before = "".join(p + w for p, w in zip(pieces, words[:slot], strict=False)) + pieces[slot]
        bare = before.rstrip(" ")
        return Example(before[len(bare) :] + words[slot], 1, prompt=bare)
