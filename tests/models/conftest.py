"""What several of these modules look at."""

from __future__ import annotations

import pytest
from torch import nn

ARCHITECTURES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "mixtral", "neox", "gpt2",
)  # fmt: skip
PROMPTS = ["the rain in the town", "sea", "the sun and the sea in the rain"]


@pytest.fixture(params=ARCHITECTURES)
def arch(request) -> str:
    """Each architecture in turn."""
    return request.param


@pytest.fixture(params=[arch for arch in ARCHITECTURES if arch != "neox"])
def sequential_arch(request) -> str:
    """Each architecture whose MLP reads what attention added."""
    return request.param


@pytest.fixture(params=[arch for arch in ARCHITECTURES if arch != "mixtral"])
def neurons_arch(request) -> str:
    """Each architecture whose neurons a hook can reach."""
    return request.param


@pytest.fixture
def prompts() -> list[str]:
    """Three texts of different lengths."""
    return list(PROMPTS)


def count_hooks(module: nn.Module) -> int:
    """All forward hooks and pre-hooks below a module."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.fixture
def no_hooks_left():
    """Checks after a test that the models given to it carry as many hooks as before."""
    before = []

    def watch(model):
        before.append((model, count_hooks(model.hf)))
        return model

    yield watch
    for model, n_hooks in before:
        assert count_hooks(model.hf) == n_hooks
