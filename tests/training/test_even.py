"""L0 held level over kinds of text: the loss by hand, and that it levels what a threshold won't."""

from __future__ import annotations

import math

import pytest
import torch
from coders import moved
from torch.nn import functional as F

from saesteer.config import SupervisedConfig
from saesteer.errors import ConfigError
from saesteer.saes import load_sae
from saesteer.training.even import EvenCoder
from saesteer.training.learner import Learner
from saesteer.training.sae import open_trainer
from saesteer.training.sparse import TopKSettings
from saesteer.training.topk import TopKCoder

D_MODEL, D_SAE, BATCH, K, WEIGHT = 24, 80, 32, 5, 2.5
NAMES = ("books", "web", "wiki")


def coder_of(kind: str) -> TopKCoder:
    nested = (10, 33, D_SAE) if kind == "matryoshka" else ()
    return moved(TopKCoder(D_MODEL, D_SAE, TopKSettings(k=K, widths=nested), seed=0))


@pytest.fixture
def rows() -> torch.Tensor:
    return 3 * torch.randn(BATCH, D_MODEL, generator=torch.Generator().manual_seed(2)) + 1


def told(rows: torch.Tensor, paths: list[int]) -> torch.Tensor:
    column = torch.tensor(paths, dtype=torch.float32).repeat(BATCH)[:BATCH]
    return torch.cat([rows, column[:, None]], dim=-1)


def by_hand(coder: TopKCoder, batch: torch.Tensor, cut: float) -> tuple[torch.Tensor, dict]:
    """The loss densely; its value is that of counts, its gradient that of a slope above `cut`,
    which moves with the mean of those near it."""
    x, path = batch[:, :-1] * coder.input_scale, batch[:, -1]
    pre = (x - coder.b_dec.detach()) @ coder.w_enc.t() + coder.b_enc
    active = pre.detach() >= pre.detach().flatten().topk(K * BATCH).values[-1]
    # the smallest survivor is the cut where there is no other; products of two kinds round apart
    near = active & (pre >= cut * (1 - 1e-6)) & (pre < 1.2 * cut)
    assert 0 < near.sum() < active.sum()
    slope = torch.where(near, (pre - pre[near].mean()) / (0.2 * cut), 0.0)
    count = active + slope - slope.detach()
    there = path.unique().int().tolist()
    l0 = {n: count[path == n].sum() / (path == n).sum() for n in there}
    return torch.stack([(l0[n] / K - 1).relu() ** 2 for n in there]).mean(), l0


