"""Why gates were open or shut at a token, also where one before it had opened them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, final

from saesteer.steer.gate import SINCE, Explains, Gate, Proves, holding, proving
from saesteer.steer.records import PassRecord


@final
class Place(NamedTuple):
    """Where a token was computed: the pass, its row, and the column in it."""

    record: PassRecord
    row: int
    column: int

    def notes(self, gate: Gate) -> dict[str, Any]:
        """What a gate goes by there."""
        return next((notes for noted, notes in self.record.noted() if noted is gate), {})


Places = dict[int, Place]
"""The tokens of one row's text, by their logical positions."""
Title = Callable[[Place, int], str]
"""Names a token by where it was computed and its position."""


def places_in(text: Sequence[PassRecord], row: int) -> Places:
    """Where each of a row's tokens was computed last."""
    found: Places = {}
    for record in text:
        for index in record.live[row].nonzero().flatten().tolist():
            found[int(record.logical[row, index])] = Place(record, row, index)
    return found


def reasons(places: Places, position: int, title: Title) -> list[str]:
    """What each gate says of one token, if it can."""
    gates = [gate for gate, _ in places[position].record.noted()]
    told = (reason(gate, places, position, title) for gate in gates)
    return [text for text in told if text]


def reason(gate: Gate, places: Places, position: int, title: Title) -> str:
    """What one gate says of one token; nothing where it can't."""
    at, held = places[position], holding(gate)
    notes = at.notes(gate)
    if not notes or not isinstance(gate, Explains):
        return ""
    opened = _opening(gate, places, position)
    if held is not None and opened != position:
        since, inner = places[opened], held.gate
        told = [title(since, opened)]
        if isinstance(inner, Explains):
            told.append(inner.explain(since.notes(gate), since.row, since.column))
        notes = {**notes, SINCE: ": ".join(told)}
    return gate.explain(notes, at.row, at.column)


def deciding(places: Places, position: int) -> Iterator[tuple[Proves, dict[str, Any], Place]]:
    """The gates of rules at one token, each with what it went by, and where it did."""
    for gate, _ in places[position].record.noted():
        rules, at = proving(gate), places[_opening(gate, places, position)]
        if rules is not None and (notes := at.notes(gate)):
            yield rules, notes, at


def _opening(gate: Gate, places: Places, position: int) -> int:
    """The token that opened a gate that is held open at `position`, else the position itself."""
    held = holding(gate)
    if held is None:
        return position
    first = 0 if held.duration is None else max(0, position - held.duration + 1)
    for before in range(position, first - 1, -1):
        at = places.get(before)
        if at is not None and (notes := at.notes(gate)) and held.opens(notes, at.row, at.column):
            return before
    return position
