"""What a model carries under plans: a frame per pass, a hook per site, weights as they were.

All plans on a model share it, so they may come and go in any order: edits of one site run in the
order in which their plans were attached, each reading what the one before left. Hooks steer every
thread that uses the model; frames and prompts are kept per thread, so that two of them may
generate at once.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, final, runtime_checkable

from torch import nn
from torch.utils.hooks import RemovableHandle

from saesteer.errors import PlanError
from saesteer.models import Model, Site, Weights
from saesteer.models.weights import Change
from saesteer.steer.calls import SteeredGenerate
from saesteer.steer.chats import Reader
from saesteer.steer.control import Control
from saesteer.steer.frame import Frame, Prompt, cache_in, read_frame
from saesteer.steer.ids import Ids
from saesteer.steer.loop import Controller
from saesteer.steer.scored import together
from saesteer.steer.site_hook import SiteHook, Visit
from saesteer.steer.steady import SteadySite

_SESSIONS: weakref.WeakKeyDictionary[nn.Module, Session] = weakref.WeakKeyDictionary()


@runtime_checkable
class Visitor(Controller, Protocol):
    """What a session drives: one attached plan."""

    sites: tuple[Site, ...]
    controls: Sequence[Control]
    ends: bool
    """Whether it must be told of the end of a pass; else no hook is there for it."""

    @property
    def weight_changes(self) -> Sequence[tuple[Change, float]]:
        """What it adds to weights, at which strength."""
        ...

    def begin(self, frame: Frame, cache: Any, before: Frame | None) -> None:
        """A pass starts; `before` is that of this thread's latest one, which is over."""

    def at(self, site: Site) -> Visit:
        """What is called whenever a pass reaches one of its sites."""
        ...

    def quick(self, site: Site) -> SteadySite | None:
        """What stands for that in passes where all it does at the site is to add a vector."""
        ...

    def pause(self) -> None:
        """Whatever pass is under way, the next site is visited, which sees that it may not act."""
        ...

    def end(self, frame: Frame, cache: Any) -> None:
        """The pass is over; `cache` is the one it returned."""


