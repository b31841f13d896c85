"""A hand-made SAE whose feature i is coordinate i above 0.5."""

from __future__ import annotations

import pytest
import torch

from saesteer.models.sites import Site
from saesteer.saes.sae import SAE


@pytest.fixture
def eye_sae() -> SAE:
    """The identity SAE of width 8 at resid_post.1."""
    eye, zeros = torch.eye(8), torch.zeros(8)
    threshold, site = torch.full((8,), 0.5), Site(1, "resid_post")
    return SAE(eye, zeros, eye.clone(), zeros.clone(), threshold, site, name="eye")
