"""One definition each of the numbers that this library reports; pure functions on tensors."""

from __future__ import annotations

from saesteer.metrics.density import Density, density_of
from saesteer.metrics.diversity import distinct_n
from saesteer.metrics.intervals import (
    Interval,
    auroc_interval,
    bootstrap_interval,
    difference_to_sample,
    grouped_auroc_interval,
    paired_difference,
    share_interval,
)
from saesteer.metrics.language import perplexity, token_ce, token_kl
from saesteer.metrics.outliers import OUTLIER_FACTOR, median_norm, norms, outlier_tokens, usual_rows
from saesteer.metrics.reconstruction import ReconstructionScores, ReconstructionSums

__all__ = [
    "OUTLIER_FACTOR",
    "Density",
    "Interval",
    "ReconstructionScores",
    "ReconstructionSums",
    "auroc_interval",
    "grouped_auroc_interval",
    "bootstrap_interval",
    "difference_to_sample",
    "density_of",
    "distinct_n",
    "median_norm",
    "norms",
    "outlier_tokens",
    "paired_difference",
    "perplexity",
    "share_interval",
    "token_ce",
    "token_kl",
    "usual_rows",
]
