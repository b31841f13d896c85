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
    path, context = config.score.path, config.text.context

    def score(model: Model, sae: SAE) -> Mapping[str, float]:
        paths = [path] if isinstance(path, str) else path
        scores = evaluate_sae(
            model,
            sae,
            prose() if paths is None else iterate_texts(paths, config.text.field),
            max_tokens=config.score.tokens,
            context=context,
        )
        return {f"held_out_{name}": float(getattr(scores, name)) for name in WATCHED}

    return score
