"""What a derived head does: one act, read from the rule file, becomes one edit of a plan.

Acts are data until `edit` meets an SAE, so a rule file can be checked without loading anything.

    careful: {clamp: 777, value: 6.0}              # hold a feature (or several) at a value
    careful: {scale: [12, 88], factor: 2.0}
    careful: {ablate: 12}
    careful: {add: 12, amount: 3.0}                # in latent units
    careful: {vector: calm.safetensors, site: resid_post.9}   # dense; scaled: true for units of ‖h‖
    careful: [{...}, {...}]                        # several acts
Each takes `strength` (default 1) and `where`: generated (default), prompt, all, last. `clamp` and
`add` take `unit`, the latent units that 1 stands for, such as a feature's maximum activation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, final

from saesteer.axes import Vector
from saesteer.errors import SaeError
from saesteer.models.sites import Site
from saesteer.rules.fields import Fields, vector_in
from saesteer.rules.syntax import Atom

if TYPE_CHECKING:
    from saesteer.saes.sae import SAE
    from saesteer.steer.intervention import Intervention
    from saesteer.steer.plan import Edit

Verb = Literal["clamp", "scale", "ablate", "add", "vector"]
AMOUNT_KEYS: dict[Verb, str | None] = {
    "clamp": "value",
    "scale": "factor",
    "ablate": None,
    "add": "amount",
    "vector": None,
}
PLACES = ("generated", "prompt", "all", "last")


@final
@dataclass(frozen=True, eq=False)
class Act:
    """One edit that happens where `head` holds.

    `amount` is what the verb's own key says (value, factor, amount); `features` is empty and
    `site` and `vector` are set for the verb `vector` only, where `scaled` means units of ‖h‖.
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

    def __str__(self) -> str:
        """`clamp feature 777, value 6`."""
        if self.verb == "vector":
            return f"{'add_scaled' if self.scaled else 'add'} a vector at {self.site}"
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
    common: dict[str, Any] = {
        "strength": fields.number("strength", 1.0),
        "where": fields.choice("where", PLACES, "generated"),
    }
    if verb == "vector":
        vector = vector_in(fields.tensors("vector", folder), "vector", f"{path}.vector", faults)
        common |= {"site": fields.site("site"), "scaled": fields.flag("scaled"), "vector": vector}
    else:
        common["features"] = fields.features(verb)
        key = AMOUNT_KEYS[verb]
        common["amount"] = 0.0 if key is None else fields.number(key)
        if verb in ("clamp", "add"):
            common["amount"] *= _unit(fields)
    fields.finish()
    return [Act(head, verb, **common)]


def _unit(fields: Fields) -> float:
    """What 1 means in latent units; 1 where the act doesn't say."""
    unit = fields.number("unit", 1.0)
    if not unit > 0:
        fields.fault("unit", unit, "a feature's maximum activation, more than 0")
    return unit
