"""`saesteer methods ...`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from saesteer.cli.common import check_json, show_table, write_json


def list_all(args: argparse.Namespace) -> None:
    """Every method by its name in configs, where it comes from, what it needs, its settings."""
    from saesteer.methods.named import METHODS

    check_json(args)
    rows: list[Mapping[str, Any]] = [
        {
            "method": name,
            "source": kind.source,
            "needs": kind.needs,
            "strength": "yes" if kind.has_strength else "no",
            "settings": ", ".join(field.name for field in fields(kind) if field.name != "sae"),
        }
        for name, kind in METHODS.items()
    ]
    write_json(args, rows)
    show_table(rows)
