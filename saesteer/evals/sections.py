"""The parts of a report, each a pure function from results (plain dicts) to HTML.

A part whose data is missing is an empty text, so the same code prints a lone comparison, several
tasks, or a whole quickstart with its SAE's scores, features and rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saesteer.evals.figures import effect_against_kl, forest, series_classes
from saesteer.evals.page import facts, interval, number, table, text
from saesteer.evals.verdict import verdict
from saesteer.rules.picture import draw_proof

Results = Mapping[str, Any]
N_OPEN_SAMPLES = 3
"""Samples shown at once; the others wait behind a click."""

_SAE_NAMES = {
    "fvu_per_token": "variance unexplained, per token",
    "fvu": "variance unexplained, pooled",
    "l0": "features active a token",
    "delta_ce": "loss added, nats per token",
    "ce_recovered": "loss recovered",
    "ce_recovered_mean": "loss recovered, mean ablation",
    "kl": "KL, nats per token",
    "dead_fraction": "dead features",
    "n_tokens": "tokens scored",
}


def tasks_of(results: Results) -> list[str]:
    """Names of the tasks in the results, in order."""
    return list(dict.fromkeys(row["task"] for row in results.get("compare", [])))


def of_task(results: Results, key: str, task: str) -> list[Mapping[str, Any]]:
    """The entries of one list that belong to a task."""
    return [row for row in results.get(key, []) if row.get("task") == task]


def verdict_box(results: Results) -> str:
    """What the numbers say, in words, a paragraph a task."""
    parts: list[str] = []
    for task in tasks_of(results):
        sentences = " ".join(verdict(results, task))
        parts.append(f"<h3>{text(task.capitalize())}</h3><p>{text(sentences)}</p>")
    return f'<section class="verdict">{"".join(parts)}</section>' if parts else ""


def task_section(results: Results, task: str) -> str:
    """Plot, table, comparison at equal KL and samples of one task."""
    rows = of_task(results, "compare", task)
    settings = next(iter(of_task(results, "settings", task)), {})
    classes = series_classes(rows)
    return "".join(
        (
            f'<section id="{text(_anchor(task))}"><h2>{text(task.capitalize())}</h2>',
            _plot(results, task, rows, classes, settings),
            _methods(rows),
            _equal(of_task(results, "equal_kl", task), classes),
            _samples(of_task(results, "samples", task), classes),
            "</section>",
        )
    )


def navigation(results: Results) -> str:
    """Links to the parts of the page."""
    links = [(_anchor(task), task.capitalize()) for task in tasks_of(results)]
    links += [(key, name) for key, name in _LATER if results.get(key)]
    items = "".join(f'<a href="#{text(key)}">{text(name)}</a>' for key, name in links)
    return f"<nav>{items}</nav>" if items else ""


_LATER = (
    ("features", "Features"),
    ("rules", "Rules"),
    ("sae", "The SAE"),
    ("settings", "How this was measured"),
)


def _anchor(task: str) -> str:
    return "task-" + "".join(c if c.isalnum() else "-" for c in task)


def _plot(
    results: Results,
    task: str,
    rows: Sequence[Mapping[str, Any]],
    classes: Mapping[str, str],
    settings: Mapping[str, Any],
) -> str:
    curves = of_task(results, "curves", task)
    if not curves:
        return ""
    unit = str(settings.get("unit", "score"))
    chosen = {row["method"]: row["strength"] for row in rows}
    budget = float(settings.get("kl_budget", 2.0))
    svg, notes = effect_against_kl(curves, chosen, budget, classes, unit)
    shown = {curve["method"] for curve in curves}
    legend = "".join(
        f'<li class="{css}"><span class="swatch"></span>{text(method)}</li>'
        for method, css in classes.items()
        if method in shown
    )
    beyond = f" Outside the plot: {'; '.join(notes)}." if notes else ""
    return (
        f'<figure><ul class="legend">{legend}</ul>{svg}<figcaption>Effect on the test prompts '
        "against the damage done, one point a strength, with 95 % bootstrap intervals over "
        "prompts. "
        "Filled: the strength chosen on the validation prompts. Up is more of the behaviour, left "
        f"is closer to the unsteered model.{text(beyond)}</figcaption></figure>"
    )


def _methods(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("method", "effect [95 %]", "KL", "perplexity", "distinct-2", "wrong way", "dose",
            "strength", "ms/token")  # fmt: skip
    cells = [
        (
            text(row["method"]),
            interval(row["effect"], row["effect_ci"]),
            number(row["kl"], 2),
            number(row["perplexity"], 1),
            number(row["distinct_2"], 2),
            f"{100 * row['anti_steered']:.0f} %",
            number(row["relative_dose"]),
            number(row["strength"], 2),
            number(1000 * row["seconds_per_token"], 1),
        )
        for row in rows
    ]
    css = ["control" if row["family"] == "control" else "" for row in rows]
    return f"<h3>Each method at the strength chosen on validation</h3>{table(head, cells, css)}"


def _equal(equal: Sequence[Mapping[str, Any]], classes: Mapping[str, str]) -> str:
    if not equal:
        return ""
    head = ("comparison", "at KL", "effect", "the other's", "difference [95 %]")
    cells = [
        (
            text(f"{row['method']} against {row['against']}"),
            number(row["kl"], 2),
            number(row["effect"], signed=True),
            number(row["against_effect"], signed=True),
            interval(row["difference"], row["ci"]) if row["reached"] else "KL not reached by both",
        )
        for row in equal
    ]
    drawn = [
        {**row, "label": f"{row['method']} − {row['against']}"} for row in equal if row["reached"]
    ]
    figure = forest(drawn, classes, "Differences at equal KL")
    caption = (
        "<figcaption>Difference in effect between two methods on the same prompts at the same KL; "
        "right of zero, the first one moves the behaviour further.</figcaption>"
    )
    shown = f"<figure>{figure}{caption}</figure>" if figure else ""
    return f"<h3>At equal KL</h3>{shown}{table(head, cells)}"


def _samples(samples: Sequence[Mapping[str, Any]], classes: Mapping[str, str]) -> str:
    if not samples:
        return ""
    cards = [_sample(sample, classes) for sample in samples]
    rest = "".join(cards[N_OPEN_SAMPLES:])
    more = f"<details><summary>More samples</summary>{rest}</details>" if rest else ""
    return (
        "<h3>The same test prompts, side by side</h3><p class='note'>The first prompts of the test "
        f"set, not chosen by hand.</p>{''.join(cards[:N_OPEN_SAMPLES])}{more}"
    )


def _sample(sample: Mapping[str, Any], classes: Mapping[str, str]) -> str:
    texts = {"unsteered": sample["unsteered"], **sample["texts"]}
    columns = "".join(
        f'<div class="{classes.get(method, "c0")}"><div class="who">{text(method)}</div>'
        f"<p>{text(words.strip())}</p></div>"
        for method, words in texts.items()
    )
    return (
        f'<div class="sample"><p class="prompt">{text(sample["prompt"])}</p>'
        f'<div class="texts">{columns}</div></div>'
    )


def features_section(features: Sequence[Mapping[str, Any]]) -> str:
    """Features with their promoted and suppressed tokens, and a gloss where somebody wrote one."""
    if not features:
        return ""
    head = ("feature", "gloss", "promotes", "suppresses")
    cells = [
        (
            text(row.get("index", row.get("feature"))),
            text(row.get("gloss", "")),
            _tokens(row.get("promoted", ())),
            _tokens(row.get("suppressed", ())),
        )
        for row in features
    ]
    note = "Tokens are read off the weights alone, through the unembedding; glosses are a person's."
    return (
        f'<section id="features"><h2>Features</h2><p class="note">{note}</p>'
        f"{table(head, cells, wrap=(1, 2, 3))}</section>"
    )


def _tokens(tokens: Sequence[Any]) -> str:
    """Tokens as small boxes; each is a text, or an object or pair that holds one."""
    names = [_token_name(token) for token in tokens]
    return "".join(f'<span class="token">{text(name)}</span>' for name in names)


def _token_name(token: Any) -> str:
    match token:
        case {"token": name}:
            return str(name)
        case [name, *_]:
            return str(name)
        case _:
            return str(token)


def sae_section(sae: Mapping[str, Any]) -> str:
    """The SAE's scores."""
    if not sae:
        return ""
    known = [(name, sae[key]) for key, name in _SAE_NAMES.items() if sae.get(key) is not None]
    name = f"<p class='soft'>{text(sae['name'])}</p>" if sae.get("name") else ""
    return f'<section id="sae"><h2>The SAE</h2>{name}{facts(known)}</section>'


