"""Concepts made by hand: pooled rows in which it is known which latents carry what."""

from __future__ import annotations

import torch

from saesteer.evals.pooled import Pooled

D_MODEL, D_SAE = 12, 30
SPLITS = ("train", "train", "validation", "test")


def decoder(seed: int = 0) -> torch.Tensor:
    """Unit decoder rows, [d_sae, d_model]; the first twelve are the axes."""
    rest = torch.randn(D_SAE - D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.eye(D_MODEL), torch.nn.functional.normalize(rest, dim=-1)])


def noise(n: int, seed: int) -> torch.Tensor:
    """Latents that fire at random, small, on a fifth of the texts."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, D_SAE, generator=rng) * (torch.rand(n, D_SAE, generator=rng) < 0.2) * 0.2


def wobble(n: int, seed: int) -> torch.Tensor:
    """Factors of about one: no two texts are alike."""
    return 0.9 + 0.2 * torch.rand(n, generator=torch.Generator().manual_seed(seed))


def concept(
    carriers: dict[int, float], n: int = 80, seed: int = 0, name: str = "planted"
) -> Pooled:
    """Texts that are positive every other time, where `carriers` fire, each with its value.

    The residual is what the latents write; the control's latents are noise.
    """
    positive = torch.arange(n) % 2 == 0
    latents = noise(n, seed)
    for latent, value in carriers.items():
        latents[:, latent] = value * positive * wobble(n, latent)
    return of_latents(latents, positive, name)


def of_latents(latents: torch.Tensor, positive: torch.Tensor, name: str = "planted") -> Pooled:
    """Splits go round in fours of pairs, so each has both labels."""
    n = len(latents)
    splits = tuple(SPLITS[i // 2 % 4] for i in range(n))
    return Pooled(name, latents @ decoder(), latents, noise(n, 99), positive, splits)
