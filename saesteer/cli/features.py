"""`saesteer features ...`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from saesteer.cli.common import Progress, check_json, load_pair, show_table, write_json


def top(args: argparse.Namespace) -> None:
    """Which features fire on a text, and where."""
    from saesteer.features.top import top_features

    check_json(args)
    if os.path.isfile(args.text):
        hint = f'note: {args.text} is a file; its name is read; its text: --text "$(cat FILE)".'
        print(hint, file=sys.stderr)
    model, sae = load_pair(args)
    found = top_features(model, sae, args.text, top=args.top).to_dict()
    write_json(args, found)
    show_table([_firing_row(row) for row in found["features"]])


def find(args: argparse.Namespace) -> None:
    """Rank features by a contrast."""
    from saesteer.data import Contrast
    from saesteer.features.find import find_features
    from saesteer.features.lens import promoted_tokens

    check_json(args)
    contrast = Contrast.read(args.contrast)
    model, sae = load_pair(args)
    found = find_features(model, sae, contrast, top=args.top, effects=min(args.effects, args.top))
    tokens = promoted_tokens(model, sae, [f.index for f in found], n=5)
    rows = [
        {**f.to_dict(), "promoted": [token.token for token in lens.promoted]}
        for f, lens in zip(found, tokens, strict=True)
    ]
    write_json(args, rows)
    keys = (
        "index",
        "auroc",
        "effect_size",
        "density",
        "max_activation",
        "logit_effect",
        "promoted",
    )
    show_table([{key: row[key] for key in keys} for row in rows])


def show(args: argparse.Namespace) -> None:
    """Everything about one feature."""
    from saesteer.data.text import iterate_texts
    from saesteer.evals.assets import prose
    from saesteer.features.show import show_feature

    check_json(args)
    model, sae = load_pair(args)
    texts = iterate_texts(args.text, args.field) if args.text else prose()
    with Progress("features show", quiet=args.quiet) as progress:
        asked = {"max_tokens": args.max_tokens, "progress": progress}
        card = show_feature(model, sae, args.feature, texts, **asked).to_dict()
    write_json(args, card)
    _print_card(card, args.top)


def attribute(args: argparse.Namespace) -> None:
    """Which features make the next token."""
    from saesteer.features.attribution import attribute_token

    check_json(args)
    model, sae = load_pair(args)
    asked = {"top": args.top, "last": args.last, "ablations": args.ablations}
    found = attribute_token(model, sae, args.prompt, args.token, **asked).to_dict()
    write_json(args, found)
    print(f"next token {found['token']!r}, probability {found['probability']:.3f}")
    hidden = () if args.ablations else ("ablation",)
    show_table([{k: v for k, v in part.items() if k not in hidden} for part in found["parts"]])


def _firing_row(row: dict[str, Any]) -> dict[str, Any]:
    where = [f"{f['token']!r}:{f['activation']:.2f}" for f in row["firings"][:4]]
    return {**{k: v for k, v in row.items() if k != "firings"}, "where": where}


def _print_card(card: dict[str, Any], n: int) -> None:
    for key in ("index", "density", "max_activation", "mean_activation", "n_tokens"):
        print(f"{key}: {card[key]:{'' if isinstance(card[key], int) else '.4g'}}")
    for key in ("promoted", "suppressed"):
        print(f"{key}: " + " ".join(repr(token["token"]) for token in card[key]))
    print("nearest: " + ", ".join(f"{f['index']} ({f['cosine']:.2f})" for f in card["nearest"]))
    print("passages:")
    for passage in card["passages"][:n]:
        peak = passage["peak"]
        marked = [f"[{t}]" if i == peak else t for i, t in enumerate(passage["tokens"])]
        print(f"  {passage['activations'][peak]:6.2f}  {' '.join(''.join(marked).split())}")
