"""The one hook at a site, in which all plans that edit or read it take turns."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, final

from torch import Tensor, nn

from saesteer.errors import PlanError
from saesteer.models import Site, install
from saesteer.models.hooks import output_hook
from saesteer.steer.frame import Frame
from saesteer.steer.steady import SteadySite

if TYPE_CHECKING:
    from saesteer.steer.session import Session

Visit = Callable[[Tensor, Frame], Tensor | None]
"""What a plan does at one site in one pass; a returned tensor replaces the activation."""


@final
class SiteHook:
    """Shows the activation to each plan in turn, in the order in which they were attached.

    A sole plan that adds one vector there is spared most of that in the passes of an answer: a
    decoding step streams all weights through the processor's caches, so that every object touched
    behind a layer comes from memory, and `at_output` touches as few as will do.
    """

    __slots__ = (
        "_fitting",
        "_handle",
        "_only",
        "_otherwise",
        "_quick",
        "_session",
        "_site",
        "_visits",
    )

    def __init__(self, session: Session, site: Site) -> None:
        self._session, self._site = session, site
        self._visits: list[tuple[object, Visit, SteadySite | None]] = []
        self._only: Visit | None = None
        self._quick: SteadySite | None = None
        self._fitting: Tensor | None = None
        point = session.model.layout.point(site)
        self._otherwise = output_hook(self)
        if point.is_output:
            self._handle = point.module.register_forward_hook(self.at_output, prepend=True)
        else:
            self._handle = install(point, self, prepend=True)

    def add(self, owner: object, visit: Visit, quick: SteadySite | None) -> None:
        """Let one more plan visit the site."""
        self._take([*self._visits, (owner, visit, quick)])

    def drop(self, owner: object) -> bool:
        """Forget a plan; False when none is left and the hook is gone."""
        self._take([visit for visit in self._visits if visit[0] is not owner])
        if not self._visits:
            self._handle.remove()
        return bool(self._visits)

    def at_output(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The module's forward hook."""
        quick = self._quick
        if quick is not None and (now := quick.answers.now) is not None:
            places, shelved = now
            added = quick.added
            if (
                added is not None
                and output.__class__ is Tensor
                and output.dtype is quick.dtype
                and output.is_cpu
                and quick.answers.thread == get_ident()
            ):
                places[quick.place].copy_(output)
                shelved.append((quick.place, added))
                return output + added.vector
        return self(output) if output.__class__ is Tensor else self._otherwise(module, args, output)

    def __call__(self, resid: Tensor) -> Tensor | None:
        """Show it to each plan; what one returns replaces it."""
        session = self._session
        if session._paused or not self._visits:
            return None
        frame = session.frame
        if (valid := frame.places.valid) is not self._fitting:
            self._check(resid, valid)
        if self._only is not None:
            return self._only(resid, frame)
        current = resid
        for _, visit, _ in self._visits:
            new = visit(current, frame)
            current = current if new is None else new
        return None if current is resid else current

    def __deepcopy__(self, memo: dict[int, Any]) -> SiteHook:
        """Shared, as its session is."""
        return self

    def _check(self, resid: Tensor, valid: Tensor) -> None:
        """Rows and positions must be those of the pass; decoding steps share one `valid`."""
        if resid.shape[:-1] != valid.shape:
            raise PlanError(
                f"{self._site}: got shape {list(resid.shape)}, expected {list(valid.shape)} and a "
                "width; this model's site has no rows to steer."
            )
        self._fitting = valid

    def _take(self, visits: list[tuple[object, Visit, SteadySite | None]]) -> None:
        self._visits = visits
        self._only, self._quick = visits[0][1:] if len(visits) == 1 else (None, None)
