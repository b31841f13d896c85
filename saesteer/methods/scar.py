"""SCAR: scale the latent that was told what to mean, with the SAE standing in for the activation.

`h ← decode(z')`, z' = z but for the supervised latent, `z'_s = factor · z_s`, at positions that
choose a generated token; z `[d_sae]` as the SAE reads h. The reconstruction replaces the
activation, so its error is dropped, the only method here that does so. Strength mixes: at 1 the
above, at s the activation moves s of the way.

The SAE comes from a run of `saesteer train sae` whose config has `supervised:` (SCAR's BCE on one
latent's pre-activation, configs/sae/scar.yaml): `SCAR(load_sae(run_folder))`. Its metadata say
which latent that is; `latent` says it for an SAE from elsewhere.

Source: Härle et al. 2024 (2411.07122), at an MLP's output with latent 0 and factors from -100 to
100; site and latent are here what the run trained. Outlier tokens (over 4 times the site's typical
norm) keep their activation, but for the scaled latent. A factor above 1 steers towards what the
labels mark, 0 or below away from it; where the latent is off nothing but the replacement happens.
Written as two edits that read the same h, `replace` and `scale`, whose sum is decode(z') - h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from saesteer.data.contrast import Contrast
from saesteer.errors import SaeError
from saesteer.methods.base import Family, Method, check_sae_site
from saesteer.models import Model, as_model
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE
from saesteer.steer import Plan, generated, replace, scale


@final
@dataclass(frozen=True)
class SCAR(Method):
    """A supervised latent scaled by `factor`; its index is `latent`, or what the SAE says."""

    source: ClassVar[str] = "Härle et al. 2024, 2411.07122"
    needs: ClassVar[str] = "an SAE with a supervised latent (token labels, training)"
    family: ClassVar[Family] = "feature"
    takes_site: ClassVar[bool] = False

    sae: SAE
    latent: int | None = None
    factor: float = 5.0

    @property
    def name(self) -> str:
        """The paper's name."""
        return "SCAR"

    def fit(
        self,
        model: Model | Any,
        contrast: Contrast,  # noqa: ARG002
        site: Site | str | None = None,
    ) -> Plan:
        """The replacement as a plan at the SAE's site; the labels were spent in training.

        Raises:
            SaeError: the SAE does not say which latent was supervised.
            FeatureError: the latent lies outside the SAE.
            DimensionError: the SAE is of another width.
        """
        model = as_model(model)
        check_sae_site(model, site, self.sae)
        acts = [replace(self.sae), scale(self.sae, self._supervised(), self.factor)]
        return Plan(*acts, where=generated(), name=self.name)

    def _supervised(self) -> int:
        told = self.sae.metadata.get("supervised_latent")
        found = told if self.latent is None else self.latent
        if not isinstance(found, int):
            raise SaeError(
                f"SAE {self.sae.name} was trained without a supervised latent; train one with "
                "supervised: in its config (configs/sae/scar.yaml), or give latent=N."
            )
        return found
