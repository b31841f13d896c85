"""`saesteer methods ...`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from saesteer.cli.common import check_json, show_table, write_json


def list_all(args: argparse.Namespace) -> None:
    """Every method by its name in configs, where it comes from, what it needs, its laws."""
    from saesteer.evals.assets import laws
    from saesteer.methods.named import METHODS

    check_json(args)
    known = laws()
    rows = [
        {
            "method": name,
            "source": kind.source,
            "needs": kind.needs,
            "strength": "yes" if kind.has_strength else "no",
            "settings": ", ".join(field.name for field in fields(kind) if field.name != "sae"),
            "laws": known.get(name),
        }
        for name, kind in METHODS.items()
    ]
    write_json(args, rows)
    show_table([{**row, "laws": _told(row["laws"])} for row in rows])
    print("\nLaws, on tiny models of every architecture:")
    for law in sorted({law for one in known.values() for law in one["passed"]}):
        print(f"  {law}")
    for row in rows:
        if row["laws"] is None:
            print(f"{row['method']}: none; it edits no activations or weights.")
            continue
        for arch, reason in row["laws"]["left_out"].items():
            print(f"{row['method']}: not on {arch}, {reason}.")


def _told(laws: Mapping[str, Any] | None) -> str:
    if laws is None:
        return "none"
    n_all = len(laws["passed"]) + len(laws["failed"])
    return f"{len(laws['passed'])} of {n_all} on {len(laws['architectures'])} architectures"
