"""Read ahead in a thread, so that the model works while the SAE learns.

What is saved is the place behind the last chunk that was taken out, not the last one read: chunks
that wait in the queue at a crash are read again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from saesteer.data.sources import Chunk, Source

_POLL_SECONDS = 0.2


@final
class Prefetched:
    """A source that keeps up to `depth` chunks ready; same chunks, same order.

    The thread starts with the first chunk asked for and ends with the source or with `close`. An
    error in it is raised where the chunk would have been, however often it is asked for.
    """

    def __init__(self, source: Source, depth: int = 2) -> None:
        self._source = source
        self._queue: queue.Queue[tuple[Chunk | BaseException | None, dict[str, Any]]]
        self._queue = queue.Queue(depth)
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._reading = threading.Lock()
        self._state = source.state()

    def next_chunk(self) -> Chunk | None:
        """The next chunk; None at the end."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, daemon=True, name="prefetch")
            self._thread.start()
        item, state = self._queue.get()
        if not isinstance(item, Chunk):
            self._queue.put((item, state))  # the thread has ended: there will be no other
        if isinstance(item, BaseException):
            raise item
        self._state = state
        return item

    def state(self) -> dict[str, Any]:
        """The place behind the last chunk taken out."""
        return self._state

    def restore(self, state: dict[str, Any]) -> None:
        """Drop what was read ahead and go to `state`."""
        self.close()
        self._source.restore(state)
        self._state = state

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is read for the extent of a `with`, so that what the source uses is free."""
        with self._reading:
            yield

    def close(self) -> None:
        """End the thread and drop what it read; only `restore` makes the source usable again."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self._thread = None
        while not self._queue.empty():
            self._queue.get_nowait()
        self._closing.clear()

    def _read(self) -> None:
        while not self._closing.is_set():
            try:
                with self._reading:
                    item: Chunk | BaseException | None = self._source.next_chunk()
            except BaseException as error:  # raised again in the consumer's thread
                item = error
            self._offer(item)
            if not isinstance(item, Chunk):
                return

    def _offer(self, item: Chunk | BaseException | None) -> None:
        entry = (item, self._source.state())
        while not self._closing.is_set():
            try:
                self._queue.put(entry, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return
