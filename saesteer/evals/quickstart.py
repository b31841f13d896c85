"""The first thing a newcomer runs: a real model, its features, one behaviour, one honest page.

Budgeted in generated tokens so that two CPU cores finish it in minutes, those without bf16 units
too: few doses, few prompts, short texts. `configs/compare/` holds the same comparison at full size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saesteer.evals.assets import asset, glosses, prose
from saesteer.evals.compare import compare
from saesteer.evals.report import join_results, write_report
from saesteer.evals.sae_eval import evaluate_sae
from saesteer.evals.tasks import load_task
from saesteer.features.lens import promoted_tokens
from saesteer.methods import CAA, ActAdd, FeatureSteering
from saesteer.models import Model, load_model
from saesteer.rules import RuleBook
from saesteer.saes import SAE, load_sae

MODEL = "smollm2-135m-instruct"
SAE_NAME = f"{MODEL}/resid_post.9"
TASK = "sentiment"
DOSES = (0.15, 0.3)
KL_BUDGET = 0.5
"""Nats per token: at a quarter of the usual budget every method here was within 0.05 of its best,
and the doses beyond, which only show texts falling apart, took a third of the time."""
SCORED_TOKENS = 2_000
PROMPTS = (10, 20)
"""Of validation and of test: few, for time; chance alone moves an effect by about 0.12."""
N_FEATURES = 5
"""Chosen on validation prompts: the five best together moved them more than the best alone."""
NEW_TOKENS = 20
SEEDS = (0, 1)
RULE_PROMPT = "My landlord wrote me a terrible letter today. I felt"

ProgressFor = Callable[[str], Any]


def quickstart(
    out: str | Path, *, device: str | None = None, progress: ProgressFor = lambda _: None
) -> dict[str, Any]:
    """Score the shipped SAE, steer one behaviour by every kind of method, and write the page.

    Args:
        out: gets `results.json` and `report.html`.
        progress: makes a progress callback for each part, by its title.

    Raises:
        SaesteerError: as loading the model and writing `out` do.
    """
    started = time.perf_counter()
    model = load_model(MODEL, device=device)
    sae = load_sae(SAE_NAME).to(device=model.device)
    scores = evaluate_sae(
        model, sae, prose(), max_tokens=SCORED_TOKENS, progress=progress("scoring the SAE")
    ).to_dict()
    rules_file = asset("rules", "mood.yaml")
    book = RuleBook.read(rules_file)
    rule_plan = book.plan(sae)
    report = compare(
        model,
        load_task(TASK).limited(*PROMPTS),
        [FeatureSteering(sae, n_features=N_FEATURES), rule_plan, CAA(), ActAdd()],
        sae=sae,
        doses=DOSES,
        kl_budget=KL_BUDGET,
        seeds=SEEDS,
        max_new_tokens=NEW_TOKENS,
        sae_scores=scores,
        reproduce=f"saesteer quickstart --out {Path(out).name}",
        progress=progress("steering by every method"),
    )
    results = join_results(
        report.to_dict(),
        features=feature_list(model, sae),
        rules=rules_at_work(model, sae, book, rules_file),
        seconds=time.perf_counter() - started,
    )
    write_report(results, out)
    return results


def feature_list(model: Model, sae: SAE) -> list[dict[str, Any]]:
    """Features with a hand-written gloss, and the tokens that each promotes and suppresses."""
    named = glosses()
    found = promoted_tokens(model, sae, list(named))
    return [{**tokens.to_dict(), "gloss": named[tokens.index]} for tokens in found]


def rules_at_work(model: Model, sae: SAE, book: RuleBook, source: Path) -> dict[str, Any]:
    """One prompt under the rules: how often each edit acted, and why at the last token."""
    with book.plan(sae).on(model) as trace:
        text = model.generate(RULE_PROMPT, max_new_tokens=NEW_TOKENS)
    reading = book.evaluate(model, sae, RULE_PROMPT)
    return {
        "fired": int(trace.n_edited),
        "explained": [f"{RULE_PROMPT} …{text}", str(reading), trace.explain(token=-1)],
        "proofs": [proof.as_dict() for _, proof in reading.proofs()],
        "source": source.read_text(encoding="utf-8"),
    }
