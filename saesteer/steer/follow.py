"""Gate states live on the cache whose text they remember, and move with its rows.

A cache is what identifies a text across passes: two conversations may take turns, a shared prefix
may be deep-copied, beams permute rows. So states hang on the cache object, its row operations are
wrapped on that one instance, and a deep copy of it carries its own states.
"""

from __future__ import annotations

import weakref
from typing import Any, final

import torch
from torch import Tensor

from saesteer.steer.gate import FollowsRows

_NAME = "_saesteer_states"
_WRAPPED = ("reorder_cache", "batch_repeat_interleave", "batch_select_indices")


@final
class CacheStates:
    """The gate states of one cache, by attachment and gate."""

    def __init__(self, cache: Any) -> None:
        self._cache = weakref.ref(cache)
        self._states: dict[int, dict[int, Any]] = {}
        self.batch = 0

    @staticmethod
    def on(cache: Any) -> CacheStates:
        """The states of `cache`; the first call wraps its row operations."""
        known = cache.__dict__.get(_NAME)
        if known is None:
            known = cache.__dict__[_NAME] = CacheStates(cache)
            for name in _WRAPPED:
                if hasattr(cache, name):
                    cache.__dict__[name] = getattr(known, name)
        return known

    @staticmethod
    def peek(cache: Any) -> CacheStates | None:
        """The states of `cache` if it has any."""
        return cache.__dict__.get(_NAME)

    def of(self, attachment: int) -> dict[int, Any] | None:
        """One attachment's states by gate, or None if it has none here."""
        return self._states.get(attachment)

    def put(self, attachment: int, states: dict[int, Any], batch: int) -> None:
        """Hang an attachment's states on the cache; the dict is kept, not copied."""
        self._states[attachment] = states
        self.batch = batch

    def drop(self, attachment: int) -> None:
        """Forget an attachment; the last one to go takes the wrappers with it."""
        self._states.pop(attachment, None)
        cache: Any = self._cache()
        if self._states or cache is None:
            return
        for name in (*_WRAPPED, _NAME):
            cache.__dict__.pop(name, None)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """The cache's own operation, then the same on the states."""
        cache: Any = self._cache()
        type(cache).reorder_cache(cache, beam_idx)
        self._select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """The cache's own operation, then the same on the states."""
        cache: Any = self._cache()
        type(cache).batch_repeat_interleave(cache, repeats)
        self._select(torch.arange(self.batch).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """The cache's own operation, then the same on the states."""
        cache: Any = self._cache()
        type(cache).batch_select_indices(cache, indices)
        self._select(indices)

    def _select(self, rows: Tensor) -> None:
        rows = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        self.batch = len(rows)
        for states in self._states.values():
            for state in states.values():
                if isinstance(state, FollowsRows):
                    state.select_rows(rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> CacheStates:
        """Copied along with its cache, which is in `memo` by then."""
        from copy import deepcopy

        cache: Any = self._cache()
        copied = CacheStates(memo.get(id(cache), cache))
        memo[id(self)] = copied
        copied._states, copied.batch = deepcopy(self._states, memo), self.batch
        return copied
