"""`saesteer train sweep`: a grid of SAEs over one stream, and which of them are worth having.

All are trained on the same tokens from one forward pass, then scored on the same held-out text.
What is sparser and recovers more is better; the Pareto front holds those that none beats in both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from saesteer.config import TrainSAEConfig
from saesteer.config.sae import VARIED
from saesteer.errors import ConfigError, OutputError
from saesteer.evals.figures import HEIGHT, N_COLOURS, WIDTH, Axes, grid, svg
from saesteer.evals.page import number, page, table, text
from saesteer.evals.rows import token_rows
from saesteer.evals.sae_eval import evaluate_rows
from saesteer.evals.watch import held_out_scorer
from saesteer.files import json_text, path_of, write_text
from saesteer.models import Model, load_model
from saesteer.saes import load_sae
from saesteer.training.loop import Progress
from saesteer.training.sae import train_sae
from saesteer.training.signals import StopRequest

Grid = Mapping[str, Sequence[Any]]

SCORES = ("l0", "fvu", "fvu_per_token", "ce_recovered", "delta_ce", "dead_fraction")
X_NAME = "L0, active latents a token"
Y_NAME = "cross entropy recovered"


@dataclass(frozen=True)
class SweepRow:
    """One SAE of a sweep.

    Attributes:
        name: its folder under the run's.
        settings: what it differs in.
        scores: on the held-out text.
        on_front: no other is at once as sparse and as faithful.
    """

    name: str
    settings: dict[str, Any]
    scores: dict[str, float]
    on_front: bool = False

    def flat(self) -> dict[str, Any]:
        """One table row."""
        return {**self.settings, **self.scores, "front": "*" if self.on_front else ""}


def usual_grid(config: TrainSAEConfig) -> Grid:
    """k and width at half, once and twice what the config says.

    Both trade against each other along smooth laws (Gao et al. 2024), so factors of two show them.
    """
    return {
        key: sorted({max(1, value // 2), value, 2 * value})
        for key, value in (("k", config.k), ("d_sae", config.d_sae))
    }


def variants_of(values: Grid) -> dict[str, dict[str, Any]]:
    """Every point of a grid, named by its settings.

    Raises:
        ConfigError: a key without values, or one that SAEs over one stream can't differ in.
    """
    if not values or not all(values.values()):
        raise ConfigError("a sweep needs values for each of its keys, such as --grid k=16,32,64.")
    if shared := sorted(set(values) - VARIED):
        raise ConfigError(
            f"grid: {', '.join(shared)} can't differ between SAEs over one stream, or does not "
            f"exist; give settings of all before --grid. A grid takes {', '.join(sorted(VARIED))}."
        )
    points = [dict(zip(values, p, strict=True)) for p in itertools.product(*values.values())]
    return {"_".join(f"{key}={value}" for key, value in p.items()): p for p in points}


def sweep_saes(
    config: TrainSAEConfig,
    values: Grid,
    out: str | Path,
    texts: Iterable[str],
    *,
    max_tokens: int = 20_000,
    resume: bool = False,
    model: Model | None = None,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
) -> list[SweepRow] | None:
    """Train a grid of SAEs and score each; None if a signal stopped the training.

    Args:
        texts: held-out documents.
        out: gets a folder for each SAE, `sweep.json` and `sweep.html`.

    Raises:
        ConfigError: a setting that SAEs over one stream can't differ in, or what makes no SAEs
            of a grid: variants, target, sites.
        OutputError, DataError, CheckpointError: as `train_sae`.
    """
    config, scorer = _with_grid(config, values), held_out_scorer(config)
    model = model or load_model(config.model, dtype=config.dtype, device=config.device)
    rows = token_rows(model, texts, max_tokens, config.text.context)
    out = path_of(out, OutputError)
    done = train_sae(
        config,
        out,
        resume=resume,
        model=model,
        stop=stop,
        progress=progress,
        scorer=scorer,
    )
    if done is None:
        return None
    scored: list[SweepRow] = []
    for name, settings in config.variants.items():
        scores = evaluate_rows(model, load_sae(out / name), rows)
        kept = {key: float(getattr(scores, key)) for key in SCORES}
        scored.append(SweepRow(name, settings, kept))
        if progress:
            progress(len(scored), len(config.variants), kept)
    scored = mark_front(scored)
    write_text(out / "sweep.json", json_text([asdict(row) for row in scored]) + "\n")
    write_text(out / "sweep.html", render(scored, config))
    return scored


def _with_grid(config: TrainSAEConfig, values: Grid) -> TrainSAEConfig:
    """The config with the grid's SAEs as its variants; refuses what can't be scored as one."""
    if config.variants:
        raise ConfigError(
            "variants: a sweep trains the SAEs of its grid instead; leave variants out, or train "
            "them with saesteer train sae."
        )
    config = replace(config, variants=variants_of(values))
    if any(len(each.site_names) > 1 for each in config.each().values()):
        raise ConfigError("a sweep scores SAEs of one site; leave out target and sites.")
    return config


def mark_front(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """The same rows, those on the Pareto front of L0 against CE recovered marked; a row whose
    figures are no numbers (a run that blew up) is on none."""

    def beaten(row: SweepRow, other: SweepRow) -> bool:
        sparser = other.scores["l0"] - row.scores["l0"]
        better = other.scores["ce_recovered"] - row.scores["ce_recovered"]
        return sparser <= 0 <= better and (sparser, better) != (0, 0)

    def counts(row: SweepRow) -> bool:
        return all(math.isfinite(row.scores[score]) for score in ("l0", "ce_recovered"))

    return [
        replace(row, on_front=counts(row) and not any(beaten(row, other) for other in rows))
        for row in rows
    ]


def render(rows: Sequence[SweepRow], config: TrainSAEConfig) -> str:
    """The plot and its numbers on one page."""
    keys = list(rows[0].settings)
    cells = [
        [text(row.settings[key]) for key in keys]
        + [number(row.scores[score], 4) for score in SCORES]
        + ["yes" if row.on_front else ""]
        for row in rows
    ]
    intro = f"<p>{text(config.model)}, {text(config.site)}, {config.n_tokens:,} tokens each.</p>"
    caption = (
        "<figcaption>Each mark is one SAE, scored on held-out text; colours are widths. The line "
        "joins those that no other beats in both.</figcaption>"
    )
    body = (
        f"<h1>SAE sweep</h1>{intro}<figure>{pareto_plot(rows)}{caption}</figure>"
        f"{table([*keys, *SCORES, 'front'], cells)}"
    )
    return page("SAE sweep", body)


def pareto_plot(rows: Sequence[SweepRow]) -> str:
    """CE recovered against L0 as SVG; where nothing was lost to recover, a row has no mark."""
    rows = [row for row in rows if math.isfinite(row.scores["ce_recovered"])]
    points = {row.name: (row.scores["l0"], row.scores["ce_recovered"]) for row in rows}
    recovered = [y for _, y in points.values()] or [1.0]
    pad = max(0.1 * (max(recovered) - min(recovered)), 0.01)
    right = 1.05 * max([x for x, _ in points.values()] + [0.0]) or 1.0
    axes = Axes(right, min(recovered) - pad, max(1.0, *recovered) + pad)
    front = sorted(points[row.name] for row in rows if row.on_front)
    line = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in front)
    widths = sorted({row.settings.get("d_sae", 0) for row in rows})
    marks = [_mark(axes, row, widths.index(row.settings.get("d_sae", 0))) for row in rows]
    joined = f'<g class="c0"><polyline class="line" points="{line}"/></g>'
    body = [grid(axes, X_NAME, Y_NAME), joined, *marks]
    return svg(WIDTH, HEIGHT, f"{Y_NAME} against {X_NAME}", body)


def _mark(axes: Axes, row: SweepRow, colour: int) -> str:
    x, y = axes.x(row.scores["l0"]), axes.y(row.scores["ce_recovered"])
    title = f"{row.name}: L0 {row.scores['l0']:.1f}, recovered {row.scores['ce_recovered']:.4f}"
    css = "mark chosen" if row.on_front else "mark"
    return (
        f'<g class="s{colour % N_COLOURS}"><g class="{css}"><title>{escape(title)}</title>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if row.on_front else 4}"/></g></g>'
    )
