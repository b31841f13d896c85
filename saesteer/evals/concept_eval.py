"""What an SAE's latents do for labelled concepts: probing, absorption, perturbation; in one pass.

Every text is read once; all scores come from the same pooled rows and the same dense probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saesteer.data.contrast import SPLITS, Contrast, builtin_contrasts
from saesteer.evals.absorption import Absorption, measure_absorption
from saesteer.evals.perturbation import Perturbation, perturbations
from saesteer.evals.pooled import Progress, mean_l0, pool_concepts, random_twin, twin_sample
from saesteer.evals.probing import ConceptProbing, dense_probe, sparse_probing
from saesteer.models import Model, as_model
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE

POOLING = "mean over the text's own tokens, outliers out"


@dataclass(frozen=True)
class ConceptScores:
    """Scores of one SAE on several concepts.

    Attributes:
        l0: mean active latents a token on train texts, and `control_l0` the random twin's.
    """

    probing: tuple[ConceptProbing, ...]
    absorption: tuple[Absorption, ...]
    perturbation: tuple[Perturbation, ...]
    l0: float
    control_l0: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "pooling": POOLING,
            "l0": self.l0,
            "control_l0": self.control_l0,
            "probing": [concept.to_dict() for concept in self.probing],
            "absorption": [concept.to_dict() for concept in self.absorption],
            "perturbation": [step.to_dict() for step in self.perturbation],
        }


def read_concepts(refs: Sequence[str | Path]) -> list[Contrast]:
    """Contrasts by file or built-in name, all built-in ones if none is named.

    Raises:
        ContrastError: one that can't be read, or that has a split without texts of both labels.
    """
    contrasts = [Contrast.read(ref) for ref in refs or builtin_contrasts()]
    for contrast in contrasts:
        for split in SPLITS:
            contrast.split(split)
    return contrasts


def evaluate_concepts(
    model: Model | Any,
    sae: SAE,
    contrasts: Sequence[Contrast],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> ConceptScores:
    """Score `sae` on every concept, fitted on train, chosen on validation, tested once.

    Args:
        seed: of the random twin that serves as control.
        progress: called with (texts read, texts in all).

    Raises:
        ContrastError: a contrast with a split without texts of both labels.
        DataError: a text without tokens, or longer than the model can read.
        DimensionError: the SAE does not fit the model.
    """
    model = as_model(model)
    check_width(sae, model)
    sae = sae.to(device=model.device)
    sample = twin_sample(model, sae, contrasts)
    twin = random_twin(sae, sample, seed)
    pooled = pool_concepts(model, sae, twin, contrasts, progress=progress)
    probes = [dense_probe(concept) for concept in pooled]
    pairs = list(zip(pooled, probes, strict=True))
    return ConceptScores(
        probing=tuple(sparse_probing(concept, probe) for concept, probe in pairs),
        absorption=tuple(measure_absorption(c, probe, sae.w_dec) for c, probe in pairs),
        perturbation=perturbations(pooled, probes, sae.w_dec),
        l0=mean_l0(sae, sample),
        control_l0=mean_l0(twin, sample),
    )
