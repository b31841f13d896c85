"""Every method and the plan that it fits print as a line that says what it does."""

from __future__ import annotations

from typing import Any

import pytest
from method_cases import fitted, grid

ARCH_OF = dict(reversed(grid()))
"""The first that has what a method needs."""


@pytest.mark.parametrize(("name", "arch"), ARCH_OF.items())
def test_plans_print_in_a_line(name: str, arch: str, tiny_model: Any, tiny_sae: Any) -> None:
    plan = fitted(name, tiny_model(arch), tiny_sae)
    for value in (plan, *plan.acts):
        line = repr(value)
        assert "\n" not in line
        assert len(line) < 1000