@pytest.mark.parametrize("running", [0, 0.95, 1.1])
@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
@pytest.mark.parametrize("paths", [[0, 1, 2, 0], [2, 0], [2]], ids=str)
def test_the_loss_and_its_gradients_are_those_written_densely(rows, kind, running, paths):
    """`running` is the running threshold as a share of the batch's own; 0: there is none yet."""
    coder, batch = coder_of(kind), told(rows, paths)
    plain = coder.loss(batch[:, :-1], None)
    coder.threshold.copy_(running * plain.threshold)
    expected, l0 = by_hand(coder, batch, (running or 1) * float(plain.threshold))
    plain.loss.backward()
    (WEIGHT * expected).backward()
    gradients = {name: p.grad.clone() for name, p in coder.named_parameters()}
    coder.zero_grad()
    result = EvenCoder(coder, WEIGHT, NAMES).loss(batch, None)
    assert result.extra["uneven"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert result.loss.item() == pytest.approx(plain.loss.item() + WEIGHT * expected.item())
    for number, name in enumerate(NAMES):
        got = result.extra[f"l0_{name}"].item()
        assert got == pytest.approx(l0[number].item()) if number in l0 else math.isnan(got)
    result.loss.backward()
    for name in ("w_enc", "b_enc", "w_dec"):
        got = getattr(coder, name).grad
        assert (got - gradients[name]).norm() <= 1e-5 * gradients[name].norm(), name


def kinds(seed: int, directions: torch.Tensor) -> torch.Tensor:
    """Rows of two kinds, by turns: few strong directions each, and many that are half as strong."""
    generator = torch.Generator().manual_seed(seed)
    busy = torch.arange(64) % 2 == 1
    chosen = torch.rand(64, len(directions), generator=generator)
    share = torch.where(busy, 10 / len(directions), 4 / len(directions))
    weights = torch.where(busy, 0.6, 1.0)[:, None] * (chosen < share[:, None])
    x = (weights * (1 + torch.rand(weights.shape, generator=generator))) @ directions
    return torch.cat([x, busy[:, None].float()], dim=-1)


def test_training_levels_what_one_threshold_leaves_uneven(settings):
    unit = torch.randn(64, D_MODEL, generator=torch.Generator().manual_seed(3))
    directions = F.normalize(unit, dim=-1)
    gaps, errors = [], []
    for weight in (1e-9, 1.0):
        config = settings(path=["few", "many"], even_l0=weight, k=6, n_tokens=64 * 400)
        learner = Learner.create(config, [D_MODEL], "cpu")
        for step in range(400):
            result = learner.step(kinds(step, directions))
        gaps.append(float(result.extra["l0_many"] - result.extra["l0_few"]))
        errors.append(float(result.fvu))
    assert gaps[1] < 0.5 * gaps[0]
    assert errors[1] < 1.3 * errors[0]


def test_a_run_says_each_paths_l0_and_ships_an_sae_as_ever(
    run, settings, model, tmp_path, training_text, labelled_text, figures_of
):
    paths = [training_text, labelled_text]
    out = run(settings(path=paths, even_l0=0.5, passes=9), tmp_path / "even")
    names = {f"l0_{path.rsplit('/', 1)[1]}" for path in paths}
    last = figures_of(out)[-1]
    assert names <= set(last)
    assert last["l0"] == pytest.approx(4)
    assert load_sae(out).d_model == model.d_model


def test_paths_that_end_alike_have_figures_of_their_own(settings):
    coder = Learner.create(settings(path=["a/text", "b/text"], even_l0=1.0), [D_MODEL], "cpu").coder
    result = coder.loss(kinds(0, torch.eye(D_MODEL)), None)
    assert {"l0_a/text", "l0_b/text"} <= set(result.extra)


def test_it_goes_with_training_end_to_end(settings, model):
    trainer = open_trainer(settings(even_l0=0.5, kl=1.0), model)
    result = trainer.step()[""]
    assert result.extra["kl"].item() >= 0
    assert result.extra["uneven"].item() >= 0


def test_per_token_is_the_mean_of_each_tokens_own_share(rows):
    coder = coder_of("batchtopk")
    pooled = coder.loss(rows, None)
    each = TopKCoder(D_MODEL, D_SAE, TopKSettings(k=K, per_token=True), seed=0)
    each.load_state_dict(coder.state_dict())
    result = each.loss(rows, None)
    x = rows * coder.input_scale
    error, spread = x - result.recon, x - x.mean(0)
    expected = (error.pow(2).sum(-1) / spread.pow(2).sum(-1)).mean()
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert result.fvu_per_token.item() == pytest.approx(expected.item(), rel=1e-5)
    assert pooled.loss.item() == pytest.approx(result.fvu.item(), rel=1e-6)
    assert abs(result.loss.item() - pooled.loss.item()) > 1e-3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"even_l0": 1.0, "arch": "topk"}, "even_l0 is for batchtopk or matryoshka"),
        ({"even_l0": 1.0, "arch": "jumprelu"}, "even_l0 is for batchtopk or matryoshka"),
        ({"error": "per_token", "arch": "gated"}, "error needs batchtopk or"),
    ],
    ids=str,
)
def test_an_architecture_without_the_loss_is_refused(settings, changes, reason):
    with pytest.raises(ConfigError, match=reason):
        settings(**changes)


def test_more_paths_than_bfloat16_can_number_are_refused(settings):
    paths = [f"{number}.txt" for number in range(257)]
    settings(path=paths[:256], even_l0=1.0)
    settings(path=paths)
    with pytest.raises(ConfigError, match=r"even_l0 tells at most 256 paths apart, .* has 257"):
        settings(path=paths, even_l0=1.0)


def test_two_losses_that_want_one_column_are_refused(settings, labelled_text):
    with pytest.raises(ConfigError, match="leave one out"):
        settings(even_l0=1.0, supervised=SupervisedConfig(labelled_text))
