"""The one seam of methods that read: `rank(model, contrast) -> Ranking`, places with scores.

They choose where to steer and change nothing. A place is a site, and where the method looks closer
one coordinate of it (a feature, a neuron) or a token position, counted from the prompt's end so
that prompts of any length share it: -1 is the last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, final

from saesteer.data.contrast import Contrast, needs_contrast
from saesteer.models.model import Model
from saesteer.models.sites import Site


@final
@dataclass(frozen=True)
class Place:
    """One place and what a method makes of it.

    Attributes:
        index: the feature, neuron or coordinate, where the site is narrowed to one.
        position: from the prompt's end, where it is narrowed to one.
        p_value: chance of such a score without an effect, where the method tests for it.
        exact: the same quantity measured, where the score is an estimate that was checked.
    """

    site: Site
    score: float
    index: int | None = None
    position: int | None = None
    p_value: float | None = None
    exact: float | None = None

    def __str__(self) -> str:
        """`resid_post.9`, `neurons.3[17]`, `attn_out.2@-1`."""
        index = "" if self.index is None else f"[{self.index}]"
        return f"{self.site}{index}{'' if self.position is None else f'@{self.position}'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what a method doesn't fill is left out."""
        named = {"place": str(self), **asdict(self), "site": str(self.site)}
        return {key: value for key, value in named.items() if value is not None}


@final
@dataclass(frozen=True)
class Ranking:
    """Places, best first; `unit` says what a score counts and which way is better."""

    method: str
    unit: str
    places: tuple[Place, ...]

    @classmethod
    def of(
        cls, method: str, unit: str, places: Iterable[Place], *, by_size: bool = True
    ) -> Ranking:
        """Places in order of their score, or of its absolute value where both signs count."""
        ordered = sorted(places, key=lambda p: -(abs(p.score) if by_size else p.score))
        return cls(method, unit, tuple(ordered))

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Place:
        return self.places[index]

    def top(self, n: int) -> Ranking:
        """The first `n`."""
        return Ranking(self.method, self.unit, self.places[:n])

    def score(self, place: str) -> float:
        """The score of a place by its name, such as `resid_post.9`.

        Raises:
            KeyError: it is not among them.
        """
        return {str(p): p.score for p in self.places}[place]

    def __str__(self) -> str:
        """A line per place."""
        lines = [f"{place!s:24} {place.score:+.4g}" for place in self.places]
        return "\n".join([f"{self.method}: {self.unit}", *lines])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        places = [place.to_dict() for place in self.places]
        return {"method": self.method, "unit": self.unit, "places": places}


@dataclass(frozen=True)
class Localizer(ABC):
    """One way to rank places, ready to be run on a contrast.

    Attributes:
        source: where it was published.
        needs: what it reads, in a few words.
    """

    source: ClassVar[str]
    needs: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Let every `rank` look at its contrast first."""
        super().__init_subclass__()
        if "rank" in vars(cls):
            cls.rank = needs_contrast(cls.rank)

    @abstractmethod
    def rank(self, model: Model | Any, contrast: Contrast) -> Ranking:
        """Places of the model by what they do for, or know of, the contrast.

        Args:
            model: a `Model`, or anything that `as_model` takes; left as it was.

        Raises:
            SiteError: the model has no such site.
            DataError: the contrast's texts can't be used by this method.
        """
