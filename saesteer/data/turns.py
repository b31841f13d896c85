"""Texts of several paths, side by side: whoever reads only some of them reads some of every path.

Unlike `TokenStream`, which packs full rows for training, this keeps texts and their ends apart.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from saesteer.data.text import Part, Texts, open_part
from saesteer.errors import DataError

Cut = Callable[[str], Iterable[list[int]]]
OPEN_FILES = 64
"""Files of one path that are read side by side; the tokens of what is begun stay in memory."""
_NO_PATH = Part(0, "", "")


class Piece(NamedTuple):
    """Some tokens of a text, where it is from, and its number among the texts begun so far."""

    part: Part
    text: int
    ids: list[int]


def pieces_in_turn(texts: Iterable[str], cut: Cut) -> Iterator[Piece]:
    """What `cut` makes of each text.

    The next piece is of the path of `iterate_texts` that has given the fewest tokens, and of that
    path's file which has, of 64 at a time; one that ends early leaves its share to the others.
    Texts of no path are read one after the other.

    Raises:
        DataError: something else than texts, or one that can't be read.
    """
    numbers = itertools.count()
    if not isinstance(texts, Texts):
        return _pieces(_NO_PATH, [texts] if isinstance(texts, str) else texts, cut, numbers)
    files = [
        [_pieces(part, open_part(part.name, texts.field), cut, numbers) for part in source]
        for source in texts.sources
    ]
    return _in_turn([_in_turn(of_path, OPEN_FILES) for of_path in files], len(files))


def _pieces(part: Part, texts: Iterable[str], cut: Cut, numbers: Iterator[int]) -> Iterator[Piece]:
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"{repr(text)[:60]} is no text: give strings; a chat is none.")
        number = next(numbers)
        for ids in cut(text):
            yield Piece(part, number, ids)


def _in_turn(sources: Iterable[Iterator[Piece]], n_open: int) -> Iterator[Piece]:
    """A piece of whichever of `n_open` has given the fewest tokens, the first of equals; another
    opens where one ends."""
    waiting = enumerate(sources)
    queue = [(0, rank, source) for rank, source in itertools.islice(waiting, n_open)]
    while queue:
        n_tokens, rank, source = heapq.heappop(queue)
        piece = next(source, None)
        if piece is not None:
            yield piece
            heapq.heappush(queue, (n_tokens + len(piece.ids), rank, source))
        elif (another := next(waiting, None)) is not None:
            heapq.heappush(queue, (0, *another))
