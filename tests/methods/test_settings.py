"""Settings come from configs untyped: what a field can't be is one error that names it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from donor import donor

from saesteer.errors import ConfigError
from saesteer.methods import CAA, HNeurons, LinearAcT, Method, PersonaVectors, RandomDirection
from saesteer.methods.named import METHODS
from saesteer.methods.settings import check_settings
from saesteer.saes import SAE

NAN, WRONG = float("nan"), object()
BOUNDS = {
    "dose": -0.5,
    "norm": 0.0,
    "share": 1.5,
    "seed": -1,
    "lr": 0.0,
    "top_k": 0,
    "sparsity": -1.0,
}


def typed() -> Iterator[tuple[str, str]]:
    """Every setting of every method that may not be anything at all."""
    for name, kind in METHODS.items():
        hints = get_type_hints(kind)
        yield from ((name, field.name) for field in fields(kind) if hints[field.name] is not Any)


def bounded() -> Iterator[tuple[str, str, Any]]:
    for name, setting in typed():
        if setting in BOUNDS:
            yield name, setting, BOUNDS[setting]
        if setting.startswith("n_") and name != "MoTE":
            yield name, setting, 0


def changed(method: Method, setting: str, value: Any) -> Method:
    """A copy with another setting; tests check types when a method is made, which users don't."""
    other = copy(method)
    object.__setattr__(other, setting, value)
    return other


def needed(name: str, sae: SAE) -> dict[str, Any]:
    """What the method can't be made without."""
    if name == "CommandV":
        return dict(zip(("donor", "plan"), donor(), strict=True))
    return {"sae": sae} if "sae" in METHODS[name].__dataclass_fields__ else {}


@pytest.mark.parametrize(("name", "setting"), list(typed()))
def test_a_setting_of_another_type_is_refused_by_its_name(
    name: str, setting: str, sae: SAE
) -> None:
    hint = get_type_hints(METHODS[name])[setting]
    for wrong in (WRONG, *([NAN, "3", True] if hint in (int, float) else [])):
        with pytest.raises(ConfigError, match=rf"^{name}: {setting} is .*, expected ") as caught:
            check_settings(changed(METHODS[name](**needed(name, sae)), setting, wrong))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("name", "setting", "value"), list(bounded()))
def test_a_number_out_of_its_range_is_refused_by_its_name(
    name: str, setting: str, value: Any, sae: SAE
) -> None:
    with pytest.raises(ConfigError, match=f"{name}: {setting} is {value}, expected"):
        METHODS[name](**{**needed(name, sae), setting: value})


def test_the_error_says_what_it_should_have_been() -> None:
    for method, setting, wrong, words in (
        (CAA(), "dose", "x", "CAA: dose is 'x', expected a finite number or None"),
        (CAA(), "dose", -1, "CAA: dose is -1, expected a number above 0"),
        (HNeurons(), "share", 2, "HNeurons: share is 2, expected a share above 0, at most 1"),
        (LinearAcT(), "kinds", [], r"LinearAcT: kinds is \[\], expected a list of one or more"),
        (LinearAcT(), "kinds", "mlp_out", "is 'mlp_out', expected a list, each of it text"),
        (RandomDirection(), "seed", 1.5, "seed is 1.5, expected a whole number"),
        (RandomDirection(), "seed", 2**32, "seed is 4294967296, expected 0 to 4294967295"),
        (PersonaVectors(), "elicit", [1], r"elicit is \[1\], expected a list, each of it text"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_settings(changed(method, setting, wrong))


def test_a_config_with_such_a_setting_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "compare.yaml"
    config.write_text("tasks: [sentiment]\nsae: null\nmethods: [{CAA: {dose: much}}]\n")
    command = [sys.executable, "-m", "saesteer", "compare", str(config), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "saesteer: CAA: dose is 'much', expected a finite number or None.\n"
