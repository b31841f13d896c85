"""LF-Steering: shift the latents that are on by how far they differ between two phrasings.

`z_j ← max(z_j + α · d_j, 0)` where z_j > 0, with `d = mean z⁺ − mean z⁻` over the train texts
`[d_sae]`, each text's z its largest at any token, for the `n_features` of largest |d_j|, at every
position. The decoder carries the shift back, `h += (z* − z) W_dec`, so the SAE's error stays. A
plan's strength multiplies what is shifted. Of several SAEs the one is used whose site a linear
probe separates best.

Source: Yang et al. 2025 (2501.11036), for the consistency of answers to paraphrases: positives are
the phrasings that are answered well, and `contrast` pairs them with those that are not. Uncertain,
and chosen: a text's latents are their maxima, since what is shifted is a latent that is on, and a
mean over tokens, most of them off, is a hundredth of that; the probe is a logistic regression on
mean activations, judged by AUROC on the validation split, the earlier layer on a tie; how many
latents move; that a shifted latent can't fall below 0. The paper tunes α: 1 at the generated
positions alone could not be told from noise on the embedded model, since few of the latents are on
there (2 % of ‖h‖), while 3 on the prompt too could (0.18 nats). A latent that is off stays off, so
this turns up what the text has of the behaviour and brings in nothing new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from saesteer.data.contrast import Contrast
from saesteer.errors import ContrastError
from saesteer.features.concept_fit import mean_difference
from saesteer.features.separation import auroc
from saesteer.methods.base import Family, Method, check_sae_site
from saesteer.methods.directions import logistic_direction, read_sides
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE
from saesteer.steer import Plan, feature_shift
from saesteer.steer import all as everywhere


@final
@dataclass(frozen=True)
class LFSteering(Method):
    """Active latents shifted; `others` are SAEs of further sites that the probe may prefer."""

    source: ClassVar[str] = "Yang et al. 2025, 2501.11036"
    needs: ClassVar[str] = "an SAE or several, paraphrase pairs"
    family: ClassVar[Family] = "feature"
    takes_site: ClassVar[bool] = False

    sae: SAE
    others: Sequence[SAE] = ()
    n_features: int = 64
    alpha: float = 3.0

    @property
    def name(self) -> str:
        """The paper's name."""
        return "LF-Steering"

    def separability(self, model: Model | Any, contrast: Contrast) -> dict[Site, float]:
        """AUROC of a probe at each SAE's site, on the validation split."""
        model = as_model(model)
        sites = list(dict.fromkeys(sae.site for sae in (self.sae, *self.others)))
        train = read_sides(model, contrast.split("train"), sites, "mean")
        held = read_sides(model, contrast.split("validation"), sites, "mean")
        found: dict[Site, float] = {}
        for site in sites:
            weight, _ = logistic_direction(train[site])
            scores = (held[site].rows @ weight)[:, None]
            found[site] = float(auroc(scores, held[site].labels > 0.5))
        return found

    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """The shift as a plan at the most separable SAE's site, or at `site`; see `Method.fit`.

        Raises:
            DimensionError: an SAE is of another width.
            ContrastError: no latent differs between the labels.
        """
        model = as_model(model)
        check_sae_site(model, site, self.sae, *self.others)
        sae = self._choose(model, contrast, site)
        shift = mean_difference(model, sae, contrast, "max")
        order = shift.abs().argsort(descending=True, stable=True)[: self.n_features]
        features = order[shift[order] != 0].tolist()
        if not features:
            raise ContrastError(
                f"{contrast.name}: no latent of SAE {sae.name} differs between its labels; "
                "check that their texts differ, or use another SAE."
            )
        act = feature_shift(sae, features, (self.alpha * shift[features]).tolist())
        return Plan(act, where=everywhere(), name=self.name)

    def _choose(self, model: Model, contrast: Contrast, site: Site | str | None) -> SAE:
        if not self.others:
            return self.sae
        if site is not None:
            place = model.check_site(site)
            return next(sae for sae in (self.sae, *self.others) if sae.site == place)
        found = self.separability(model, contrast)
        return max((self.sae, *self.others), key=lambda sae: (found[sae.site], -sae.site.order[0]))
