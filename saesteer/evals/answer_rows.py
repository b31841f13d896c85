"""From answers to rows: how often the generated word was right, by hops, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saesteer.evals.page import page, table, text
from saesteer.evals.questions import Question
from saesteer.metrics.intervals import share_interval


@dataclass(frozen=True)
class Answered:
    """One problem under one method.

    Attributes:
        said: the first generated token, without spaces.
        likeliest: the likeliest of the problem's answer words, however unlikely.
        verdict: what a reader concluded, None for methods that conclude nothing and where nothing
            followed and no word says so.
        begins: the answer word of which `said` is the first token, None if it is of none or of
            several: "Un", of "Uncertain", is too short to tell by its letters.
    """

    question: Question
    said: str
    likeliest: str
    verdict: str | None = None
    begins: str | None = None

    @property
    def right(self) -> bool:
        """Whether the generated token is the answer (its first token, for a longer word)."""
        return self.says(self.question.answer)

    @property
    def parted(self) -> bool:
        """Whether a verdict was reached and the generated token is not it."""
        return self.verdict is not None and not self.says(self.verdict)

    def says(self, word: str) -> bool:
        """Whether it is the word, its first token (of 2 letters or more), or 3 of its letters."""
        said, whole = self.said.casefold(), word.casefold()
        if said == whole or (len(said) > 1 and self.begins == word):
            return True
        return len(said) > 2 and whole.startswith(said)


def answer_row(
    task: str, method: str, family: str, answered: Sequence[Answered], *, reads: bool
) -> dict[str, Any]:
    """One method's row; `reads` adds its verdicts and where they and the words part."""
    right = [one.right for one in answered]
    row = {"task": task, "method": method, "family": family, **share("accuracy", right)}
    row["by_hops"] = _by_hops(answered)
    row["by_group"] = _shares([(one.question.group, one.right) for one in answered])
    twins = [one.right for one in answered if one.question.twin_of is not None]
    row["twins"] = {**share("accuracy", twins), "n": len(twins)} if twins else None
    likeliest = [one.likeliest == one.question.answer for one in answered]
    row |= share("accuracy_among_options", likeliest)
    if reads:
        row |= share("verdict_accuracy", [a.verdict == a.question.answer for a in answered])
        parted = sum(a.parted for a in answered)
        row |= {"parted": parted, "n_open": sum(a.verdict is None for a in answered)}
    return row | {"n_problems": len(answered)}


def _by_hops(answered: Sequence[Answered]) -> dict[str, Any]:
    """Problems with all their links, by number of hops."""
    whole = [one for one in answered if one.question.twin_of is None]
    hops = [one.question.hops for one in whole]
    names = ["unknown" if n is None else str(n) for n in hops]
    return _shares([(name, one.right) for name, one in zip(names, whole, strict=True)])


def _shares(hits: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """The share of hits under each name, "" left out."""
    groups: dict[str, list[bool]] = {}
    for name, hit in hits:
        groups.setdefault(name, []).append(hit)
    return {
        name: {**share("accuracy", groups[name]), "n": len(groups[name])}
        for name in sorted(groups)
        if name
    }


def share(name: str, hits: Sequence[bool]) -> dict[str, Any]:
    """The share of hits under a name, and its interval."""
    found = share_interval(hits)
    return {name: found.mean, f"{name}_ci": [found.low, found.high]}


def answers_page(results: Mapping[str, Any]) -> str:
    """The results as one HTML page."""
    rows = results["compare"]
    hops = sorted({h for row in rows for h in row["by_hops"]} - {"unknown"})
    groups = sorted({group for row in rows for group in row["by_group"]})
    more = [key for key in ("balanced_accuracy", "over_refusal") if any(key in row for row in rows)]
    head = ["method", "right", "95 % interval", *(f"{h} hops" for h in hops), *groups]
    head += [*(key.replace("_", " ") for key in more), "twins", "verdict"]
    body = [
        [
            text(row["method"]),
            _percent(row["accuracy"]),
            " to ".join(map(_percent, row["accuracy_ci"])),
            *(_percent(row["by_hops"].get(h, {}).get("accuracy")) for h in hops),
            *(_percent(row["by_group"].get(group, {}).get("accuracy")) for group in groups),
            *(_percent(row.get(key)) for key in more),
            _percent((row["twins"] or {}).get("accuracy")),
            _percent(row.get("verdict_accuracy")),
        ]
        for row in rows
    ]
    notes = "".join(f"<p>{text(note)}</p>" for note in results["notes"])
    samples = "".join(_sample(sample) for sample in results["samples"])
    return page(
        f"Answers to {results['task']}",
        f"<h1>{text(results['task'])}: {results['n_problems']} problems</h1>{table(head, body)}"
        f"{notes}<h2>Proofs</h2>{samples}<pre>{text(results['reproduce'])}</pre>",
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _sample(sample: Mapping[str, Any]) -> str:
    return (
        f"<div class='sample'><p class='prompt'>{text(sample['prompt'])}</p>"
        f"<pre>{text(sample['proof'])}</pre><p>said {text(sample['said'])}, "
        f"right {text(sample['answer'])}</p></div>"
    )
