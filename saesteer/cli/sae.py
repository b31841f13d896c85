"""`saesteer sae ...`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from saesteer.cli.common import Progress, check_json, load_pair, show_table, write_json


def evaluate(args: argparse.Namespace) -> None:
    """Score an SAE on text."""
    from saesteer.data.text import iterate_texts
    from saesteer.evals.sae_eval import evaluate_sae

    check_json(args)
    model, sae = load_pair(args)
    texts = iterate_texts(args.text, args.field)
    with Progress("sae eval", quiet=args.quiet) as progress:
        scores = evaluate_sae(
            model, sae, texts, max_tokens=args.max_tokens, context=args.context, progress=progress
        ).to_dict()
    write_json(args, scores)
    density = scores.pop("density")
    show_table([{"score": name, "value": value} for name, value in scores.items()])
    show_table(_density_rows(density))


def path(args: argparse.Namespace) -> None:
    """Print the folder of an SAE."""
    from saesteer.saes import sae_path

    check_json(args)
    folder = sae_path(args.sae)
    write_json(args, {"folder": str(folder)})
    print(folder)


def _density_rows(density: dict[str, Any]) -> list[Mapping[str, Any]]:
    """Latents by log10 of the share of tokens on which they fire, empty bins left out."""
    edges = density["log10_edges"]
    bins = zip(edges, edges[1:], density["counts"], strict=False)
    return [
        {"log10 frequency": f"{low:.2f} to {high:.2f}", "latents": count}
        for low, high, count in bins
        if count
    ]
