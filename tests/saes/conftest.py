"""Random SAEs that fit nothing but each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from saesteer.models.sites import Site
from saesteer.saes import SAE

D_MODEL, D_SAE = 16, 48


def make_sae(activation: str = "jumprelu", seed: int = 0, **changes: object) -> SAE:
    """An SAE with random weights; thresholds are positive where the activation has them."""
    rng = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    fields: dict[str, object] = {
        "w_enc": randn(D_MODEL, D_SAE) / 4,
        "b_enc": randn(D_SAE) / 10,
        "w_dec": randn(D_SAE, D_MODEL) / 4,
        "b_dec": randn(D_MODEL),
        "threshold": randn(D_SAE).abs() if activation == "jumprelu" else torch.zeros(D_SAE),
        "site": Site(2, "resid_post"),
        "activation": activation,
        "k": 5 if activation == "topk" else None,
        "model_name": "tiny",
        "name": f"random-{activation}",
    }
    return SAE(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def random_sae() -> Callable[..., SAE]:
    """The factory above."""
    return make_sae


@pytest.fixture
def resid() -> torch.Tensor:
    """[batch 3, pos 20, d_model 16], of the scale that the random SAEs read."""
    return torch.randn(3, 20, D_MODEL, generator=torch.Generator().manual_seed(7)) * 2