def rules_section(rules: Mapping[str, Any]) -> str:
    """What the rules did, with the reason for every edit that was explained."""
    if not rules:
        return ""
    explained = rules.get("explained", "")
    lines = [explained] if isinstance(explained, str) else [str(line) for line in explained]
    source = f"<pre>{text(rules['source'])}</pre>" if rules.get("source") else ""
    trace = f"<pre>{text(chr(10).join(lines))}</pre>" if any(lines) else ""
    drawn = "".join(f"<figure>{draw_proof(proof)}</figure>" for proof in rules.get("proofs", ()))
    fired = rules.get("fired")
    count = len(fired) if isinstance(fired, (list, dict)) else fired
    return (
        f'<section id="rules"><h2>Rules</h2>{facts([("fired", count)])}{source}'
        f"<h3>Why</h3>{drawn}{trace}</section>"
    )


def settings_section(results: Results) -> str:
    """How the numbers were made, what they mean, and how to make them again."""
    settings = results.get("settings", [])
    if not settings:
        return ""
    keys = [key for key in settings[0] if key != "task"]
    rows = [[text(key), *(_setting(entry.get(key)) for entry in settings)] for key in keys]
    head = ["setting", *(text(entry.get("task", "")) for entry in settings)]
    command = results.get("reproduce")
    again = f"<h3>To make this page again</h3><pre>{text(command)}</pre>" if command else ""
    body = table(head, rows, wrap=range(1, len(head)))
    return f'<section id="settings"><h2>How this was measured</h2>{_METHOD}{body}{again}</section>'


def _setting(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else text(value)


_METHOD = """<p>Every strength was chosen on the validation prompts: the largest effect within the
KL budget. The test prompts were then run once, over the whole grid of strengths. <em>Effect</em> is
the score of the steered text minus the score of the unsteered text for the same prompt.
<em>KL</em> is the mean divergence of the steered model from the unsteered one over the generated
tokens of the steered text, both models reading the same tokens. <em>Dose</em> is the mean size of
the edit relative to the activation it edits. <em>Perplexity</em> is that of the generated text
under the unsteered model. All methods generate the same number of tokens, greedily. Between
measured strengths effects are interpolated along KL, prompt by prompt; nothing is extrapolated.
Random directions enter as the mean over several seeds.</p>"""
