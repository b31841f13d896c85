"""Methods that own the loop: their formulas against a loop that recomputes everything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from laws import generate, same
from torch import Tensor

from saesteer import methods
from saesteer.data.contrast import Contrast
from saesteer.errors import ConfigError
from saesteer.models import Model, Site, record
from saesteer.models.model import TokenBatch
from saesteer.steer.kl_dials import top_p_kl

SITE = "resid_post.2"
PROMPT, NEW = "the rain in the", 8
DIGITS = Contrast.from_texts(
    [f"11 22 {i}" for i in range(8)], [f"ab cd {i}" for i in range(8)], name="digits"
)


def hooked(model: Model, ids: Tensor, adds: Tensor) -> Tensor:
    """Last logits of a whole text with `adds [pos, width]` put on the site by a plain hook."""

    def hook(_m: Any, _a: Any, out: Any) -> Any:
        resid = out[0] if isinstance(out, tuple) else out
        new = resid + adds
        return (new, *out[1:]) if isinstance(out, tuple) else new

    handle = model.layout.blocks[2].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return model.hf(input_ids=ids, use_cache=False).logits[0, -1].double()
    finally:
        handle.remove()


def kl_by_hand(p: Tensor, q: Tensor, top_p: float) -> float:
    kept = set()
    for logits in (p, q):
        total = 0.0
        for token in logits.argsort(descending=True).tolist():
            kept.add(token)
            total += float(logits.softmax(-1)[token])
            if total >= top_p:
                break
    index = torch.tensor(sorted(kept))
    a, b = p[index].softmax(-1), q[index].softmax(-1)
    return float((a * (a / b).log()).sum())


def test_top_p_kl_is_the_divergence_over_the_union() -> None:
    p, q = torch.randn(2, 5, 30, generator=torch.Generator().manual_seed(0)).mul(2)
    got = top_p_kl(p, q, 0.8)
    by_hand = [kl_by_hand(a, b, 0.8) for a, b in zip(p.double(), q.double(), strict=True)]
    assert torch.allclose(got, torch.tensor(by_hand), atol=1e-5)
    assert torch.equal(top_p_kl(p, p, 0.8), torch.zeros(5))


def test_each_property_is_added_as_much_as_it_would_change(model: Model, letters: Contrast) -> None:
    method = methods.DynamicActivationComposition([DIGITS], alpha_max=0.6, top_p=0.9, dose=None)
    plan = method.fit(model, letters, SITE)
    vectors = [edit.intervention.vector for edit in plan.edits]  # type: ignore[attr-defined]
    ids = model.tokenize([PROMPT]).input_ids
    start, used, chosen, expected = ids.shape[1] - 1, [], [], []
    for _ in range(NEW):
        after = (torch.arange(ids.shape[1]) >= start).float()[:, None]
        plain = hooked(model, ids, 0 * after * vectors[0])
        probes = [hooked(model, ids, 0.6 * after * v) for v in vectors]
        used.append([min(kl_by_hand(p, plain, 0.9), 0.6) for p in probes])
        alphas = torch.tensor([[0.0, 0.0]] * start + used)
        logits = hooked(model, ids, alphas @ torch.stack(vectors))
        expected.append(logits)
        chosen.append(int(logits.argmax()))
        ids = torch.cat([ids, torch.tensor([[chosen[-1]]])], 1)
    assert len({round(a, 3) for pair in used for a in pair}) > NEW
    for cached in (True, False):
        with plan.on(model) as trace:
            run = generate(model, [PROMPT], new=NEW, use_cache=cached)
        assert run.tokens[0].tolist() == chosen
        gap = (run.logits[0] - torch.stack(expected)).abs().max()
        assert gap <= 1e-4 * torch.stack(expected).abs().max()
    last = [d.norm[0, -1] / v.norm() for d, v in zip(trace.passes[-1].deeds, vectors, strict=True)]
    assert torch.allclose(torch.stack(last), torch.tensor(used[-1]), atol=1e-4)


@pytest.mark.parametrize("cached", [True, False])
def test_plans_added_read_alpha_as_if_fitted_together(
    model: Model, letters: Contrast, cached: bool
) -> None:
    """All dials are off in what alpha is read against, also those of the other plan."""
    one = methods.DynamicActivationComposition(dose=None)
    added = one.fit(model, letters, SITE) + one.fit(model, DIGITS, SITE)
    both = methods.DynamicActivationComposition([DIGITS], dose=None).fit(model, letters, SITE)
    dials, runs = [], []
    for plan in (added, both):
        with plan.on(model) as trace:
            runs.append(generate(model, [PROMPT, "1 2 3"], new=4, use_cache=cached))
        dials.append([torch.stack(list(row.values())) for row in trace.dials])
    same(*runs)
    for one_row, other_row in zip(*dials, strict=True):
        assert torch.allclose(one_row, other_row, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("cached", [True, False])
def test_a_plan_that_turns_dials_may_act_twice(
    model: Model, letters: Contrast, cached: bool
) -> None:
    plan = methods.DynamicActivationComposition(dose=None).fit(model, letters, SITE)
    with (plan - plan).on(model):
        off = generate(model, [PROMPT], new=4, use_cache=cached)
    plain = generate(model, [PROMPT], new=4)
    assert (off.logits - plain.logits).abs().max() <= 1e-5 * plain.logits.abs().max()
    with (plan + plan).on(model):
        twice = generate(model, [PROMPT], new=4, use_cache=cached)
    with plan.on(model), plan.on(model):
        nested = generate(model, [PROMPT], new=4, use_cache=cached)
    assert (twice.logits - nested.logits).abs().max() <= 1e-5 * twice.logits.abs().max()
    assert not torch.allclose(twice.logits, plain.logits, atol=1e-3)


def test_fasb_by_hand(model: Model, letters: Contrast) -> None:
    """Recomputed with plain hooks: mean probability, cut, strength 1 - mean from the cut on."""
    plan = methods.FASB(n_back=3, dose=3.0).fit(model, letters, SITE)
    gate: Any = plan.controls[0].gate
    vector = plan.edits[0].intervention.vector  # type: ignore[attr-defined]
    for words in ("the rain in the", "zz xx", "aa ee", "the sea", "m n o", "1 2 3"):
        prompt = model.tokenize([words]).input_ids
        n_prompt, plain = prompt.shape[1], generate(model, [words], new=NEW).tokens
        text = torch.cat([prompt, plain], 1)
        p = _probabilities(model, gate, text)[n_prompt:]
        means = p.cumsum(0) / torch.arange(1, NEW + 1)
        if int(means[:6].argmin()) > 1:  # falls after a while, so that there is enough to cut
            break
    tau = float(means[:6].min()) + 1e-4
    at = next(i for i, mean in enumerate(means.tolist()) if mean < tau)
    cut = min(3, at + 1)
    assert at > 0
    object.__setattr__(gate, "tau", tau)
    with plan.on(model) as trace:
        got = generate(model, [words], new=at + 2).tokens[0, : at + 1]
    assert f"took back {cut}, strength {1 - float(means[at]):.3g}" in trace.events[0].what
    assert trace.events[0].position == n_prompt + at
    ids, kept = text[:, : n_prompt + at + 1 - cut], n_prompt + at + 1 - cut
    for _ in range(cut):
        strength = (torch.arange(ids.shape[1]) >= kept - 1).float() * (1 - means[at])
        token = hooked(model, ids, strength[:, None] * vector).argmax()
        ids = torch.cat([ids, token[None, None]], 1)
    assert got.tolist() == ids[0, n_prompt:].tolist()
    assert got.tolist() != plain[0, : at + 1].tolist()


def _probabilities(model: Model, gate: Any, ids: Tensor) -> Tensor:
    site = Site.parse(SITE)
    batch = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    return torch.sigmoid(record(model, batch, [site])[site][0] @ gate.weight + gate.bias)


def test_fasb_leaves_a_good_answer_alone(model: Model, letters: Contrast) -> None:
    plain = generate(model, [PROMPT, "x y"], new=NEW)
    with methods.FASB(tau=0.0).fit(model, letters, SITE).on(model) as trace:
        run = generate(model, [PROMPT, "x y"], new=NEW)
    assert torch.equal(run.tokens, plain.tokens)
    assert trace.dose() == 0
    assert trace.events == []


def test_fasb_ends_though_nothing_helps(model: Model, letters: Contrast) -> None:
    plan = methods.FASB(tau=1.0, n_back=4).fit(model, letters, SITE)
    runs = []
    with plan.on(model) as trace:
        for cached in (True, False):
            runs.append(generate(model, [PROMPT], new=NEW, use_cache=cached).tokens)
    assert torch.equal(*runs)
    assert [e.position for e in trace.events[: len(trace.events) // 2]] == list(
        range(trace.events[0].position, trace.events[0].position + len(trace.events) // 2)
    )


@pytest.mark.parametrize(
    ("method", "n_caches"),
    [
        (methods.DynamicActivationComposition([DIGITS], dose=None), 4),
        (methods.FASB(tau=1.0, n_back=4), 1),
    ],
    ids=["KL", "backtracking"],
)
def test_no_step_reads_the_text_again(
    model: Model, letters: Contrast, method: methods.Method, n_caches: int
) -> None:
    counts: list[int] = []

    def count(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        counts.append(kwargs["input_ids"].shape[1])

    with method.fit(model, letters, SITE).on(model) as trace:
        handle = model.layout.base.register_forward_pre_hook(count, with_kwargs=True)
        try:
            generate(model, [PROMPT], new=NEW)
        finally:
            handle.remove()
    n_prompt = model.tokenize([PROMPT]).input_ids.shape[1]
    assert counts[:n_caches] == [n_prompt] * n_caches
    assert set(counts[n_caches:]) == {1}
    assert len(counts) >= n_caches * NEW
    assert bool(trace.events) == (n_caches == 1)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="tau is 2"):
        methods.FASB(tau=2.0)
    with pytest.raises(ConfigError, match="n_back is 0"):
        methods.FASB(n_back=0)
    with pytest.raises(ConfigError, match="top_p 0.0"):
        methods.DynamicActivationComposition(top_p=0.0)
