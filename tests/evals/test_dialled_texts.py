"""A text that was written with dials can be read again as it was written, and so is its damage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from saesteer import methods
from saesteer.data.contrast import Contrast
from saesteer.errors import PlanError
from saesteer.evals.measure import Bench, Written, _joined, damage, dose_of, make_bench, write
from saesteer.evals.scorers import LexiconRate
from saesteer.evals.sweep import Entry, calibrate
from saesteer.evals.tasks import Task
from saesteer.metrics import token_kl
from saesteer.models import Model, TokenBatch
from saesteer.steer import Plan
from saesteer.steer.schedule import DialRow

N_TOKENS = 12
PROMPTS = ("the rain", "so it was said in the town", "x")
LETTERS = Contrast.from_texts(
    [f"aa bb {i}" for i in range(6)], [f"zz yy {i}" for i in range(6)], name="letters"
)
METHODS = {
    "DAC": methods.DynamicActivationComposition(dose=3.0),
    "FASB": methods.FASB(tau=0.9, n_back=3, dose=3.0),
}


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Model]) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def bench(model: Model) -> Bench:
    """Prompts of different lengths, so that rows are padded."""
    task = Task("toy", LETTERS, {"validation": PROMPTS, "test": ("y",)}, LexiconRate(("a",)))
    return make_bench(model, task, "validation", N_TOKENS)


@pytest.fixture(params=METHODS)
def plan(model: Model, request: pytest.FixtureRequest) -> Plan:
    return METHODS[request.param].fit(model, LETTERS, "resid_post.1")


def reread(
    model: Model, plan: Plan, written: Written, dials: Sequence[DialRow] | None
) -> tuple[TokenBatch, Tensor]:
    """The written text, and the steered logits that chose it, from one pass without a cache."""
    ((prompt, new),) = written.batches
    text = _joined(prompt, new)
    lengths = prompt.lengths.tolist()
    with torch.no_grad(), plan.on(model, prompt_lengths=lengths, dials=dials):
        return text, model.forward(text, last=N_TOKENS + 1)[:, :-1]


def kls(model: Model, text: TokenBatch, steered: Tensor) -> Tensor:
    with torch.no_grad():
        clean = model.forward(text, last=N_TOKENS + 1)[:, :-1]
    everywhere = torch.ones(steered.shape[:2], dtype=torch.bool)
    return token_kl(steered, clean, everywhere).view(len(steered), -1).mean(-1)


def test_the_kl_of_a_text_read_again_is_that_of_its_generation(
    model: Model, bench: Bench, plan: Plan
) -> None:
    written = write(model, bench.prompts, plan, N_TOKENS)
    text, steered = reread(model, plan, written, written.dials)
    largest = written.logits[0].abs().max()
    assert (steered - written.logits[0]).abs().max() <= 1e-5 * largest
    measured, _ = damage(bench, plan, written)
    assert kls(model, text, steered).tolist() == pytest.approx(measured, rel=1e-3, abs=1e-6)
    assert max(measured) > 1e-3


def test_dials_at_their_start_would_tell_of_another_text(
    model: Model, bench: Bench, plan: Plan
) -> None:
    """So the law above can fail."""
    written = write(model, bench.prompts, plan, N_TOKENS)
    text, steered = reread(model, plan, written, None)
    measured, _ = damage(bench, plan, written)
    gap = (kls(model, text, steered) - torch.tensor(measured)).abs().max()
    assert gap > 0.05 * max(measured)


def test_every_generated_row_has_its_dials_whatever_the_batch(model: Model, plan: Plan) -> None:
    with plan.on(model) as trace:
        list(model.generate_ids(list(PROMPTS), max_new_tokens=N_TOKENS, batch_size=2))
    together = list(trace.dials)
    trace.clear()
    assert trace.dials == []
    for row, prompt in enumerate(PROMPTS):
        with plan.on(model) as trace:
            list(model.generate_ids([prompt], max_new_tokens=N_TOKENS))
        (alone,) = trace.dials
        assert alone.keys() == together[row].keys()
        for key, values in alone.items():
            given = together[row][key][: len(values)]
            assert torch.allclose(given, values, atol=1e-4, equal_nan=True)


def test_the_dose_of_a_dialled_plan_is_that_of_what_it_writes(bench: Bench, plan: Plan) -> None:
    written = write(bench.model, bench.prompts, plan, N_TOKENS)
    assert dose_of(bench, plan, len(PROMPTS)) == pytest.approx(written.relative_dose)
    assert written.relative_dose > 0


def test_a_plan_whose_dials_start_at_zero_is_swept(bench: Bench, model: Model) -> None:
    plan = METHODS["FASB"].fit(model, LETTERS, "resid_post.1")
    assert calibrate(bench, Entry("FASB", "dense", (plan,)), (0.1,)).swept


def test_dials_of_other_rows_are_refused(model: Model, plan: Plan) -> None:
    with pytest.raises(PlanError, match="dials are of 1 rows but prompt_lengths of 2"):
        plan.attach(model, prompt_lengths=[3, 4], dials=[{}])
    with pytest.raises(PlanError, match="give their prompt_lengths too"):
        plan.attach(model, dials=[{}])
