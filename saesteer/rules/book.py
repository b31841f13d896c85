"""A rule book: concepts, rules and acts, checked as a whole before any model is loaded.

A rule file:

    sae: smollm2-135m-instruct/resid_post.9        # optional: the SAE that features belong to
    concepts:
      pain:    {feature: 1234, threshold: 2.5}
      urgent:  {features: {12: 0.7, 88: 0.3}, threshold: 1.0, aggregate: prompt, over: max}
      lively:  {vector: lively.safetensors, site: resid_post.9, threshold: 0.2}
      likely:  {probe: likely.safetensors, site: resid_post.9, threshold: 0.0}
      medical: {concept: concepts/medical}         # a folder of `saesteer concepts fit`
    open: [casual]                                 # optional: may be unknown; true: whatever can be
    rules: |
      careful :- pain, not casual.
    acts:
      careful: {clamp: 777, value: 6.0}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from saesteer.errors import ConfigError, RuleError
from saesteer.features.concepts import Concept
from saesteer.rules.acts import Act, read_acts
from saesteer.rules.compile import BooleanProgram
from saesteer.rules.concept_fields import check_since, read_concept
from saesteer.rules.fields import Fields
from saesteer.rules.grounded import GroundedProgram
from saesteer.rules.miss import NearMiss, near_miss
from saesteer.rules.names import check_defined, check_heads, leave_open, open_as
from saesteer.rules.open_ground import spell_out
from saesteer.rules.open_world import check_open, judge
from saesteer.rules.opened import OpenProgram, compile_open
from saesteer.rules.proof import Proof, closure, prove
from saesteer.rules.source import read_source
from saesteer.rules.stratify import stratify
from saesteer.rules.syntax import Atom, Origin, Program, parse

if TYPE_CHECKING:
    from saesteer.models.model import Model
    from saesteer.rules.gate import RuleGate
    from saesteer.rules.reading import RuleReading
    from saesteer.saes.sae import SAE
    from saesteer.steer.gate import Gate
    from saesteer.steer.plan import Plan


@final
@dataclass(frozen=True, eq=False)
class RuleBook:
    """Rules over concepts, and what their heads do; `sae` is the reference of a default SAE.

    Raises:
        RuleError: a cycle through negation.
    """

    program: Program
    concepts: tuple[Concept, ...] = ()
    acts: tuple[Act, ...] = ()
    sae: str | None = None
    name: str = "rules"

    def __post_init__(self) -> None:
        """Refuse what can't be ordered into strata, or left open."""
        stratify(self.program)
        if self.program.open:
            check_open(self.program)

    @classmethod
    def parse(cls, text: str, open: Iterable[str] = ()) -> RuleBook:
        """Rules alone, without concepts: every atom that no rule derives is a possible fact.

        Args:
            open: atoms that may be unknown, as under `open:` in a rule file; `p` also stands for
                every p(X).

        Raises:
            RuleError: with line and column, or open atoms without a clear meaning.
        """
        program = parse(text)
        return cls(open_as(program, map(Atom.parse, open), program.atoms))

    @classmethod
    def read(cls, path: str | Path) -> RuleBook:
        """Read a YAML rule file; paths in it are relative to its own folder.

        Raises:
            ConfigError: a missing or malformed file; all faults at once, each with its key.
            RuleError: rules that can't be parsed or name what is not defined.
        """
        path = Path(path)
        source = read_source(path)
        try:
            return _book(source.data, path.parent, path.stem, source.origin)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], *, folder: str | Path = ".", name: str = "rules"
    ) -> RuleBook:
        """Build from the same keys as a rule file has; see `read` for the errors."""
        return _book(raw, Path(folder), name, Origin())

    def closure(self, facts: Iterable[str]) -> set[str]:
        """Every atom that holds when exactly these facts are given; surely, if some are open.

        Raises:
            RuleError: a fact that is no atom.
        """
        program, given = self._told(facts)
        return {str(atom) for atom in closure(program, given)}

    def unknown(self, facts: Iterable[str]) -> set[str]:
        """Every atom that is neither true nor false then; none without open atoms.

        Raises:
            RuleError: a fact that is no atom.
        """
        if not self.program.open:
            return set()
        return set(map(str, judge(*self._told(facts)).unknown))

    def prove(self, atom: str, facts: Iterable[str]) -> Proof | None:
        """A derivation of `atom` from these facts, or None if it does not follow.

        Raises:
            RuleError: a name that is no atom.
        """
        program, given = self._told(facts)
        came = closure(program, given)
        goal = Atom.parse(atom)
        return prove(program, came, goal) if goal in came else None

    def why_not(self, atom: str, facts: Iterable[str]) -> NearMiss | None:
        """What is missing for `atom` when exactly these facts are given; None if it holds.

        Raises:
            RuleError: a name that is no atom.
        """
        program, given = self._told(facts)
        return near_miss(program, closure(program, given), Atom.parse(atom))

    def compile(self) -> BooleanProgram | GroundedProgram | OpenProgram:
        """The tensor program, or one that asks clingo, for variables and open atoms.

        Concepts come first.
        """
        names = [Atom.parse(concept.name) for concept in self.concepts]
        return compile_open(spell_out(self.program, names), names)

    def plan(self, sae: SAE | None = None, *, force: Mapping[str, bool] | None = None) -> Plan:
        """Each act open where its head holds; they share one evaluation a pass.

        Args:
            sae: where features live; by default the one that the rule file names.
            force: concepts that hold everywhere or nowhere, to see what would happen then; one
                that holds is as strong as it scores, and no less than its threshold.

        Raises:
            RuleError: the book has no acts.
            SaeError, FeatureError: features without an SAE, or outside it.
        """
        from saesteer.rules.gate import RuleGate
        from saesteer.steer import Plan

        if not self.acts:
            raise RuleError(
                f"{self.name} has no acts, so there is nothing to plan. "
                "Add acts:, or read it with evaluate()."
            )
        sae = self._sae(sae)
        rules = RuleGate.of(self, sae, force)
        gates = _gates(rules, self.acts)
        made = (part for act in self.acts for part in act.acts(sae, gates[_timing(act)]))
        return Plan(*made, name=self.name)

    def evaluate(
        self,
        model: Model,
        sae: SAE | None,
        text: str,
        *,
        force: Mapping[str, bool] | None = None,
    ) -> RuleReading:
        """What holds at each token of a text, read as a prompt, without steering anything.

        Args:
            force: concepts that hold everywhere or nowhere, as for `plan`.

        Raises:
            SaeError, FeatureError: features without an SAE, or outside it.
            DataError: a text without tokens, or with more than the model can read.
        """
        from saesteer.rules.reading import read_prompt

        return read_prompt(self, model, self._sae(sae), text, force)

    def lint(self) -> list[str]:
        """What the rules say without effect, one line each."""
        from saesteer.rules.lint import lint

        names = [concept.name for concept in self.concepts]
        names += [concept.of for concept in self.concepts if concept.of]
        found = lint(self.program, names, [act.head for act in self.acts])
        resets = {f"concept '{concept.of}' is read by no rule." for concept in self.concepts}
        return [line for line in found if line.partition(": ")[2] not in resets]

    def _told(self, facts: Iterable[str]) -> tuple[Program, list[Atom]]:
        """The facts, and the rules as they stand for them."""
        given = list(map(Atom.parse, facts))
        return spell_out(self.program, given), given

    def _sae(self, sae: SAE | None) -> SAE | None:
        if sae is not None or self.sae is None:
            return sae
        from saesteer.saes.load import load_sae

        return load_sae(self.sae)


