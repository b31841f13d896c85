"""A plan: acts in an explicit order, as a value that can be scaled, joined, saved and attached.

Attaching is the only thing that touches a model, and leaving it, also by an exception, puts
everything back. Plans on one model nest; each reads what those attached before it left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from saesteer.errors import OutputError, PlanError
from saesteer.files import path_of
from saesteer.models import Model, as_model
from saesteer.shown import shown
from saesteer.steer.checks import check_plan, common_stamp
from saesteer.steer.compiled import CompiledPlan
from saesteer.steer.control import Control
from saesteer.steer.edit import Edit, finite_strength
from saesteer.steer.engine import Attachment
from saesteer.steer.gate import Always, Gate
from saesteer.steer.intervention import Intervention
from saesteer.steer.prompts import PromptEdit
from saesteer.steer.schedule import DialRow
from saesteer.steer.scored import Lengths, refuse_unsteerable, scored_prompt
from saesteer.steer.session import session_of
from saesteer.steer.trace import Trace
from saesteer.steer.weights import WeightEdit
from saesteer.steer.where import Where, generated

Act = Edit | WeightEdit | Control | PromptEdit


@final
@dataclass(frozen=True, eq=False)
class Live:
    """One attachment of a plan and what undoes it."""

    model: Model
    trace: Trace
    undo: Callable[[], None]


@final
@shown
@dataclass(frozen=True, eq=False, init=False)
class Plan:
    """What to do to a model.

    Attributes:
        edits: acts on activations, in order.
        weight_edits: acts on weights, at every position; undone to the last bit.
        controls: acts on decoding, in order.
        prompt_edits: acts on prompts, in order; like controls they have no strength, but strength
            0 drops them.
        strength: multiplies every Δh and ΔW; at 0 nothing at all is installed.
        stamp: fingerprints of the model it was saved for, if it was.
    """

    edits: tuple[Edit, ...] = ()
    weight_edits: tuple[WeightEdit, ...] = ()
    controls: tuple[Control, ...] = ()
    prompt_edits: tuple[PromptEdit, ...] = ()
    strength: float = 1.0
    name: str = "plan"
    stamp: dict[str, str] = field(default_factory=dict, repr=False)
    _live: list[Live] = field(default_factory=list, repr=False)

    def __init__(
        self,
        *acts: Intervention | Act,
        where: Where | None = None,
        gate: Gate | None = None,
        strength: int | float = 1.0,
        prompt: PromptEdit | None = None,
        name: str = "plan",
        stamp: dict[str, str] | None = None,
    ) -> None:
        """Build a plan; `where` (default `generated()`) and `gate` are for bare interventions.

        Raises:
            PlanError: an act of an unknown kind, or a strength that is not finite.
        """
        made = [_as_act(act, where, gate) for act in (*acts, *([prompt] if prompt else []))]
        values = {
            "edits": tuple(act for act in made if isinstance(act, Edit)),
            "weight_edits": tuple(act for act in made if isinstance(act, WeightEdit)),
            "controls": tuple(act for act in made if isinstance(act, Control)),
            "prompt_edits": tuple(act for act in made if isinstance(act, PromptEdit)),
            "strength": finite_strength(strength),
            "name": name,
            "stamp": dict(stamp or {}),
            "_live": [],
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @property
    def acts(self) -> tuple[Act, ...]:
        """All of them, kind by kind."""
        return (*self.edits, *self.weight_edits, *self.controls, *self.prompt_edits)

    @contextmanager
    def on(
        self,
        model: Any,
        prompt_lengths: Lengths | None = None,
        dials: Sequence[DialRow] | None = None,
    ) -> Iterator[Trace]:
        """Steer `model` (a Model, Hugging Face module or bridge) within the block.

        Args:
            prompt_lengths: real tokens of each row's prompt, for text that is scored, not
                generated; one number for all rows, or one each, the same for all plans on it.
            dials: the `trace.dials` of those rows, for text that this plan has generated: dials
                stand as they stood then, not at their start.

        Raises:
            SiteError, DimensionError, PlanError: the model can't carry the plan out, or another
                plan on it was given other lengths or dials.
        """
        live = self._install(model, prompt_lengths, dials)
        try:
            yield live.trace
        finally:
            live.undo()

    def attach(
        self,
        model: Any,
        prompt_lengths: Lengths | None = None,
        dials: Sequence[DialRow] | None = None,
    ) -> Trace:
        """Steer `model` until `detach`; arguments and errors as for `on`."""
        live = self._install(model, prompt_lengths, dials)
        self._live.append(live)
        return live.trace

    def detach(self, model: Any = None) -> None:
        """Undo the latest `attach`, or the latest one to `model`.

        Raises:
            PlanError: the plan is not attached.
        """
        wanted = None if model is None else as_model(model)
        for live in reversed(self._live):
            if wanted is None or live.model is wanted:
                self._live.remove(live)
                live.undo()
                return
        raise PlanError(f"{self.name} is not attached; attach it first.")

    def compiled(self, model: Any, prompt_lengths: Lengths | None = None) -> CompiledPlan:
        """The plan as permanent hooks that `torch.compile` sees; put them on before compiling.

        The strength is a buffer: `set_strength` turns it without compiling again.

        Raises:
            SiteError, DimensionError, PlanError: the model, or a compiled form, can't carry it out.
        """
        return CompiledPlan(self, model, prompt_lengths)

    def with_strength(self, strength: int | float) -> Plan:
        """The same plan at another strength.

        Raises:
            PlanError: it is not finite.
        """
        return Plan(*self.acts, strength=strength, name=self.name, stamp=self.stamp)

    def __mul__(self, factor: int | float) -> Plan:
        """The plan at `factor` times its strength."""
        return self.with_strength(self.strength * factor)

    __rmul__ = __mul__

    def __neg__(self) -> Plan:
        """The plan at minus its strength; controls have no sign and stay.

        Raises:
            PlanError: it edits prompts, which has no opposite.
        """
        if self.prompt_edits and self.strength:
            raise PlanError(f"{self.name} edits prompts, and that can't be negated; leave it out.")
        return self * -1.0

    def __sub__(self, other: Plan) -> Plan:
        """Both plans' acts in one plan, the other's at minus their strength."""
        return self + -other

    def __radd__(self, other: int) -> Plan:
        """The plan itself for the 0 that `sum` starts from."""
        return self if other == 0 else NotImplemented

    def named(self, name: str) -> Plan:
        """The same plan under another name."""
        return Plan(*self.acts, strength=self.strength, name=name, stamp=self.stamp)

    def __add__(self, other: Plan | object) -> Plan:
        """Both plans' acts in one plan, this one's first; strengths move into the edits.

        Raises:
            PlanError: they were saved for different models.
        """
        if not isinstance(other, Plan):
            return NotImplemented
        acts = [act for plan in (self, other) for act in plan._at_strength_one()]
        return Plan(*acts, name=f"{self.name} + {other.name}", stamp=common_stamp(self, other))

    def save(self, folder: str | Path, model: Any = None) -> None:
        """Write `manifest.json` and `tensors.safetensors` into `folder`.

        Args:
            model: what the plan is for; its weights' and tokenizer's fingerprints go along.

        Raises:
            PlanError: a part that can't be saved, such as a gate of unknown kind.
            OutputError: the folder can't be written, or holds something else.
        """
        from saesteer.steer.store import save_plan

        save_plan(self, path_of(folder, OutputError), None if model is None else as_model(model))

    @staticmethod
    def load(folder: str | Path, model: Any = None) -> Plan:
        """Read a saved plan, from a folder or the hub, or a file of another library.

        Args:
            folder: what `save` wrote; `hub:owner/name[@revision]`; or a file that
                `steer.exchange.read_plan` reads (`.gguf`, `.pt`, `.csv`).
            model: what it is meant for; checked against the fingerprints it was saved with.

        Raises:
            PlanError: missing, damaged, of an unknown kind, or made for another model.
            SiteError, DimensionError: the model can't carry it out.
        """
        from saesteer.steer.exchange import fetch_plan, read_plan
        from saesteer.steer.store import load_plan

        wanted = None if model is None else as_model(model)
        if str(folder).startswith("hub:"):
            return fetch_plan(str(folder), wanted)
        path = path_of(folder, PlanError)
        if not path.is_file():
            return load_plan(path, wanted)
        plan = read_plan(path)
        if wanted is not None:
            check_plan(plan, wanted)
        return plan

    def _at_strength_one(self) -> list[Act]:
        """Acts that do the same in a plan of strength 1."""
        scaled: list[Act] = [
            replace(act, strength=act.strength * self.strength)
            for act in (*self.edits, *self.weight_edits)
        ]
        return [*scaled, *((*self.controls, *self.prompt_edits) if self.strength else ())]

    def _install(
        self, target: Any, prompt_lengths: Lengths | None, dials: Sequence[DialRow] | None
    ) -> Live:
        model = as_model(target)
        refuse_unsteerable(model)
        attachment = Attachment(self, model)
        acts = attachment.sites or attachment.weight_changes or self.controls or self.prompt_edits
        if not self.strength or not acts:
            return Live(model, attachment.trace, lambda: None)
        if self.prompt_edits and not isinstance(target, Model):
            raise PlanError(
                f"{self.name} edits prompts, which only Model.generate can do; "
                "wrap the model with load_model(...) and call its generate."
            )
        prompt, session = scored_prompt(prompt_lengths, dials), session_of(model)
        edits = [act.apply for act in self.prompt_edits]
        session.join(attachment, target, prompt)
        model.prompt_edits.extend(edits)

        def undo() -> None:
            session.leave(attachment, prompt)
            attachment.close()
            left = [e for e in model.prompt_edits if not any(e is mine for mine in edits)]
            model.prompt_edits[:] = left

        return Live(model, attachment.trace, undo)


def _as_act(act: Any, where: Where | None, gate: Gate | None) -> Act:
    match act:
        case Control(gate=own) if not isinstance(own, Gate):
            raise PlanError(f"{act.label}: its gate is a {type(own).__name__}, expected a gate.")
        case Edit() | WeightEdit() | Control() | PromptEdit():
            return act
        case Intervention():
            return Edit(act, where or generated(), gate or Always())
        case _:
            kinds = "interventions, edits of activations, weights and prompts, controls of decoding"
            raise PlanError(f"a plan is made of {kinds}; got a {type(act).__name__}.")
