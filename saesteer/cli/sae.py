"""`saesteer sae ...`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from saesteer.cli.common import (
    Progress,
    check_json,
    check_out,
    load_pair,
    model_of,
    show_table,
    write_json,
)
from saesteer.cli.sae_tables import TABLES
from saesteer.errors import OutputError
from saesteer.files import path_of


def evaluate(args: argparse.Namespace) -> None:
    """Score an SAE on text, and on concepts, letters and by sae-lens where asked for."""
    from saesteer.evals.concept_eval import read_concepts

    check_json(args)
    contrasts = None if args.concepts is None else read_concepts(args.concepts)
    model, sae = load_pair(args)
    result = _scores(args, model, sae)
    if contrasts is not None:
        result["concepts"] = _concepts(args, model, sae, contrasts)
    if args.first_letters:
        result["first_letters"] = _letters(args, model, sae)
    if args.sae_lens:
        result["sae_lens"] = _lens(args, model, sae)
    write_json(args, result)
    _show(result)


def average(args: argparse.Namespace) -> None:
    """Save the mean of SAEs that were trained from one start, with their L0."""
    import torch

    from saesteer.metrics.outliers import usual_rows
    from saesteer.saes import average_saes, check_average, load_sae, save_sae
    from saesteer.saes.convert import scores_of

    check_json(args)
    _check_new(args.out)
    saes = [load_sae(sae) for sae in args.saes]
    check_average(saes, args.weights)
    model = model_of(args, saes[0])
    saes = [sae.to(device=model.device) for sae in saes]
    rows = usual_rows(torch.cat(list(_activations(args, model, saes[0]).values())))
    averaged = average_saes(saes, args.weights, rows)
    save_sae(averaged, args.out, extra_metadata={"averaged": len(saes)})
    scores = [scores_of(sae, rows) for sae in (*saes, averaged)]
    result = [
        {"sae": sae, "l0": score.l0, "fvu_per_token": score.fvu_per_token}
        for sae, score in zip((*args.saes, args.out), scores, strict=True)
    ]
    write_json(args, {"sae": args.out, "scores": result})
    show_table(result)


def level(args: argparse.Namespace) -> None:
    """Give each latent a threshold of its own and save the SAE."""
    from saesteer.saes import check_levels, level_thresholds, save_sae

    check_json(args)
    _check_new(args.out)
    model, sae = load_pair(args)
    check_levels(sae, args.l0)
    kinds = _activations(args, model, sae)
    with Progress("levelling", quiet=args.quiet) as progress:
        levelled, rows = level_thresholds(sae, kinds, args.l0, progress=progress)
    save_sae(levelled, args.out)
    result = [{"text": path, **row._asdict()} for path, row in rows.items()]
    write_json(args, {"sae": args.out, "levels": result})
    show_table(result)


def path(args: argparse.Namespace) -> None:
    """Print the folder of an SAE."""
    from saesteer.saes import sae_path

    check_json(args)
    folder = sae_path(args.sae)
    write_json(args, {"folder": str(folder)})
    print(folder)


def _check_new(out: str) -> None:
    """Refuse a folder that holds an SAE."""
    from saesteer.saes.lens_format import CFG_NAME

    if (path_of(out, OutputError) / CFG_NAME).exists():
        raise OutputError(f"{out} already holds an SAE; choose another folder.")


def _activations(args: argparse.Namespace, model: Any, sae: Any) -> dict[str, Any]:
    """Activations at the SAE's site by path of text; paths and `--out` are looked at first."""
    from saesteer.data.sources import Columns, ModelSource, first_rows
    from saesteer.data.tokens import TokenStream
    from saesteer.models.limits import check_context

    check_context(model, args.context)
    columns = Columns.of(model, [sae.site])
    streams = {
        path: TokenStream([path], model.tokenizer, context=args.context, text_field=args.field)
        for path in args.text
    }
    check_out(args.out)
    found = {}
    for path, stream in streams.items():
        with Progress(f"reading {path}", quiet=args.quiet) as progress:
            source = ModelSource(model, columns, stream)
            found[path] = first_rows(source, args.max_tokens, progress)
    return found


def _scores(args: argparse.Namespace, model: Any, sae: Any) -> dict[str, Any]:
    """The figures on text, and the tokens that each path gave."""
    from saesteer.data.text import iterate_texts
    from saesteer.evals.rows import bos_of, rows_by_path
    from saesteer.evals.sae_eval import evaluate_rows

    texts = iterate_texts(args.text, args.field)
    by_path = rows_by_path(model, texts, args.max_tokens, args.context)
    rows = [row for of_path in by_path.values() for row in of_path]
    with Progress("sae eval", quiet=args.quiet) as progress:
        scores = evaluate_rows(model, sae, rows, progress=progress)
    n_bos = len(bos_of(model))
    counts = {path: sum(len(row) - n_bos for row in rows) for path, rows in by_path.items()}
    return {**scores.to_dict(), "texts": counts}


def _concepts(args: argparse.Namespace, model: Any, sae: Any, contrasts: Any) -> dict[str, Any]:
    from saesteer.evals.concept_eval import evaluate_concepts

    with Progress("concepts", quiet=args.quiet) as progress:
        return evaluate_concepts(model, sae, contrasts, progress=progress).to_dict()


def _letters(args: argparse.Namespace, model: Any, sae: Any) -> dict[str, Any]:
    from saesteer.evals.first_letters import first_letters

    with Progress("first letters", quiet=args.quiet) as progress:
        return first_letters(model, sae, progress=progress).to_dict()


def _lens(args: argparse.Namespace, model: Any, sae: Any) -> dict[str, Any]:
    from saesteer.data.text import iterate_texts
    from saesteer.evals.lens_eval import lens_agreement

    texts = iterate_texts(args.text, args.field)
    limits = {"max_tokens": args.max_tokens, "context": args.context}
    with Progress("sae-lens", quiet=args.quiet) as progress:
        return lens_agreement(model, sae, texts, **limits, progress=progress).to_dict()


def _show(result: Mapping[str, Any]) -> None:
    """Every table that the result has rows for, a line between them."""
    for n, rows in enumerate(filter(None, (table(result) for table in TABLES))):
        if n:
            print()
        show_table(rows)
