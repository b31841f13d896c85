"""A contrast that a tiny model can tell apart."""

from __future__ import annotations

import pytest

from saesteer.data.contrast import Contrast


@pytest.fixture(scope="package")
def letters() -> Contrast:
    """Texts of a's against texts of z's."""
    return Contrast.from_texts(
        [f"aa ee {i} aaa" for i in range(10)], [f"zz xx {i} zzz" for i in range(10)], name="letters"
    )
