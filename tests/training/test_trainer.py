"""What the trainer does around a step: schedule, statistics, signals and its refusals."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import asdict, replace

import pytest
import torch

from saesteer.errors import CheckpointError, DataError
from saesteer.training.distributed import World
from saesteer.training.folder import check_same_config
from saesteer.training.learner import Learner, learning_rate
from saesteer.training.sae import open_trainer
from saesteer.training.signals import StopRequest, watch_signals
from saesteer.training.trainer import SAETrainer


@pytest.fixture
def trainer(settings, model):
    def make(**changes) -> SAETrainer:
        return open_trainer(settings(**changes), model)

    return make


def only(trainer: SAETrainer) -> Learner:
    return trainer.learners[""]


def test_the_learning_rate_rises_stays_and_falls(settings):
    config = settings(n_tokens=64 * 100, lr=1.0, warmup_steps=10, decay_share=0.2)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([1.0 - i / 20 for i in range(20)])
    assert rates[-1] > 0


def test_warm_up_and_tail_can_be_left_out(settings):
    config = settings(lr=1.0, warmup_steps=0, decay_share=0.0)
    assert {learning_rate(config, step) for step in range(30)} == {1.0}
    whole = settings(lr=1.0, warmup_steps=0, decay_share=1.0)
    assert learning_rate(whole, 15) == pytest.approx(0.5)


def test_a_step_is_taken_at_the_rate_that_is_logged(trainer):
    one = trainer(n_tokens=64 * 8, warmup_steps=3, decay_share=0.5)
    learner = only(one)
    for step in range(8):
        figures = learner.figures(one.step()[""])
        assert learner.optimizer.param_groups[0]["lr"] == learning_rate(learner.config, step)
        assert figures["lr"] == learning_rate(learner.config, step)


@pytest.mark.parametrize("arch", ["batchtopk", "topk"])
def test_steps_lower_the_loss_and_keep_decoder_rows_at_unit_norm(trainer, arch):
    trainer = trainer(arch=arch)
    losses = []
    for _ in range(25):
        result = trainer.step()[""]
        losses.append(result.fvu.item())
        norms = only(trainer).coder.w_dec.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-6, rtol=0)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert trainer.step_count == 25


def test_the_same_settings_give_the_same_bits(trainer):
    runs = []
    for _ in range(2):
        one = trainer(seed=3)
        for _ in range(12):
            one.step()[""]
        runs.append(only(one).coder.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_a_seed_chooses_the_first_weights_and_the_order_of_the_text(trainer):
    one, other = (trainer(seed=seed) for seed in (3, 4))
    assert not torch.equal(only(one).coder.w_dec, only(other).coder.w_dec)
    assert not torch.equal(one.stream.next_batch(), other.stream.next_batch())


TRANSCODER = {"site": "mlp_in.1", "target": "mlp_out.1"}


@pytest.mark.parametrize(
    ("changes", "beside"),
    [
        ({"seed": 4}, {}),
        ({"threshold_rate": 0.5}, {}),
        ({"aux_k": 1}, {}),
        ({"aux_coefficient": 1.0}, {}),
        ({"dead_after_tokens": 320}, {}),
        ({"error": "per_token"}, {}),
        ({"grad_clip": 1e-3}, {}),
        ({"warmup_steps": 0}, {}),
        ({"decay_share": 1.0}, {}),
        ({"reuse": 2}, {}),
        ({"skip": True}, TRANSCODER),
        ({"sparsity": 0.1}, {"arch": "standard"}),
    ],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_every_setting_of_a_loss_and_its_steps_is_read(trainer, changes, beside):
    """The same seed gives the same bits, so that a setting nobody reads would change none."""
    states = []
    for settings in (beside, {**beside, **changes}):
        one = trainer(**{"dead_after_tokens": 64, "n_tokens": 64 * 12, **settings})
        for _ in range(6):
            one.step()
        states.append(only(one).coder.state_dict())
    plain, changed = states
    same = plain.keys() == changed.keys()
    assert not (same and all(torch.equal(plain[name], changed[name]) for name in plain))


def test_gradients_are_clipped_to_the_norm_asked_for(trainer, monkeypatch):
    norms = []
    one = trainer(grad_clip=1e-3)
    step = only(one).optimizer.step

    def watch():
        grads = [p.grad.norm() for p in only(one).coder.parameters()]
        norms.append(torch.stack(grads).norm().item())
        step()

    monkeypatch.setattr(only(one).optimizer, "step", watch)
    one.step()[""]
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def quieten(trainer, amount):
    with torch.no_grad():
        only(trainer).coder.b_enc[:5] -= amount
    return [trainer.step()[""] for _ in range(6)]


def test_a_latent_that_stays_quiet_is_dead(trainer):
    one = trainer(dead_after_tokens=200)
    results = quieten(one, 50.0)
    assert (only(one).firing.last[:5] == 0).all()
    assert set(range(5)) <= set(only(one).dead().tolist())
    assert [result.aux.item() > 0 for result in results] == [False] * 4 + [True] * 2
    assert only(one).dead_fraction(200) == len(only(one).dead()) / 64
    assert only(one).dead_fraction() == len(only(one).dead(3 * 64)) / 64 > 0, "of half the run"


def test_the_auxiliary_loss_moves_dead_latents_towards_the_error(trainer):
    moved = []
    for coefficient in (0.0, 1.0):
        one = trainer(dead_after_tokens=200, aux_coefficient=coefficient)
        quieten(one, 2.0)
        dead = only(one).dead()
        before = only(one).coder.w_dec[dead].detach().clone()
        one.step()[""]
        moved.append((only(one).coder.w_dec[dead] - before).norm().item())
    assert moved[1] > 2 * moved[0]


def test_a_latent_counts_as_firing_only_above_zero(trainer):
    one = trainer(arch="topk", k=30)
    with torch.no_grad():
        only(one).coder.b_enc.sub_(3.0)
    learner = only(one)
    batch = one.stream.next_batch()
    learner.coder.initialise(batch)
    pre = (batch * only(one).coder.input_scale - only(one).coder.b_dec) @ only(one).coder.w_enc.t()
    alive = ((pre + only(one).coder.b_enc) > 0).any(0)
    assert alive.any()
    assert not alive.all()
    learner.step(batch)
    assert torch.equal(learner.firing.last > 0, alive)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_is_refused(trainer, bad):
    one = trainer()
    result = replace(one.step()[""], loss=torch.tensor(bad))
    with pytest.raises(DataError, match=f"the loss is {bad} at step 1; lower lr"):
        only(one).figures(result)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_saved(trainer, tmp_path, bad):
    one = trainer()
    one.step()[""]
    good = one.save(tmp_path)
    with torch.no_grad():
        only(one).coder.w_enc[0, 0] = bad
    only(one).step_count += 1
    with pytest.raises(DataError, match=r"a weight is NaN or infinite at step 2; lower lr"):
        one.save(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == [good.name]


def test_a_restored_trainer_is_the_same(trainer, tmp_path):
    one = trainer()
    for _ in range(7):
        one.step()[""]
    path = one.save(tmp_path)
    other = trainer()
    other.restore(path)
    assert other.step_count == 7
    for trainer_ in (one, other):
        for _ in range(5):
            trainer_.step()
    ours, theirs = only(one).coder.state_dict(), only(other).coder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_checkpoint_of_something_else_is_refused(trainer, tmp_path, settings):
    one = trainer()
    one.step()[""]
    path = one.save(tmp_path)
    other = trainer()
    only(other).coder.register_buffer("extra", torch.zeros(1))
    with pytest.raises(CheckpointError, match="is not a checkpoint of this run"):
        other.restore(path)


def test_settings_that_differ_are_named(settings, tmp_path):
    saved = asdict(settings())
    check_same_config(saved, saved, tmp_path)
    changed = asdict(settings(lr=1.0, k=5, path="elsewhere"))
    with pytest.raises(CheckpointError) as error:
        check_same_config(saved, changed, tmp_path)
    text = str(error.value)
    assert "lr: 0.003 then, 1.0 now" in text
    assert "k: 4 then, 5 now" in text
    assert "'elsewhere' now" in text
    assert "d_sae" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"log_every_steps": 7},
        {"checkpoint_every_steps": 7},
        {"keep_checkpoints": 5},
        {"device": None},
        {"passes": 2},
    ],
)
def test_settings_that_change_no_number_may_differ(settings, tmp_path, changes):
    check_same_config(asdict(settings()), asdict(settings(**changes)), tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_asks_and_a_second_ends(number):
    before = signal.getsignal(number)
    with watch_signals() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
        with pytest.raises(SystemExit) as exit_:
            signal.raise_signal(number)
        assert exit_.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_a_signal_that_comes_while_processes_agree_is_kept_for_the_next_time(monkeypatch):
    stop = StopRequest()

    def interrupted(_world, number):
        stop.signal = signal.SIGTERM
        return number

    with monkeypatch.context() as patch:
        patch.setattr(World, "most", interrupted)
        assert not stop.agreed(World())
    assert stop.agreed(World())
    assert stop.signal == signal.SIGTERM


def test_signals_are_left_alone_outside_the_main_thread():
    seen = []

    def body():
        with watch_signals() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [None]


VARIANTS = {
    "k8": {"k": 8},
    "wide": {"d_sae": 96, "lr": 1e-3},
    "early": {"site": "resid_post.0", "seed": 5},
}


def test_each_of_many_learns_as_if_alone(trainer, settings, model):
    """One pass feeds them all; only the tokens that are outliers elsewhere could tell."""
    many = trainer(variants=VARIANTS)
    assert list(many.learners) == list(VARIANTS)
    for _ in range(8):
        many.step()
    for name, changes in VARIANTS.items():
        alone = trainer(**changes)
        if "seed" in changes:  # the stream's seed is the run's own
            alone.stream.ring._generator.manual_seed(settings().seed + 1)
        for _ in range(8):
            alone.step()
        ours = many.learners[name].coder.state_dict()
        for key, value in only(alone).coder.state_dict().items():
            assert torch.equal(ours[key], value), (name, key)


def test_many_are_restored_together(trainer, tmp_path):
    variants = {**VARIANTS, "k8.coder": {"k": 5}}  # begins as what k8 has of its own does
    one, other = trainer(variants=variants), trainer(variants=variants)
    for _ in range(6):
        one.step()
    other.restore(one.save(tmp_path))
    for _ in range(4):
        a, b = one.step(), other.step()
    assert {n: r.figures() for n, r in a.items()} == {n: r.figures() for n, r in b.items()}
    assert one.figures(a).keys() >= {"k8/fvu", "wide/l0", "early/running_threshold"}


@pytest.mark.parametrize("arch", ["standard", "gated", "jumprelu", "abstopk", "matryoshka"])
def test_every_architecture_learns_and_resumes(trainer, tmp_path, arch):
    settings = {"arch": arch, "sparsity": 0.5, "n_tokens": 64 * 40, "passes": 2}
    one, other = trainer(**settings), trainer(**settings)
    first = one.step()[""].loss.item()
    for _ in range(19):
        one.step()
    other.restore(one.save(tmp_path))
    for _ in range(10):
        last, again = one.step()[""], other.step()[""]
    assert last.figures() == again.figures()
    assert last.loss.item() < 0.9 * first
    ours, theirs = only(one).coder.state_dict(), only(other).coder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