def _timing(act: Act) -> tuple[Atom, bool, int | None, int]:
    return act.head, act.latch, act.duration, act.priority


def _gates(
    rules: RuleGate, acts: tuple[Act, ...]
) -> dict[tuple[Atom, bool, int | None, int], Gate]:
    """A gate for each head and timing, shut where one of higher priority is open."""
    from saesteer.rules.ranking import Outranked
    from saesteer.steer import latched

    heads = dict.fromkeys(act.head for act in acts)
    plain = {head: rules.head(head, alarms=i == 0) for i, head in enumerate(heads)}
    gates: dict[tuple[Atom, bool, int | None, int], Gate] = {}
    for act in acts:
        head = plain[act.head]
        held = act.latch or act.duration is not None
        gates.setdefault(_timing(act), latched(head, act.duration) if held else head)
    above = {key: tuple(g for k, g in gates.items() if k[-1] > key[-1]) for key in gates}
    return {k: Outranked(gate, above[k]) if above[k] else gate for k, gate in gates.items()}


def _book(raw: object, folder: Path, name: str, origin: Origin) -> RuleBook:
    faults: list[str] = []
    fields = Fields(raw, "", faults)
    named = Fields(fields.raw("concepts", None) or {}, "concepts", faults).left
    concepts = [read_concept(key, value, folder, faults) for key, value in named.items()]
    sae = fields.raw("sae", None)
    if not isinstance(sae, str | None):
        fields.fault("sae", sae, "the name or folder of an SAE")
    text = fields.raw("rules")
    if not isinstance(text, str):
        fields.fault("rules", text, "rules as text, under 'rules: |'")
        text = ""
    unsettled = _open(fields, faults)
    acting = Fields(fields.raw("acts", None) or {}, "acts", faults).left
    check_since(concepts, faults)
    acts = [a for k, v in acting.items() for a in read_acts(_head(k, faults), v, folder, faults)]
    fields.finish()
    if faults:
        raise ConfigError("; ".join(dict.fromkeys(faults)) + ".")
    names = [concept.name for concept in concepts]
    program = leave_open(parse(text, origin), unsettled, names)
    check_defined(program, names)
    check_heads(program, [_head(key, faults) for key in acting])
    return RuleBook(program, tuple(concepts), tuple(acts), sae, name)


def _open(fields: Fields, faults: list[str]) -> list[Atom] | None:
    """The atoms under `open:`, None for all of them."""
    given = fields.raw("open", False)
    if isinstance(given, bool):
        return None if given else []
    if not isinstance(given, list):
        fields.fault("open", given, "true, false or a list of atoms")
        return []
    return [_head(name, faults, "open") for name in given]


def _head(key: object, faults: list[str], where: str = "acts") -> Atom:
    try:
        return Atom.parse(str(key))
    except RuleError as error:
        faults.append(f"{where}: {str(error).rstrip('.')}")
        return Atom("unnamed")
