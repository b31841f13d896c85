"""What a plan did: where, how much, and why; cheap enough to leave on.

Hooks only append small tensors; nothing is read back from the device until somebody asks. Counts
are of positions computed, so text generated without a cache counts a position once per pass. With
beams, rows are those of each pass and don't follow a hypothesis through reorderings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor

from saesteer.errors import PlanError
from saesteer.metrics.outliers import OUTLIER_FACTOR
from saesteer.models.sites import Site
from saesteer.steer.gate import Gate, proving
from saesteer.steer.late_norms import LateNorms, settle
from saesteer.steer.reasons import Place, Places, deciding, places_in, reason, reasons
from saesteer.steer.records import Deed, Event, PassRecord
from saesteer.steer.schedule import DialRow


@final
class Trace:
    """The record of one attachment of a plan; it outlives the attachment.

    Attributes:
        labels: one text per edit of the plan, in its order.
        throughout: the same for acts that have no position, such as changed weights.
        passes: what happened, pass by pass.
        events: what controls of decoding did, in order.
        dials: what each generated row's dials stood at, in order, for `Plan.on(dials=...)`; of
            plans that control decoding only.
        late: norms of activations that nobody has asked for yet.
    """

    def __init__(
        self, labels: Sequence[str] = (), decode: Any = None, throughout: Sequence[str] = ()
    ) -> None:
        self.labels, self.throughout = tuple(labels), tuple(throughout)
        self.passes: list[PassRecord] = []
        self.events: list[Event] = []
        self.dials: list[DialRow] = []
        self.late = LateNorms()
        self._decode = decode

    def __repr__(self) -> str:
        told = "".join(f"; throughout: {act}" for act in self.throughout)
        return f"<Trace: {self.n_edited} of {self.n_positions} positions edited{told}>"

    def clear(self) -> None:
        """Forget everything so far."""
        self.late.settle()
        settle(self.passes)  # the latest may be under way
        self.passes.clear()
        self.events.clear()
        self.dials.clear()

    @property
    def n_positions(self) -> int:
        """Real positions of unfinished rows that went through the model."""
        return sum(int(p.live.sum()) for p in self.passes)

    @property
    def n_edited(self) -> int:
        """Those at which at least one edit acted."""
        return sum(int(_any(list(p.touched.values())).sum()) for p in self.passes if p.touched)

    @property
    def fired(self) -> dict[str, int]:
        """Positions at which each edit acted, by label."""
        counts = dict.fromkeys(self.labels, 0)
        for deed in self._deeds():
            counts[self.labels[deed.edit]] += int(deed.mask.sum())
        return counts

    def dose(self, site: Site | str | None = None) -> float:
        """Relative dose: mean ‖Δh‖/‖h‖ over edited positions and sites, outliers out; 0 if none.

        Args:
            site: count this one alone.

        Raises:
            SiteError: its name can't be read.
        """
        parts, only = [], None if site is None else Site.parse(site)
        for p in self.passes:
            moved = {s: size for s, size in p.moved.items() if only in (None, s)}
            parts.append(self._ratios(moved, p.touched, p.norms))
        return _mean(parts)

    def edit_dose(self, edit: int) -> float:
        """The same for one edit alone, by its place in the plan.

        Raises:
            PlanError: the plan has no such edit.
        """
        if edit not in range(len(self.labels)):
            raise PlanError(
                f"edit {edit!r} does not exist; the plan has {len(self.labels)}, from 0."
            )
        ratios = []
        for p in self.passes:
            deeds = [deed for deed in p.deeds if deed.edit == edit]
            moved = {deed.site: deed.norm for deed in deeds}
            ratios.append(self._ratios(moved, {d.site: d.mask for d in deeds}, p.norms))
        return _mean(ratios)

    def summary(self) -> dict[str, Any]:
        """Figures that JSON can hold: positions, edited positions, dose, and the same per edit."""
        counts = [0] * len(self.labels)
        for deed in self._deeds():
            counts[deed.edit] += int(deed.mask.sum())
        edits = [
            {"edit": label, "n_edited": counts[i], "dose": self.edit_dose(i)}
            for i, label in enumerate(self.labels)
        ]
        return {
            "n_positions": self.n_positions,
            "n_edited": self.n_edited,
            "dose": self.dose(),
            "edits": edits,
            **({"events": [asdict(event) for event in self.events]} if self.events else {}),
            **({"throughout": list(self.throughout)} if self.throughout else {}),
        }

    def explain(self, token: int = -1, row: int = 0) -> str:
        """What acted at one token of the latest text, how strongly, and why.

        Args:
            token: index among the row's real tokens, prompt included; negative from the last one
                that the model has read (the newest generated token has not been read yet).
            row: row of the latest batch.

        Raises:
            PlanError: the latest text has no such row or token.
        """
        if not self.passes:
            return "nothing was recorded: no pass has run with this plan, or its strength is 0."
        places, position = self._locate(token, row)
        lines = [self._title(places[position], position)]
        lines += self._acts(places[position])
        lines += reasons(places, position, self._title)
        lines += [str(e) for e in self.events if (e.row, e.position) == (row, position)]
        return "\n".join(dict.fromkeys(lines))

    def proofs(self, token: int = -1, row: int = 0) -> list[Any]:
        """The proof of each gate of rules at one token; arguments and errors as for `explain`.

        A gate that is held open there is proved at the token that opened it. Each proof has
        `as_dict`, which makes JSON values of it.
        """
        decided = deciding(*self._locate(token, row))
        return [gate.proof(notes, at.row, at.column) for gate, notes, at in decided]

    def reason(self, gate: Gate, row: int, position: int) -> str:
        """Why one gate was open at a token of the latest text; nothing if it can't say."""
        places = places_in(self._latest_text(), row)
        return reason(gate, places, position, self._title) if position in places else ""

    def why_not(self, atom: str, token: int = -1, row: int = 0) -> Any:
        """What an atom of the plan's rules misses at one token; None if it holds there.

        Raises:
            PlanError: no such row or token, or no gate of the plan is one of rules.
            RuleError: the rules have no such atom.
        """
        places, position = self._locate(token, row)
        at = places[position]
        for gate, notes in at.record.noted():
            if (rules := proving(gate)) is not None and notes:
                return rules.why_not(notes, row, at.column, atom)
        raise PlanError(f"why_not: no rules were evaluated at token {token}. Attach rules first.")

    def _deeds(self) -> Iterator[Deed]:
        return (deed for p in self.passes for deed in p.deeds)

    def _ratios(
        self, moved: dict[Site, Tensor], touched: dict[Site, Tensor], norms: dict[Site, Tensor]
    ) -> Tensor:
        parts = [torch.zeros(0)]
        for site, size in moved.items():
            keep = touched[site] & (norms[site] <= OUTLIER_FACTOR * self._median(site))
            keep = keep & (norms[site] > 0)
            parts.append((size[keep] / norms[site][keep]).float().cpu())
        return torch.cat(parts)

    def _median(self, site: Site) -> float:
        """Median ‖h‖ at a site over everything recorded there."""
        seen = [
            p.norms[site][p.live.to(p.norms[site].device)].cpu()
            for p in self.passes
            if site in p.norms
        ]
        chosen = torch.cat(seen)
        return float(chosen.median()) if chosen.numel() else float("inf")

    def _locate(self, token: int, row: int) -> tuple[Places, int]:
        """Where the latest text was computed, and the logical position of one of its tokens."""
        text = self._latest_text()
        rows = min((len(record.live) for record in text), default=row + 1)
        if row >= rows:
            raise PlanError(f"row {row}: the latest batch has rows 0-{rows - 1}.")
        places = places_in(text, row)
        ordered = sorted(places)
        if not -len(ordered) <= token < len(ordered):
            raise PlanError(
                f"token {token}: the latest text has {len(ordered)} tokens in row {row}."
            )
        return places, ordered[token]

    def _latest_text(self) -> list[PassRecord]:
        starts = [i for i, p in enumerate(self.passes) if p.start == 0]
        return self.passes[starts[-1] if starts else 0 :]

    def _title(self, at: Place, position: int) -> str:
        part, (record, row, index) = "", at
        if record.prompt_lengths is not None:
            part = " of the prompt" if position < int(record.prompt_lengths[row]) else ", generated"
        if record.input_ids is None or self._decode is None:
            return f"token {position}{part}"
        return f"token {position} {self._decode([int(record.input_ids[row, index])])!r}{part}"

    def _acts(self, at: Place) -> list[str]:
        acts, (record, row, index) = [], at
        for deed in record.deeds:
            if bool(deed.mask[row, index]):
                dose = float(deed.norm[row, index] / record.norms[deed.site][row, index])
                acts.append(f"{self.labels[deed.edit]}, dose {dose:.3g}")
        acts += [f"{label}, at every token" for label in self.throughout]
        return acts or ["no edit acted here"]


def _any(masks: list[Tensor]) -> Tensor:
    """Where any of the masks is True; they may lie on different devices."""
    return torch.stack([mask.to(masks[0].device) for mask in masks]).any(0)


def _mean(parts: list[Tensor]) -> float:
    ratios = torch.cat([torch.zeros(0), *parts])
    return float(ratios.mean()) if ratios.numel() else 0.0
