"""Toxification reversal: turn attention away from where asking for the bad would take it.

z: the heads' outputs side by side, before W_O, at every layer `[n_heads · d_head]`. For each head
Δ = z(text after a negative prefix) − z(text after `against`), and at every position that chooses a
generated token `z ← z − (1 + ‖Δ‖)^a · (1 + relu cos(z, z_neg))^b · Δ`, a = 0.4, b = 0.6, each head
by itself; then all heads together are brought back to the norm that z had. z_neg is the negative
prefix's own last token. The norm is kept at strength 1; other strengths scale the whole change.

Source: Leong et al. 2023, Self-Detoxifying Language Models via Toxification Reversal (2310.09573)
and their code: prefix, both exponents and the renormalisation are theirs. They compute Δ anew for
each token, by running the text so far a second time behind the prefix; a plan edits one pass, so
here Δ is the mean over the train texts' own tokens: the prefix's average pull, not this token's.
They take Δ from the bare text. Most of an average pull is that anything at all comes before: taken
out at every layer, it left SmolLM2-135M no text (1.9 nats, a perplexity of 23). So `against` quotes
the other side's texts, of the same form (0.4 and 5), and "" is theirs. The default prefix quotes
the side that `remove` names; theirs is about toxicity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from torch import Tensor

from saesteer.data.contrast import Contrast, Example
from saesteer.errors import ContrastError
from saesteer.features.activations import pooled_activations
from saesteer.methods.base import ROUNDING, Family, Method, Side, check_optional_site
from saesteer.methods.heads import head_sites
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.steer import Plan, generated
from saesteer.steer.reversal import Reversal

N_QUOTED = 3


@final
@dataclass(frozen=True)
class ToxificationReversal(Method):
    """A turn away from `prefix`.

    Attributes:
        prefix: None quotes some texts of the side that `remove` names.
        against: what it is compared with; None quotes the other side.
        n_texts: train texts of either side that are read behind both, the first ones.
    """

    source: ClassVar[str] = "Leong et al. 2023, 2310.09573"
    needs: ClassVar[str] = "texts, and a prefix that asks for what is to go"
    family: ClassVar[Family] = "dense"
    takes_site: ClassVar[bool] = False

    prefix: str | None = None
    remove: Side = "negatives"
    against: str | None = None
    n_texts: int = 32

    @property
    def name(self) -> str:
        """The paper's name."""
        return "toxification reversal"

    def words(self, contrast: Contrast) -> tuple[str, str]:
        """The negative prefix and the one that it is compared with."""
        train = contrast.split("train")
        gone, kept = (train.negatives, train.positives)[:: 1 if self.remove == "negatives" else -1]
        quoted = ["".join(f"{e.text}\n" for e in side[:N_QUOTED]) for side in (gone, kept)]
        given = self.prefix, self.against
        bad, other = (q if own is None else own for own, q in zip(given, quoted, strict=True))
        return bad, other

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """One edit a layer, whatever `site` is; see `Method.fit`.

        Raises:
            ContrastError: the prefix changes nothing.
        """
        model = as_model(model)
        check_optional_site(model, site)
        (prefix, other), sites = self.words(contrast), head_sites(model)
        train = contrast.split("train")
        texts = [e for side in (train.positives, train.negatives) for e in side[: self.n_texts]]
        pulled, alone = (_behind(model, each, texts, sites) for each in (prefix, other))
        moved = max(float((pulled[at] - alone[at]).norm() / alone[at].norm()) for at in sites)
        if not moved > ROUNDING:
            raise ContrastError(
                f"{self.name}: the prefix {prefix[:40]!r} changes nothing over {other[:40]!r}."
            )
        ends = pooled_activations(model, [prefix], sites, "last")
        shape = (model.layout.n_heads, model.layout.d_head)
        acts = [
            Reversal(at, (pulled[at] - alone[at]).view(shape), ends[at].view(shape)) for at in sites
        ]
        return Plan(*acts, where=generated(), name=self.name)


def _behind(
    model: Model, prefix: str, texts: Sequence[Example], sites: Sequence[Site]
) -> dict[Site, Tensor]:
    """Mean activations over the texts behind a prefix, the prefix's own left out."""
    read = [replace(text, prompt=prefix + (text.prompt or "")) for text in texts]
    return {at: rows.mean(0) for at, rows in pooled_activations(model, read, sites, "mean").items()}
