"""Held-out scores of an SAE while it trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from saesteer.config import TrainSAEConfig
from saesteer.data.text import iterate_texts
from saesteer.evals.assets import prose
from saesteer.evals.rows import token_rows
from saesteer.evals.sae_eval import evaluate_rows
from saesteer.models import Model
from saesteer.saes import SAE
from saesteer.training.sae import Score, Scorer

WATCHED = ("ce_recovered", "delta_ce", "kl", "fvu", "fvu_per_token", "l0")


def held_out_scorer(config: TrainSAEConfig) -> Scorer | None:
    """What `train_sae` asks for scores every `score.every_steps`: names begin with `held_out_`.

    Its text is looked for now and read before the first step. None where no step asks for it.

    Raises:
        DataError: a path of `score.path` is missing; once there is a model, nothing to score.
    """
    paths = config.score.paths

    def texts() -> Iterable[str]:
        return iterate_texts(paths, config.text.field) if paths else prose()

    def begin(model: Model) -> Score:
        rows = token_rows(model, texts(), config.score.tokens, config.text.context)

        def score(sae: SAE) -> Mapping[str, float]:
            scores = evaluate_rows(model, sae, rows)
            return {f"held_out_{name}": float(getattr(scores, name)) for name in WATCHED}

        return score

    texts()  # a missing path shows here, before there is a model
    return begin if 0 < config.score.every_steps <= config.n_steps else None
