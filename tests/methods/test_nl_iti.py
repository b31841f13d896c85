"""NL-ITI: what its probe can read that a linear one can't, and what it adds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError, ContrastError
from saesteer.features import read_activations
from saesteer.methods import NLITI
from saesteer.methods.directions import Sides, logistic_direction
from saesteer.methods.mlp_probe import fit_mlp
from saesteer.models import Model, Site
from saesteer.steer import Plan

D_HEAD = 8


def pushed(plan: Plan) -> dict[tuple[int, int], Tensor]:
    found: dict[tuple[int, int], Tensor] = {}
    for edit in plan.edits:
        act: Any = edit.intervention
        for head, part in enumerate(act.vector.split(D_HEAD)):
            if part.norm() > 0:
                found[act.site.layer, head] = part
    return found


def xor(n: int, seed: int) -> Sides:
    """Rows whose label is whether their first two coordinates agree in sign."""
    rows = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    agree = rows[:, 0] * rows[:, 1] > 0
    return Sides(rows[agree], rows[~agree])


def right(logits: Tensor, sides: Sides) -> float:
    return float(((logits > 0) == (sides.labels > 0.5)).float().mean())


def test_the_probe_reads_what_no_line_can() -> None:
    train, held = xor(400, 0), xor(400, 1)
    weight, bias = logistic_direction(train)
    assert right(held.rows @ weight + bias, held) < 0.65
    assert right(fit_mlp(train, 16).logit(held.rows), held) > 0.85


def test_the_probe_is_sklearns_and_its_gradient_autograds() -> None:
    from sklearn.neural_network import MLPClassifier

    from saesteer.methods.mlp_probe import PENALTY

    sides = Sides(*(7 * side + 3 for side in xor(60, 2)))
    probe = fit_mlp(sides, 5)
    sklearns = MLPClassifier((5,), solver="lbfgs", alpha=PENALTY, random_state=0)
    scaled = ((sides.rows - probe.centre) / probe.scale).double().numpy()
    expected = sklearns.fit(scaled, sides.labels.int().numpy()).predict_proba(scaled)[:, 1]
    rows = sides.rows.clone().requires_grad_()
    logits = probe.logit(rows)
    assert torch.allclose(logits.sigmoid(), torch.from_numpy(expected).float(), atol=1e-4)
    logits.sum().backward()
    assert torch.allclose(probe.gradient(rows.detach()), rows.grad, atol=1e-5)


def test_heads_are_pushed_along_the_means_of_their_last_tokens(
    model: Model, letters: Contrast
) -> None:
    plan = NLITI(top_k=3, alpha=5.0, n_tokens=2).fit(model, letters)
    found = pushed(plan)
    assert len(found) == 3
    kept = [e for e in letters.examples if e.split != "test"]
    labels = torch.tensor([e.label for e in kept]) > 0
    for (layer, head), part in found.items():
        tokens = read_activations(model, kept, Site(layer, "head_out", head))
        rows = torch.stack([text[-2:].mean(0) for text in tokens])
        unit = functional.normalize(rows[labels].mean(0) - rows[~labels].mean(0), dim=0)
        assert torch.allclose(part, 5 * (rows @ unit).std(correction=0) * unit, atol=1e-3)


def test_how_many_tokens_are_read_matters(model: Model, letters: Contrast) -> None:
    one, many = (pushed(NLITI(top_k=16, n_tokens=n).fit(model, letters)) for n in (1, 3))
    assert not any(torch.allclose(one[key], many[key], rtol=1e-2) for key in one)


def test_bad_settings_and_texts_are_one_error(model: Model, letters: Contrast) -> None:
    with pytest.raises(ConfigError, match="NL-ITI: top_k is 17, but tiny-llama has 16 heads"):
        NLITI(top_k=17).fit(model, letters)
    with pytest.raises(ConfigError, match="n_tokens is 0, expected 1 or more"):
        NLITI(n_tokens=0)
    train = Contrast(tuple(e for e in letters.examples if e.split == "train"), name="letters")
    with pytest.raises(ContrastError, match=r"letters \(validation split\): it has no examples"):
        NLITI().fit(model, train)
