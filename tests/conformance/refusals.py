"""What a refusal is: one line of an error, and everything as it was before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from laws import state

from saesteer.errors import SaesteerError
from saesteer.models import Model
from saesteer.saes import SAE

Error = type[SaesteerError]


class Place(NamedTuple):
    """What a row may use."""

    model: Model
    sae: SAE
    folder: Path


def refused(place: Place, call: Callable[[], Any], error: Error, words: str) -> None:
    """The call raises one line of an error and leaves model and folder as they were."""
    before, files = state(place.model), sorted(place.folder.rglob("*"))
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert state(place.model) == before
    assert sorted(place.folder.rglob("*")) == files
