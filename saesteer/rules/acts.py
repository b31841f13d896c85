"""What a derived head does: one act, read from the rule file, becomes one edit of a plan.

Acts are data until `edit` meets an SAE, so a rule file can be checked without loading anything.

    careful: {clamp: 777, value: 6.0}              # hold a feature (or several) at a value
    careful: {scale: [12, 88], factor: 2.0}
    careful: {ablate: 12}
    careful: {add: 12, amount: 3.0}                # in latent units
    careful: {vector: calm.safetensors, site: resid_post.9}   # dense; scaled: true for units of ‖h‖
    careful: {plan: calm/}                         # a saved plan, open where the head holds
    unsafe: {refuse: "I can't help with that."}    # then: stop (default) or continue
    unsafe: {stop: true}
    unsafe: {backtrack: 8, limit: 3}               # tokens taken back, times a row
    unsafe: {report: "weapons came up"}            # changes nothing
    careful: [{...}, {...}]                        # several acts
Edits take `strength` (default 1) and `where`: generated (default), prompt, all, last; `clamp` and
`add` also `unit`, the latent units that 1 stands for (a feature's maximum activation, say). Every
act takes `latch: true` (once open, open for the rest of the text), `duration: N` (for N tokens) and
`priority` (default 0): where an act of higher priority is open, those below it are shut.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, final

from saesteer.axes import Vector
from saesteer.errors import PlanError, SaeError
from saesteer.models.sites import Site
from saesteer.rules.fields import Fields, vector_in
from saesteer.rules.terms import Atom

if TYPE_CHECKING:
    from saesteer.saes.sae import SAE
    from saesteer.steer.control import Control
    from saesteer.steer.intervention import Intervention
    from saesteer.steer.plan import Edit

Verb = Literal[
    "clamp", "scale", "ablate", "add", "vector", "plan", "refuse", "stop", "backtrack", "report"
]
AMOUNT_KEYS: dict[Verb, str | None] = {
    "clamp": "value",
    "scale": "factor",
    "ablate": None,
    "add": "amount",
    "vector": None,
    "plan": None,
    "refuse": None,
    "stop": None,
    "backtrack": None,
    "report": None,
}
CONTROLS = ("refuse", "stop", "backtrack", "report")
PLACES = ("generated", "prompt", "all", "last")


@final
@dataclass(frozen=True, eq=False)
class Act:
    """What happens where `head` holds: one edit, one act on decoding, or a saved plan's edits.

    `amount` is what the verb's own key says (value, factor, amount; tokens to take back);
    `features` is empty and `site` and `vector` are set for the verb `vector` only, where `scaled`
    means units of ‖h‖. `text` is what is said or reported, `folder` where a plan lies.
    """

    head: Atom
    verb: Verb
    features: tuple[int, ...] = ()
    amount: float = 0.0
    site: Site | None = None
    vector: Vector | None = None
    scaled: bool = False
    strength: float = 1.0
    where: str = "generated"
    text: str = ""
    then: Literal["stop", "continue"] = "stop"
    limit: int = 3
    folder: Path | None = None
    latch: bool = False
    duration: int | None = None
    priority: int = 0

    def __str__(self) -> str:
        """`clamp feature 777, value 6`."""
        if self.verb == "vector":
            return f"{'add_scaled' if self.scaled else 'add'} a vector at {self.site}"
        match self.verb:
            case "plan":
                return f"the plan in {self.folder}"
            case "refuse" | "report":
                return f'{self.verb} "{self.text}"'
            case "stop":
                return "stop"
            case "backtrack":
                return f"take back {self.amount:g} tokens"
            case _:
                pass
        names = ", ".join(map(str, self.features))
        key = AMOUNT_KEYS[self.verb]
        amount = "" if key is None else f", {key} {self.amount:g}"
        return f"{self.verb} feature{'s'[: len(self.features) != 1]} {names}{amount}"

    def intervention(self, sae: SAE | None) -> Intervention:
        """The intervention of the steering engine that this act asks for.

        Raises:
            SaeError: it edits features and no SAE was given.
            FeatureError: the SAE has no such feature.
        """
        from saesteer import steer

        if self.site is not None and self.vector is not None:
            return (steer.add_scaled if self.scaled else steer.add)(self.site, self.vector)
        if sae is None:
            raise SaeError(
                f"the act of {self.head} edits features but no SAE was given. "
                "Pass one, or name it under sae: in the rule file."
            )
        features = list(self.features)
        match self.verb:
            case "clamp":
                return steer.clamp(sae, features, self.amount)
            case "scale":
                return steer.scale(sae, features, self.amount)
            case "ablate":
                return steer.ablate(sae, features)
            case _:
                return steer.feature_add(sae, features, self.amount)

    def acts(self, sae: SAE | None, gate: Any) -> tuple[Edit | Control, ...]:
        """What a plan holds for this act, open where `gate` is.

        Raises:
            SaeError, FeatureError: as for `intervention`.
            PlanError: a saved plan that can't be read, or holds more than edits without gates.
        """
        from saesteer import steer
        from saesteer.rules.ranking import Report

        match self.verb:
            case "refuse":
                return (steer.Refuse(self.text, self.then, gate=gate),)
            case "stop":
                return (steer.Stop(gate=gate),)
            case "backtrack":
                return (steer.Backtrack(int(self.amount), self.limit, gate=gate),)
            case "report":
                return (Report(self.text, gate=gate),)
            case "plan":
                return self._saved(gate)
            case _:
                return (self.edit(sae, gate),)

    def _saved(self, gate: Any) -> tuple[Edit, ...]:
        from saesteer import steer

        assert self.folder is not None, "a plan act has a folder"
        plan = steer.Plan.load(self.folder)
        gated = any(not isinstance(edit.gate, steer.Always) for edit in plan.edits)
        if gated or len(plan.edits) < len(plan.acts):
            raise PlanError(
                f"{self.folder} holds more than edits of activations without gates, so no rule "
                "can open it as a whole; save its edits alone."
            )
        strength = plan.strength * self.strength
        return tuple(replace(e, gate=gate, strength=e.strength * strength) for e in plan.edits)

    def edit(self, sae: SAE | None, gate: Any) -> Edit:
        """The same as one edit of a plan, open where `gate` is."""
        from saesteer import steer

        wheres = {
            "generated": steer.generated,
            "prompt": steer.prompt,
            "all": steer.all,
            "last": steer.last,
        }
        return steer.Edit(
            self.intervention(sae), where=wheres[self.where](), gate=gate, strength=self.strength
        )


def read_acts(head: Atom, raw: object, folder: Path, faults: list[str]) -> list[Act]:
    """The acts that a rule file gives one head; faults are collected, not raised."""
    path = f"acts.{head}"
    if isinstance(raw, list):
        named = enumerate(raw)
        return [act for i, r in named for act in _read_act(head, r, f"{path}.{i}", folder, faults)]
    return _read_act(head, raw, path, folder, faults)


def _read_act(head: Atom, raw: object, path: str, folder: Path, faults: list[str]) -> list[Act]:
    fields = Fields(raw, path, faults)
    verb = cast("Verb | None", fields.one_of(AMOUNT_KEYS))
    if verb is None:
        return []
    timing = _timing(fields)
    if verb in CONTROLS:
        own = _control(fields, verb)
    elif verb == "plan":
        own = {"folder": _folder(fields, folder), "strength": fields.number("strength", 1.0)}
    else:
        own = _edit(fields, verb, folder)
    fields.finish()
    return [Act(head, verb, **own, **timing)]


def _timing(fields: Fields) -> dict[str, Any]:
    """Latch, duration and priority."""
    timing: dict[str, Any] = {"latch": fields.flag("latch"), "duration": None, "priority": 0}
    for key, least in (("duration", 1), ("priority", None)):
        if key in fields:
            timing[key] = fields.whole(key, least)
    if timing["latch"] and timing["duration"] is not None:
        fields.faults.append(f"{fields.path} has latch and duration; expected one of them")
    return timing


def _control(fields: Fields, verb: Verb) -> dict[str, Any]:
    match verb:
        case "stop":
            if not fields.flag("stop"):
                fields.fault("stop", False, "true")
            return {}
        case "backtrack":
            limit = fields.whole("limit", 1) if "limit" in fields else 3
            return {"amount": float(fields.whole("backtrack", 1)), "limit": limit}
        case _:
            text = fields.raw(verb)
            if not isinstance(text, str) or not text:
                fields.fault(verb, text, "a text")
            own = {"text": str(text)}
            if verb == "refuse":
                own["then"] = fields.choice("then", ("stop", "continue"), "stop")
            return own


def _folder(fields: Fields, folder: Path) -> Path:
    name = fields.raw("plan")
    # not Path.is_dir, which raises for names that are too long
    if not isinstance(name, str) or not os.path.isdir(folder / name):
        fields.fault("plan", name, "the folder of a saved plan")
    return folder / str(name)


def _edit(fields: Fields, verb: Verb, folder: Path) -> dict[str, Any]:
    common: dict[str, Any] = {
        "strength": fields.number("strength", 1.0),
        "where": fields.choice("where", PLACES, "generated"),
    }
    if verb == "vector":
        tensors, path = fields.tensors("vector", folder), f"{fields.path}.vector"
        vector = vector_in(tensors, "vector", path, fields.faults)
        return common | {
            "site": fields.site("site"),
            "scaled": fields.flag("scaled"),
            "vector": vector,
        }
    features, key = fields.features(verb), AMOUNT_KEYS[verb]
    amount = 0.0 if key is None else fields.number(key)
    if verb in ("clamp", "add"):
        amount *= _unit(fields)
    return common | {"features": features, "amount": amount}


def _unit(fields: Fields) -> float:
    """What 1 means in latent units; 1 where the act doesn't say."""
    unit = fields.number("unit", 1.0)
    if not unit > 0:
        fields.fault("unit", unit, "a feature's maximum activation, more than 0")
    return unit
