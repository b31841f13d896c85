"""What the tests of methods share: a model, an SAE of it, and a contrast that it can tell apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from saesteer.data.contrast import Contrast
from saesteer.models import Model
from saesteer.saes import SAE


@pytest.fixture(scope="package")
def model(tiny_model: Callable[[str], Model]) -> Model:
    """A tiny Llama; shared, so leave it clean."""
    return tiny_model("llama")


@pytest.fixture(scope="package")
def sae(tiny_sae: Callable[..., SAE], model: Model) -> SAE:
    """A random SAE of it after its third block."""
    return tiny_sae(model, "resid_post.2")


@pytest.fixture(scope="package")
def letters() -> Contrast:
    """Texts of a's against texts of z's."""
    return Contrast.from_texts(
        [f"aa ee {i} aaa" for i in range(10)], [f"zz xx {i} zzz" for i in range(10)], name="letters"
    )
