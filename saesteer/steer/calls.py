"""The wrapper on one model instance's `generate`, which is where prompts end and answers begin.

Only the outermost call counts: assisted decoding and custom loops call `generate` again inside.
`pipeline` and `Model.generate` go through it too.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.steer.control import rewinding
from saesteer.steer.decoding import refuse_uncontrolled, row_of, together
from saesteer.steer.frame import Prompt
from saesteer.steer.loop import Loop

if TYPE_CHECKING:
    from saesteer.steer.session import Session

_BATCHING = "init_continuous_batching"
"""What `generate_batch` and servers of it go through before they start a thread of their own."""


class GenerateWrapper(ABC):
    """Stands in for `owner.generate` from its making until `remove`.

    Wrappers may lie on one another and go in any order. One that somebody else has wrapped in turn
    can't be taken out, so it must change nothing once whom it is for has gone.

    Args:
        whose: what it tells of each call, which a deep copy of the owner takes along.
    """

    def __init__(self, owner: Any, whose: Any) -> None:
        self.owner, self.whose = owner, whose
        self.original, self._replaced = owner.generate, owner.__dict__.get("generate")
        functools.update_wrapper(self, self.original, updated=())
        owner.__dict__["generate"] = self

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate."""

    def remove(self) -> None:
        """Put back what it stands for, or hand that to the wrapper that lies on it."""
        own = self.owner.__dict__
        above = own.get("generate")
        if above is self:
            del own["generate"]
            if self._replaced is not None:
                own["generate"] = self._replaced
        while isinstance(above, GenerateWrapper):
            if above._replaced is self:
                above.original, above._replaced = self.original, self._replaced
            above = above._replaced

    def __deepcopy__(self, memo: dict[int, Any]) -> GenerateWrapper:
        """For a model that is deep-copied under a plan: generates with the copy."""
        copied = memo[id(self)] = copy(self)
        copied.owner, copied.whose = (deepcopy(part, memo) for part in (self.owner, self.whose))
        copied.original, copied._replaced = type(copied.owner).generate.__get__(copied.owner), None
        return copied