@final
class Session:
    """Frame capture and site hooks of one model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.visitors: list[Visitor] = []
        self.weights = Weights(model.hf)
        self._site_hooks: dict[Site, SiteHook] = {}
        self._handles: list[RemovableHandle] = []
        self._wrappers: list[SteeredGenerate] = []
        self._told: list[Prompt] = []
        self._scored: Prompt | None = None
        self._local = threading.local()
        self._latest: Frame | None = None
        self._paused = 0
        self._special = Ids(model.special_ids)
        self._decode = None if model.tokenizer is None else Reader(model.tokenizer)

    @property
    def active(self) -> bool:
        """Whether anything is attached and not paused."""
        return bool(self.visitors) and not self._paused

    @property
    def controllers(self) -> list[tuple[Controller, Control]]:
        """Plans that control decoding and what they do, in order."""
        return [(v, control) for v in self.visitors for control in v.controls]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that is to be said.

        Raises:
            PlanError: no tokenizer, or no token.
        """
        tokenizer = self.model.tokenizer
        ids = [] if tokenizer is None else tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise PlanError(
                f"{self.model.name} can't say {text!r}: it has no tokenizer, or no token for it."
            )
        return list(ids)

    @property
    def generating(self) -> bool:
        """Whether this thread is inside `generate`."""
        return getattr(self._local, "depth", 0) > 0

    @property
    def frame(self) -> Frame:
        """The frame of this thread's latest pass.

        A recomputation of activations during the backward pass may come from a thread without one.

        Raises:
            PlanError: a block was called outside a forward pass of the model.
        """
        frame = getattr(self._local, "frame", None) or self._latest
        if frame is None:
            raise PlanError(
                f"a block of {self.model.name} was called by itself; under a plan, call the model."
            )
        return frame

    def join(self, visitor: Visitor, owner: Any, prompt: Prompt | None) -> None:
        """Attach one plan; nothing stays behind if that fails.

        Args:
            owner: what the user holds; a bridge has a `generate` of its own, which is told too.
            prompt: given prompt lengths and dials, for passes outside `generate`.

        Raises:
            PlanError: another plan that is attached was given others.
        """
        try:
            self.visitors.append(visitor)
            self.weights.add(visitor, visitor.weight_changes)
            if prompt is not None:
                self._told.append(prompt)
                self._scored = together(self._told)
            self._install(ends=visitor.ends)
            self._wrap(self.model.hf)
            if hasattr(owner, "original_model"):
                self._wrap(owner)
            for site in visitor.sites:
                if site not in self._site_hooks:
                    self._site_hooks[site] = SiteHook(self, site)
                self._site_hooks[site].add(visitor, visitor.at(site), visitor.quick(site))
        except BaseException:
            self.leave(visitor, prompt)
            raise

    def leave(self, visitor: Visitor, prompt: Prompt | None) -> None:
        """Detach one plan; the last one to go takes every hook and wrapper with it."""
        self.visitors = [v for v in self.visitors if v is not visitor]
        self.weights.drop(visitor)
        self._told = [p for p in self._told if p is not prompt]
        self._scored = together(self._told)
        for site, hook in list(self._site_hooks.items()):
            if not hook.drop(visitor):
                del self._site_hooks[site]
        if not self.visitors:
            for handle in self._handles:
                handle.remove()
            for wrapper in self._wrappers:
                wrapper.remove()
            self._handles, self._wrappers, self._latest = [], [], None
            _SESSIONS.pop(self.model.hf, None)

    @contextmanager
    def call(self, prompt: Prompt | None) -> Iterator[None]:
        """The extent of one `generate`; without a prompt, its first pass is taken for one."""
        local = self._local
        local.depth, local.prompt = getattr(local, "depth", 0) + 1, prompt
        try:
            yield
        finally:
            local.depth -= 1
            local.prompt = None

    def _wrap(self, owner: Any) -> None:
        wrapped = any(known.owner is owner for known in self._wrappers)
        if not wrapped and hasattr(owner, "generate"):
            self._wrappers.append(SteeredGenerate(owner, self))

    def _install(self, *, ends: bool) -> None:
        base = self.model.layout.base
        if not self._handles:
            before = base.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True)
            self._handles.append(before)
        if ends and len(self._handles) == 1:
            self._handles.append(base.register_forward_hook(self._after, with_kwargs=True))

    def _before(self, _base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._paused or not self.visitors:
            return
        local = self._local.__dict__  # this thread's; each look at it by name costs a microsecond
        before: Frame | None = local.get("frame")
        frame = None
        if before is not None and before.prompt is self._prompt(local):
            frame = before.next_step(kwargs, self._special)
        frame = frame or self._read(args, kwargs, local)
        local["frame"] = self._latest = frame
        cache = cache_in(kwargs)
        for visitor in self.visitors:
            visitor.begin(frame, cache, before)

    def _read(self, args: tuple[Any, ...], kwargs: dict[str, Any], local: dict[str, Any]) -> Frame:
        """The frame of a pass; of a call whose prompt nobody told, the first pass is the prompt."""
        known = {"special": self._special, "decode": self._decode}
        frame = read_frame(args, kwargs, prompt=self._prompt(local), **known)
        if local.get("depth") and local["prompt"] is None and frame.first_pass:
            local["prompt"] = Prompt(frame.valid.sum(-1), frame.input_ids, frame.valid)
            frame = read_frame(args, kwargs, prompt=local["prompt"], **known)
        return frame

    def _after(self, _base: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not self.active:
            return
        cache = cache_in(kwargs)
        if cache is None and isinstance(output, Mapping):
            cache = cache_in(output)
        for visitor in self.visitors:
            visitor.end(self.frame, cache)

    def _prompt(self, local: dict[str, Any]) -> Prompt | None:
        return local["prompt"] if local.get("depth") else self._scored

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """Shared: a model that is deep-copied under a plan keeps its hooks until the plan goes."""
        return self


def session_of(model: Model) -> Session:
    """The model's session; a new one if no plan is attached."""
    return _SESSIONS.get(model.hf) or _SESSIONS.setdefault(model.hf, Session(model))


@contextmanager
def unsteered(model: Model) -> Iterator[None]:
    """Within it, whatever is attached to the model does nothing, in every thread."""
    session = _SESSIONS.get(model.hf)
    if session is None:
        yield
        return
    session._paused += 1
    for visitor in session.visitors:
        visitor.pause()
    try:
        with session.weights.paused():
            yield
    finally:
        session._paused -= 1
