"""Held-out scores of an SAE while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from saesteer.config import TrainSAEConfig
from saesteer.data.text import iterate_texts
from saesteer.evals.assets import prose
from saesteer.evals.sae_eval import evaluate_sae
from saesteer.models import Model
from saesteer.saes import SAE

WATCHED = ("ce_recovered", "delta_ce", "kl", "fvu", "fvu_per_token", "l0")


def held_out_scorer(config: TrainSAEConfig) -> Callable[[Model, SAE], Mapping[str, float]]:
    """What `train_sae` calls every `score.every_steps`: names begin with `held_out_`."""
    paths, field = config.score.paths, config.text.field

    def score(model: Model, sae: SAE) -> Mapping[str, float]:
        scores = evaluate_sae(
            model,
            sae,
            iterate_texts(paths, field) if paths else prose(),
            max_tokens=config.score.tokens,
            context=config.text.context,
        )
        return {f"held_out_{name}": float(getattr(scores, name)) for name in WATCHED}

    return score