@final
class SteeredGenerate(GenerateWrapper):
    """The wrapper while plans are attached.

    `owner` is a Hugging Face model, or a bridge around it, whose own loop takes text as well: its
    prompt is then read from the call's first pass.
    """

    whose: Session

    def __init__(self, owner: Any, whose: Session) -> None:
        super().__init__(owner, whose)
        if hasattr(type(owner), _BATCHING):
            owner.__dict__[_BATCHING] = self.continuous

    def remove(self) -> None:
        """Also what `continuous` stands for."""
        super().remove()
        self.owner.__dict__.pop(_BATCHING, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate, telling the session where the prompts end."""
        session = self.whose
        if not session.active or session.generating:
            return self.original(*args, **kwargs)
        if session.controllers:
            return self._controlled(args, kwargs)
        if hasattr(self.owner, "original_model"):
            with session.call(None):
                return self.original(*args, **kwargs)
        _refuse(kwargs, self.owner)
        with session.call(read_prompt(self.owner, args, kwargs)):
            return self.original(*args, **_uncompiled(kwargs))

    def continuous(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for `owner.init_continuous_batching`.

        Raises:
            PlanError: a plan is attached.
        """
        if self.whose.active:
            raise PlanError(
                "generate_batch packs rows together (continuous batching), so they can't be "
                "steered; call generate."
            )
        return getattr(type(self.owner), _BATCHING)(self.owner, *args, **kwargs)

    def _controlled(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call with plans' own loop in it; row by row where tokens may be taken back."""
        if hasattr(self.owner, "original_model") or len(args) > 1:
            raise PlanError(
                "a plan that controls decoding needs transformers' own generate, with options by "
                "name; call generate of the Model or of the Hugging Face model."
            )
        _refuse(kwargs, self.owner)
        kwargs = _uncompiled(refuse_uncontrolled(kwargs))
        ids = args[0] if args else kwargs.pop("inputs", kwargs.pop("input_ids", None))
        if ids is None:
            raise PlanError("a plan that controls decoding needs input_ids to start from.")
        alone = rewinding([control for _, control in self.whose.controllers])
        if alone and kwargs.get("streamer") is not None:
            raise PlanError("a streamer can't unsay tokens that are taken back; leave it out.")
        copies = int(_value(self.owner, kwargs, "num_return_sequences") or 1)
        if not alone or len(ids) * copies == 1:
            return self._loop({**kwargs, "input_ids": ids}, 0)
        prompt = read_prompt(self.owner, (ids,), kwargs)
        assert prompt.mask is not None
        mask, ids = (t.repeat_interleave(copies, 0) for t in (prompt.mask, ids))
        parts = [self._loop(row_of(row, ids, mask, kwargs), row) for row in range(len(ids))]
        pad = next(iter(_setting(self.owner, kwargs, "pad_token_id")), 0)
        return together(parts, ids, mask.sum(-1).tolist(), pad)

    def _loop(self, kwargs: dict[str, Any], first_row: int) -> Any:
        session = self.whose
        prompt, streamer = read_prompt(self.owner, (), kwargs), kwargs.get("streamer")
        loop = Loop(session.controllers, prompt, session.encode, first_row, streamer)
        with session.call(prompt):
            return self.original(**kwargs, custom_generate=loop)


def read_prompt(hf: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prompt:
    """What `generate` was given, read as `generate` itself reads it."""
    ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    embeds, mask = kwargs.get("inputs_embeds"), kwargs.get("attention_mask")
    eos, pad = (_setting(hf, kwargs, name) for name in ("eos_token_id", "pad_token_id"))
    stop_ids = tuple(dict.fromkeys([*eos, *pad])) if eos else ()
    tokens = embeds if embeds is not None else ids
    if tokens is None:
        return Prompt(torch.ones(1, dtype=torch.long), stop_ids=stop_ids)
    if mask is None and embeds is None:
        mask = _inferred_mask(ids, eos, pad)
    if mask is None:
        mask = torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    whole = ids if ids is not None and ids.shape == mask.shape else None
    return Prompt((mask > 0).sum(-1), whole, mask > 0, stop_ids)


def _inferred_mask(ids: Tensor, eos: tuple[int, ...], pad: tuple[int, ...]) -> Tensor | None:
    """Padding that `generate` recognises by itself: only where the pad token is not an eos."""
    if not pad or pad[0] in eos:
        return None
    return (ids != pad[0]).long()


def _value(hf: Any, kwargs: Mapping[str, Any], name: str) -> Any:
    """A setting from the call, its config, or the model's, in that order."""
    if name in kwargs:
        return kwargs[name]
    given = getattr(kwargs.get("generation_config"), name, None)
    own = getattr(getattr(hf, "generation_config", None), name, None)
    return given if given is not None else own


def _setting(hf: Any, kwargs: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """The same for token ids."""
    value = _value(hf, kwargs, name)
    return () if value is None else tuple(int(v) for v in torch.as_tensor(value).flatten())


def _refuse(kwargs: Mapping[str, Any], hf: Any) -> None:
    """Calls whose passes are not of the prompts' rows."""
    config = kwargs.get("generation_config") or getattr(hf, "generation_config", None)
    guidance = kwargs.get("guidance_scale", getattr(config, "guidance_scale", None))
    if guidance is not None and guidance != 1:
        raise PlanError(
            "classifier-free guidance runs a second, unprompted text through the model, which "
            "would be steered as well; leave guidance_scale out."
        )
    if kwargs.get("cache_implementation") == "paged":
        raise PlanError("a paged cache packs rows together; leave cache_implementation out.")


def _uncompiled(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Static caches on a GPU make `generate` compile the model, and compiled code ignores hooks."""
    config = kwargs.get("generation_config")
    if config is None:
        return {**kwargs, "disable_compile": True}
    config = copy(config)
    config.disable_compile = True
    return {**kwargs, "generation_config": config}
