"""ActivationReasoning: concepts read from latents, a rule over them, and a head that steers.

A concept is made from labelled texts by `d = E[z | y = 1] − E[z | y = 0]` `[d_sae]`: readout
"single" is the latent argmax d, "multi" the sum of the `top_k` largest weighted by d / Σ d. It
holds where its score exceeds τ, the cut of best balanced accuracy on the train texts: token by
token ("local"), or on the mean over the prompt ("global"). Two concepts come from one contrast:
`shown`, of the positives, and `opposite`, of the negatives. `rules` derive `steer` from them, to a
fixpoint; where it holds and a token is chosen,

    h += strength · α · ‖h‖ · unit(Σ_j w_j ŵ_j),    α = 0.5

over the features of `shown`, ŵ_j unit decoder rows: normalised once, so that many features don't
outdo one.

Source: Helff et al. 2025 (2510.18184). The authors' code edits the last position of each pass; here
it is every position that chooses a generated token, the same thing in decoding. τ lies midway
between the two scores it parts; on a tie the widest gap wins. Their third readout, a decision tree
for relations, and rules with several heads belong to rule files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import RuleError
from saesteer.features.activations import read_activations
from saesteer.features.concept_fit import Scope, fit_concept, mean_difference
from saesteer.features.concepts import Concept, FeatureReadout
from saesteer.methods.base import Family, Method, check_sae_site
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.rules import RuleBook
from saesteer.rules.acts import Act
from saesteer.rules.syntax import Atom, Program, parse
from saesteer.saes.sae import SAE
from saesteer.steer import Plan

ALPHA = 0.5
"""The authors' α, in units of ‖h‖, at strength 1."""
HEAD = Atom("steer")


@final
@dataclass(frozen=True)
class ActivationReasoning(Method):
    """Steering where a rule says so; `rules` derive `steer` from `shown` and `opposite`."""

    source: ClassVar[str] = "Helff et al. 2025, 2510.18184"
    needs: ClassVar[str] = "an SAE, labelled texts, a rule"
    family: ClassVar[Family] = "rule"
    takes_site: ClassVar[bool] = False

    sae: SAE
    rules: str = "steer :- not shown."
    readout: Literal["single", "multi"] = "multi"
    scope: Scope = "local"
    top_k: int = 5

    @property
    def name(self) -> str:
        """The paper's name."""
        return "ActivationReasoning"

    def concepts(self, model: Model | Any, contrast: Contrast) -> tuple[Concept, Concept]:
        """`shown` and `opposite`, with their readouts and thresholds.

        Raises:
            ContrastError: no latent fires more on one side than on the other.
        """
        model = as_model(model)
        train = contrast.split("train")
        difference = mean_difference(model, self.sae, contrast)
        rows = read_activations(model, train.examples, self.sae.site, drop_outliers=True)
        labels = torch.tensor([example.label == 1 for example in train.examples])
        n = 1 if self.readout == "single" else self.top_k
        shown = fit_concept("shown", self.sae, difference, rows, labels, n, self.scope)
        opposite = fit_concept("opposite", self.sae, -difference, rows, ~labels, n, self.scope)
        return shown, opposite

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The rule's plan at the SAE's site; see `Method.fit`.

        Raises:
            RuleError: rules that can't be read, or don't derive `steer` from the two concepts.
        """
        model = as_model(model)
        check_sae_site(model, site, self.sae)
        program = _checked(parse(self.rules))
        concepts = self.concepts(model, contrast)
        readout = concepts[0].readout
        assert isinstance(readout, FeatureReadout), "concepts are fitted to features"
        vector = weighted_direction(self.sae, readout)
        act = Act(HEAD, "vector", site=self.sae.site, vector=vector, scaled=True, strength=ALPHA)
        book = RuleBook(program, concepts, (act,), name=self.name)
        return book.plan(self.sae)


def weighted_direction(sae: SAE, readout: FeatureReadout) -> Tensor:
    """Unit vector along the weighted sum of a readout's unit decoder rows, fp32 on the CPU."""
    rows = functional.normalize(sae.w_dec[list(readout.features)].detach().float().cpu(), dim=-1)
    return functional.normalize(torch.tensor(readout.weights) @ rows, dim=0)


def _checked(program: Program) -> Program:
    known = {Atom("shown"), Atom("opposite"), *program.heads}
    strange = [str(b.atom) for rule in program.statements for b in rule.body if b.atom not in known]
    if HEAD not in program.heads or strange:
        fault = f"they name {strange[0]}" if strange else "no rule derives 'steer'"
        raise RuleError(
            f"ActivationReasoning: {fault}; derive steer from shown and opposite, as in "
            "'steer :- not shown.'"
        )
    return program
