"""The verdict in words, computed from the numbers and from nothing else.

It is built to be able to say no: that nothing beat a random direction, that a dense vector won,
that an effect was bought with repetition. It reads results as plain dicts, so a report can be
written again from `results.json` alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
RANDOM = "random direction"
"""Name of the null that every method is held against."""
REPETITIVE = 0.8
"""A text whose distinct-2 is below this share of the unsteered one's is called repetitive."""


def verdict(results: Mapping[str, Any], task: str) -> list[str]:
    """Sentences for one task of `results`, most important first; plain text."""
    rows = {r["method"]: r for r in results.get("compare", []) if r["task"] == task}
    equal = [r for r in results.get("equal_kl", []) if r["task"] == task]
    settings = next((s for s in results.get("settings", []) if s["task"] == task), {})
    reference = str(settings.get("reference", ""))
    sentences = [_against_random(equal, rows)]
    if reference in rows:
        sentences.insert(0, _effect(rows[reference], settings.get("unit", "score")))
        sentences += _against_others(reference, equal, rows)
        sentences += _fluency(rows[reference], rows.get("unsteered"))
    return [sentence for sentence in sentences if sentence]


def _effect(row: Row, unit: str) -> str:
    low, high = row["effect_ci"]
    if low > 0:
        verb = f"raised the score by {row['effect']:.2f}"
    elif high < 0:
        verb = f"lowered the score, the wrong way, by {-row['effect']:.2f}"
    else:
        verb = f"did not measurably move the score ({row['effect']:+.2f})"
    return (
        f"{_capital(row['method'])} {verb} (95 % interval {low:+.2f} to {high:+.2f}; {unit}) on "
        f"{row['n_prompts']} test prompts, at {row['kl']:.2f} nats per token from the unsteered "
        "model."
    )


def _against_random(equal: Sequence[Row], rows: Mapping[str, Row]) -> str:
    held = [r for r in equal if r["against"] == RANDOM and _family(rows, r["method"]) != "control"]
    better = [r["method"] for r in held if r["ci"] and r["ci"][0] > 0]
    worse = [r["method"] for r in held if r["ci"] and r["ci"][1] < 0]
    unclear = [r["method"] for r in held if r["ci"] and r["ci"][0] <= 0 <= r["ci"][1]]
    unreached = [r["method"] for r in held if not r["ci"]]
    if not held:
        return "No random direction was run, so nothing here shows that the direction mattered."
    parts: list[str] = []
    if better:
        parts.append(
            f"At equal KL, {_listed(better)} {_verb(better, 'moves', 'move')} the score more than "
            "random directions do."
        )
    elif len(unreached) < len(held):
        parts.append(
            "Nothing beats a random direction at equal KL: read the effects here as damage, "
            "not as steering."
        )
    if unclear and better:
        parts.append(f"{_capital(_listed(unclear))} can't be told from them.")
    if worse:
        parts.append(f"{_capital(_listed(worse))} {_verb(worse, 'does', 'do')} worse than they do.")
    if unreached:
        parts.append(
            f"For {_listed(unreached)} random directions never reached the same KL, "
            "so there is no such comparison."
        )
    return " ".join(parts)


def _against_others(reference: str, equal: Sequence[Row], rows: Mapping[str, Row]) -> list[str]:
    """How the reference stands against dense vectors, other plans and prompting, at equal KL."""
    held = [r for r in equal if r["method"] == reference and r["against"] != RANDOM and r["ci"]]
    held = [r for r in held if _family(rows, r["against"]) != "control"]
    sentences: list[str] = []
    won = [r["against"] for r in held if r["ci"][1] < 0]
    lost = [r["against"] for r in held if r["ci"][0] > 0]
    tied = [r["against"] for r in held if r["ci"][0] <= 0 <= r["ci"][1]]
    dense_won = [name for name in won if _family(rows, name) == "dense"]
    if dense_won:
        sentences.append(
            f"Dense vectors win: {_listed(dense_won)} "
            f"{_verb(dense_won, 'moves', 'move')} the score further than {reference} at equal KL."
        )
    if others := [name for name in won if name not in dense_won]:
        verb = _verb(others, "moves", "move")
        sentences.append(
            f"{_capital(_listed(others))} {verb} it further than {reference} at equal KL."
        )
    if lost:
        sentences.append(
            f"{_capital(reference)} moves it further than {_listed(lost)} at equal KL."
        )
    if tied:
        sentences.append(
            f"{_capital(reference)} and {_listed(tied)} can't be told apart at equal KL."
        )
    return sentences


def _fluency(row: Row, unsteered: Row | None) -> list[str]:
    if unsteered is None or not all(map(_known, (unsteered["perplexity"], row["perplexity"]))):
        return []
    text = (
        f"The price in fluency: perplexity under the unsteered model goes from "
        f"{unsteered['perplexity']:.1f} to {row['perplexity']:.1f}"
    )
    if row["distinct_2"] < REPETITIVE * unsteered["distinct_2"]:
        text += (
            f", and the text repeats itself (distinct-2 {unsteered['distinct_2']:.2f} to "
            f"{row['distinct_2']:.2f})"
        )
    share = round(100 * row["anti_steered"])
    return [f"{text}; {share} % of the prompts moved the wrong way."]


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _family(rows: Mapping[str, Row], method: str) -> str:
    return rows[method]["family"] if method in rows else "control"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verb(names: Sequence[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
