"""The quickstart on the real model: what `results.json` must hold, and a page that stands alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from saesteer.cli import main
from saesteer.evals.assets import glosses, prose
from saesteer.models import Model
from saesteer.saes import load_sae

SAE = {"fvu", "fvu_per_token", "l0", "delta_ce", "ce_recovered", "dead_fraction", "n_tokens"}
ROW = {
    "method", "strength", "relative_dose", "effect", "effect_ci", "kl", "perplexity", "distinct_2",
    "seconds_per_token",
}  # fmt: skip
METHODS = {"unsteered", "5 features", "mood", "CAA", "ActAdd", "prompting", "random direction"}


@pytest.mark.full
@pytest.mark.real
@pytest.mark.timeout(1200)
def test_the_quickstart(real_model: Model, tmp_path: Path) -> None:
    assert main(["quickstart", "--out", str(tmp_path / "Q"), "--quiet"]) == 0
    results = json.loads((tmp_path / "Q" / "results.json").read_text())
    assert {"model", "sae", "compare", "rules", "seconds"} <= set(results)
    assert set(results["sae"]) >= SAE
    assert {row["method"] for row in results["compare"]} >= METHODS
    assert all(set(row) >= ROW for row in results["compare"])
    assert results["rules"]["fired"] > 0
    assert results["rules"]["explained"]
    assert len(results["features"]) == 10
    page = (tmp_path / "Q" / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)


def test_glosses_name_features_that_ship() -> None:
    sae = load_sae("smollm2-135m-instruct/resid_post.9")
    assert len(glosses()) == 10
    assert sae.check_features(list(glosses()))


def test_sample_prose_is_a_few_pages() -> None:
    texts = list(prose())
    assert len(texts) == 4
    assert all(len(text.split()) > 900 for text in texts)
