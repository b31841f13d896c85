"""`saesteer rules ...`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from saesteer.cli.common import DEFAULT_MODEL, check_json, write_json

if TYPE_CHECKING:
    from saesteer.rules import RuleBook
    from saesteer.saes import SAE
    from saesteer.steer import Plan


def check(args: argparse.Namespace) -> None:
    """Read a rule file, build its gate and plan, and print its rules."""
    from saesteer.rules import RuleBook
    from saesteer.rules.gate import RuleGate

    check_json(args)
    book = RuleBook.read(args.rules)
    sae = _sae(args, book)
    RuleGate.of(book, sae)
    plan, warnings = _plan(book, sae), book.lint()
    result = {
        "concepts": [concept.name for concept in book.concepts],
        "rules": [str(rule) for rule in book.program.rules],
        "edits": len(plan.edits),
        "acts": len(plan.acts),
        "warnings": warnings,
    }
    write_json(args, result)
    told = [*result["rules"], *(f"warning: {warning}" for warning in warnings)]
    print("\n".join([*told, f"{len(result['concepts'])} concepts, no faults."]))


def explain(args: argparse.Namespace) -> None:
    """What a prompt makes the rules conclude, why, and what the model then says."""
    from saesteer.files import write_text
    from saesteer.models import load_model
    from saesteer.rules import RuleBook
    from saesteer.rules.picture import proof_page

    check_json(args)
    book = RuleBook.read(args.rules)
    sae = _sae(args, book)
    name = args.model or (sae.model_name if sae is not None else "") or DEFAULT_MODEL
    model = load_model(name, device=args.device)
    reading = book.evaluate(model, sae, args.prompt)
    plain = model.generate(args.prompt, max_new_tokens=args.max_new_tokens)
    with _plan(book, sae).on(model) as trace:
        steered = model.generate(args.prompt, max_new_tokens=args.max_new_tokens)
        last = trace.explain(token=-1) if book.acts else f"{book.name} has no acts, so none acted."
    result = {
        **reading.as_dict(),
        "unsteered": plain,
        "steered": steered,
        "explained": last,
        "trace": trace.summary(),
        "last_proofs": [proof.as_dict() for proof in trace.proofs()] if trace.passes else [],
    }
    write_json(args, result)
    if args.html is not None:
        titled = [(f"token {t} {reading.tokens[t]!r}", p.as_dict()) for t, p in reading.proofs()]
        write_text(Path(args.html), proof_page(titled))
    print(reading)
    print(f"\nunsteered: {plain}\nsteered:   {steered}\n\nlast token: {last}")


def whatif(args: argparse.Namespace) -> None:
    """What changes in conclusions and answer when concepts are forced on or off."""
    from saesteer.errors import RuleError
    from saesteer.models import load_model
    from saesteer.rules import RuleBook
    from saesteer.rules.gate import RuleGate

    check_json(args)
    book = RuleBook.read(args.rules)
    sae = _sae(args, book)
    force = dict.fromkeys(args.on, True) | dict.fromkeys(args.off, False)
    if both := [name for name in args.on if name in args.off]:
        raise RuleError(f"{both[0]!r} can't be forced on and off; leave out one of them.")
    RuleGate.of(book, sae, force)
    name = args.model or (sae.model_name if sae is not None else "") or DEFAULT_MODEL
    model = load_model(name, device=args.device)
    result: dict[str, dict[str, object]] = {}
    for key, forced in (("as_read", {}), ("forced", force)):
        reading = book.evaluate(model, sae, args.prompt, force=forced)
        with _plan(book, sae, forced).on(model):
            said = model.generate(args.prompt, max_new_tokens=args.max_new_tokens)
        result[key] = {"holds": reading.holds, "alarms": reading.alarms, "answer": said}
        print(f"{key.replace('_', ' ')}\n{reading}\nanswer: {said}\n")
    write_json(args, result)


def _plan(book: RuleBook, sae: SAE | None, force: Mapping[str, bool] | None = None) -> Plan:
    """The book's plan; an empty one if it only concludes."""
    from saesteer.steer import Plan

    return book.plan(sae, force=force) if book.acts else Plan(name=book.name)


def _sae(args: argparse.Namespace, book: object) -> SAE | None:
    from saesteer.saes import load_sae

    ref = args.sae or getattr(book, "sae", None)
    return load_sae(ref) if isinstance(ref, str) else ref
