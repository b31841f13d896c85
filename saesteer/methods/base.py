"""The one seam through which every published method enters: `fit(model, contrast, site) -> Plan`.

A method is a frozen value: its fields are its settings, and whatever it needs beyond one contrast.
Fitting reads the train split (and, where a method chooses among candidates, the validation split),
never the test split, and leaves the model as it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from saesteer.axes import Vector
from saesteer.data.contrast import Contrast, Example, needs_contrast
from saesteer.errors import ConfigError, ContrastError, SiteError
from saesteer.features.activations import read_activations
from saesteer.methods.settings import check_settings
from saesteer.models.model import Model
from saesteer.models.sites import Site
from saesteer.saes import SAE, check_width
from saesteer.steer import Plan
from saesteer.steer.norms import typical_norm

Family = Literal["feature", "dense", "prompt", "rule", "plan", "control"]
"""What a method works with; the report's verdict and colours go by it."""

Side = Literal["negatives", "positives"]
"""The side of a contrast whose behaviour a method takes away."""

DOSE = 0.25
"""Share of the site's typical ‖h‖ that a direction is added at where its paper fixes no strength.

Papers tune a multiplier for each model, since raw lengths mean nothing across models and readouts:
on the embedded model the difference in means of the built-in pairs is but 6 % of ‖h‖. Looked at on
validation prompts for sentiment there: CAA moved them by 0.14 VADER more than random directions of
its KL at 0.06, 0.41 at 0.24 (0.17 nats) and 0.47 at 0.48 (0.69 nats); the best feature by 0.37,
0.46 and 0.22 at 0.15, 0.25 and 0.4. A start, as the default site is: a plan's strength moves it."""
ROUNDING = 1e-5
"""Share of a norm below which two fp32 activations are the same: batches of other shapes round
differently."""


@dataclass(frozen=True)
class Method(ABC):
    """One way to steer, ready to be fitted to a contrast.

    Attributes:
        source: where it was published.
        needs: what it is fitted to, in a few words.
        family: what it works with.
        has_strength: whether its dose may be swept; without, it is one point of a comparison.
        takes_site: whether it acts where `fit` is told to; without, where its SAE reads, or at
            places that it chooses itself.
    """

    source: ClassVar[str]
    needs: ClassVar[str]
    family: ClassVar[Family]
    has_strength: ClassVar[bool] = True
    takes_site: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        """Let every method's `fit` look at its contrast first."""
        super().__init_subclass__()
        if "fit" in vars(cls):
            cls.fit = needs_contrast(cls.fit)

    def __post_init__(self) -> None:
        """Check every setting's type; see `check_settings`.

        Raises:
            ConfigError: another type or word, no finite number, or a count below 1.
        """
        check_settings(self)

    @property
    @abstractmethod
    def name(self) -> str:
        """What tables and plots call it; the paper's name where there is one."""

    @abstractmethod
    def fit(self, model: Model | Any, contrast: Contrast, site: Site | str | None = None) -> Plan:
        """A plan that steers towards the contrast's positives.

        Methods that take a behaviour away take the negatives' away unless told otherwise.

        Args:
            model: a `Model`, or anything that `as_model` takes.
            site: where to act; a default of the method's own for None.

        Raises:
            SiteError: the model has no such site, or the method's SAE belongs to another.
            ContrastError: the contrast has no usable train split.
        """


def default_site(model: Model) -> Site:
    """The residual stream after a third of the blocks: layer 9 of 30.

    It is where the SAE of the embedded model lies, so dense methods and features act on one place;
    for another model it is a start, not a finding: try others.
    """
    return Site(max(model.n_layers // 3 - 1, 0), "resid_post")


def check_optional_site(model: Model, site: Site | str | None) -> None:
    """For a method that acts at sites of its own: a wrong `site` is still a mistake.

    Raises:
        SiteError: the model has no such site.
    """
    if site is not None:
        model.check_site(site)


def check_sae_site(model: Model, site: Site | str | None, *saes: SAE) -> None:
    """For a method that acts where its SAE reads: they fit the model, and one is of `site`.

    Raises:
        SiteError: the model has no such site, or no SAE is of it.
        DimensionError: an SAE is of another width.
    """
    check_optional_site(model, site)
    for sae in saes:
        check_width(sae, model)
    if site is not None and model.check_site(site) not in [sae.site for sae in saes]:
        own = " and ".join(f"SAE {sae.name} is of {sae.site}" for sae in saes)
        raise SiteError(
            f"site is {site}, but {own}, and features act where their SAE reads; leave site out, "
            f"or give an SAE of {site}."
        )


def site_or_default(model: Model, site: Site | str | None) -> Site:
    """`site`, checked against the model, or the default.

    Raises:
        SiteError: the model has no such site.
    """
    return model.check_site(default_site(model) if site is None else site)


def sites_or_default(model: Model, site: Site | str | None, layers: Sequence[int]) -> list[Site]:
    """`layers` at the kind of `site` or of the default; without layers, that site alone.

    Raises:
        SiteError: the model has no such site.
    """
    place = site_or_default(model, site)
    return [model.check_site(Site(layer, place.kind)) for layer in layers] or [place]


def difference_in_means(model: Model, contrast: Contrast, site: Site) -> Vector:
    """Mean activation of the train positives less that of the negatives, in the model's scale.

    Each example counts once, as the mean over its own text's tokens, outliers left out.

    Raises:
        ContrastError: the labels are the same at this site, so there is no direction.
    """
    train = contrast.split("train")
    positive, negative = (_mean(model, side, site) for side in (train.positives, train.negatives))
    vector = positive - negative
    if not float(vector.norm()) > ROUNDING * float(positive.norm()):
        raise ContrastError(
            f"{contrast.name}: positives and negatives have the same mean at {site}, so there is "
            "no direction between them; check that their texts differ."
        )
    return vector


def read_contrast(ref: Contrast | str) -> Contrast:
    """A contrast in a method's settings: itself, or what `Contrast.read` makes of its name.

    Raises:
        ContrastError: no such file or built-in, or one that can't be used.
    """
    return Contrast.read(ref) if isinstance(ref, str) else ref


def dosed(model: Model, site: Site, vector: Vector, dose: float | None) -> Vector:
    """`vector` as long as `dose` times the site's typical norm; as it is for None.

    Raises:
        ConfigError: a dose that is not positive.
    """
    if dose is None:
        return vector
    if not dose > 0:
        raise ConfigError(f"dose is {dose}, expected a share of ‖h‖ above 0, or None.")
    return of_norm(vector, dose * typical_norm(model, site))


def of_norm(vector: Vector, norm: float) -> Vector:
    """The same direction at another Euclidean norm."""
    return functional.normalize(vector.float(), dim=0) * norm


def _mean(model: Model, examples: tuple[Example, ...], site: Site) -> Tensor:
    rows = read_activations(model, examples, site, drop_outliers=True)
    return torch.stack([row.mean(0) for row in rows if len(row)]).mean(0)
