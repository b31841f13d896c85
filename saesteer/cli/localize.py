"""`saesteer localize ...`."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from saesteer.cli.common import DEFAULT_MODEL, check_json, load_pair, show_table, write_json
from saesteer.cli.localizers import LOCALIZERS
from saesteer.errors import ConfigError

if TYPE_CHECKING:
    from saesteer.localize import Localizer
    from saesteer.models import Model


def rank(args: argparse.Namespace) -> None:
    """Rank places of a model by one method."""
    from saesteer.data import Contrast

    check_json(args)
    kind = _kind(args.method)
    settings = _settings(args, kind)
    contrast = Contrast.read(args.contrast)
    method, model = _loaded(args, kind, settings)
    ranked = method.rank(model, contrast).top(args.top)
    write_json(args, ranked.to_dict())
    print(f"{ranked.method}: {ranked.unit}")
    rows = [place.to_dict() for place in ranked.places]
    keys = [k for k in ("place", "score", "exact", "p_value") if any(k in row for row in rows)]
    show_table([{key: row.get(key) for key in keys} for row in rows])


def _kind(name: str) -> type[Localizer]:
    from saesteer import localize

    if name not in LOCALIZERS:
        raise ConfigError(f"localize has no method {name!r}; choose from {', '.join(LOCALIZERS)}.")
    return getattr(localize, LOCALIZERS[name].kind)


def _settings(args: argparse.Namespace, kind: type[Localizer]) -> dict[str, Any]:
    """What the command line sets, refused where the method has no such setting."""
    given = {"kinds": args.kind, "by": args.by, "sae": args.sae}
    known = {field.name for field in fields(kind)}
    for name, value in given.items():
        if value is not None and name not in known:
            option = "kind" if name == "kinds" else name
            raise ConfigError(f"localize {args.method} has no --{option}.")
    if "sae" in known and args.sae is None:
        raise ConfigError(f"localize {args.method} reads features; give --sae.")
    words = ("position", "site") if args.method == "patching" else ("position", "site", "unit")
    if args.by is not None and args.by not in words:
        raise ConfigError(f"--by is {args.by!r}; choose from {', '.join(words)}.")
    return {key: value for key, value in given.items() if value is not None and key != "sae"}


def _loaded(
    args: argparse.Namespace, kind: type[Localizer], settings: dict[str, Any]
) -> tuple[Localizer, Model]:
    from saesteer.models import load_model

    if args.sae is not None:
        model, sae = load_pair(args)
        return kind(**settings, **{"sae": sae}), model
    return kind(**settings), load_model(args.model or DEFAULT_MODEL, device=args.device)
