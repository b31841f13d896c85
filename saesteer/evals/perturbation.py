"""Targeted probe perturbation: taking away one concept's latents should hurt its probe alone.

For each concept, the latents with the largest effect on its dense probe (difference of means on the
train texts, kept where positive, times the decoder row's part along the probe) lose their
contribution, z·W_dec, and nothing else; the SAE's reconstruction error stays. Then every probe is
scored again on its own concept's test texts. Disentangled latents lower the accuracy of their own
probe and leave the others where they were.

Source: Marks et al. 2024, Sparse Feature Circuits (as SHIFT); Karvonen et al. 2025, SAEBench (TPP).
SAEBench's classes share one set of texts; here each concept is judged on texts of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from saesteer.evals.pooled import Pooled, Sample
from saesteer.evals.probing import Probe

ABLATED = (1, 2, 5, 20, 50)


@dataclass(frozen=True)
class Perturbation:
    """What taking away the k best latents of each concept does.

    Attributes:
        falls: `falls[a][b]` is the fall in accuracy of concept b's probe when a's latents go.
        latents: the latents taken away, by concept.
    """

    k: int
    concepts: tuple[str, ...]
    latents: tuple[tuple[int, ...], ...]
    falls: tuple[tuple[float, ...], ...]

    @property
    def own(self) -> float:
        """Mean fall of the probe whose latents went."""
        return sum(row[i] for i, row in enumerate(self.falls)) / len(self.falls)

    @property
    def others(self) -> float | None:
        """Mean fall of all other probes; None for a single concept."""
        falls = [fall for i, row in enumerate(self.falls) for j, fall in enumerate(row) if i != j]
        return sum(falls) / len(falls) if falls else None

    @property
    def tpp(self) -> float | None:
        """`own` minus `others`; None for a single concept."""
        return None if self.others is None else self.own - self.others

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "k": self.k,
            "tpp": self.tpp,
            "own": self.own,
            "others": self.others,
            "concepts": list(self.concepts),
            "latents": [list(latents) for latents in self.latents],
            "falls": [list(row) for row in self.falls],
        }


def perturbations(
    concepts: Sequence[Pooled],
    probes: Sequence[Probe],
    w_dec: Float[Tensor, "d_sae d_model"],
    ks: Sequence[int] = ABLATED,
) -> tuple[Perturbation, ...]:
    """Take away each concept's k best latents, for every k.

    Args:
        probes: the concepts' dense probes, in the same order.
        w_dec: of the SAE that the pooled latents come from.
    """
    w_dec = w_dec.cpu()
    ranked = [_by_effect(c, p, w_dec) for c, p in zip(concepts, probes, strict=True)]
    return tuple(_perturb(concepts, probes, w_dec, [r[:k] for r in ranked], k) for k in ks)


def without(
    pooled: Pooled, latents: Sequence[int], w_dec: Float[Tensor, "d_sae d_model"]
) -> Sample:
    """The concept's test texts with these latents' contribution taken out of the residual."""
    test, chosen = pooled.sample("resid", "test"), list(latents)
    gone = pooled.sample("latents", "test").rows[:, chosen] @ w_dec[chosen].to(test.rows)
    return Sample(test.rows - gone, test.positive)


def _perturb(
    concepts: Sequence[Pooled],
    probes: Sequence[Probe],
    w_dec: Tensor,
    latents: Sequence[Sequence[int]],
    k: int,
) -> Perturbation:
    pairs = list(zip(concepts, probes, strict=True))
    whole = [_accuracy(probe, concept.sample("resid", "test")) for concept, probe in pairs]
    falls = [
        tuple(
            before - _accuracy(probe, without(concept, gone, w_dec))
            for (concept, probe), before in zip(pairs, whole, strict=True)
        )
        for gone in latents
    ]
    names = tuple(concept.name for concept in concepts)
    return Perturbation(k, names, tuple(tuple(row) for row in latents), tuple(falls))


def _by_effect(pooled: Pooled, probe: Probe, w_dec: Tensor) -> list[int]:
    """Latents that push the probe towards the concept, the strongest first."""
    difference = pooled.sample("latents", "train").difference()
    effect = difference.clamp(min=0).double() * (w_dec.double() @ probe.weight)
    order = effect.argsort(descending=True, stable=True)
    return order[: int((effect > 0).sum())].tolist()


def _accuracy(probe: Probe, sample: Sample) -> float:
    return float(probe.correct(sample).double().mean())
