"""One training step against sae-lens's: same weights, activations, batch and optimiser.

sae-lens runs its own trainer's step. Ours is timed as it trains (decoder rows kept at unit norm,
which sae-lens does not do). For the comparison of losses that constraint is taken off and the loss
is scaled to sae-lens's, since gradients are clipped to norm 1 in both. Its steps read new
activations each, as in training: a few batches that come round again are learnt by heart, which
multiplies roundings (768 -> 24,576 in fp32: 3e-5 over 50 new batches, 9e-4 where 4 come round).

On a GPU a turn is many steps, timed until the device is done. `--tuned` gives sae-lens what its
runner can: autocast, torch.compile and TF32; batches lie on the device for both, so that nothing is
left to prefetch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from timing import Progress, interleave, peak_resident, ratios, spread

from saesteer.config import TextConfig, TrainSAEConfig
from saesteer.models.load import best_device
from saesteer.training.coder import Coder
from saesteer.training.learner import Learner

LR = 3e-4
N_BATCHES = 4


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Ratio of times, and how far the losses part over `args.steps` steps."""
    args.shape = args.shape or ("576x8192" if args.end_to_end else "768x24576")
    args.device = args.device or best_device()
    if args.end_to_end:
        import end_to_end

        return end_to_end.run(args, progress)
    difference = loss_difference(args, progress)
    batches = list(islice(activations(args), N_BATCHES))
    ours, theirs = our_learner(args), their_trainer(args)
    same_weights(ours.coder, theirs.sae)
    feed = {"saesteer": cycle(batches), "sae-lens": cycle(batches)}
    contenders = {"sae-lens": theirs, "saesteer": ours}
    turns = {
        name: partial(turn, trainer, feed[name], args.device)
        for name, trainer in contenders.items()
    }
    seconds = interleave(turns, args.rounds, progress)
    n_tokens = steps_a_turn(args.device) * args.batch
    return {
        "ratio": ratios(seconds["sae-lens"], seconds["saesteer"]),
        "loss_max_rel_diff": difference,
        "tokens_per_second": n_tokens / spread(seconds["saesteer"])["median"],
        "rival_tokens_per_second": n_tokens / spread(seconds["sae-lens"])["median"],
        "setting": setting(args),
    }


def steps_a_turn(device: str) -> int:
    """Enough steps that waiting for the device is no part of what is timed."""
    return 50 if torch.device(device).type == "cuda" else 1


def turn(trainer: Any, feed: Iterator[torch.Tensor], device: str) -> None:
    """Steps of one contender, to their end."""
    for _ in range(steps_a_turn(device)):
        trainer.step(next(feed))
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def memory(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Peak memory that weights, optimiser and steps add to a process that holds the batches."""
    peaks, args.device = {}, "cpu"
    for turn, side in enumerate(("sae-lens", "saesteer"), 1):
        command = [sys.executable, __file__, side, args.shape, str(args.k), str(args.batch)]
        command += [args.arch, args.dtype]
        peaks[side] = int(subprocess.run(command, check=True, capture_output=True).stdout)
        progress(turn, 2, f"{side} {peaks[side] / 2**20:.0f} MiB")
    return {
        "ratio": peaks["saesteer"] / peaks["sae-lens"],
        "bytes": peaks["saesteer"],
        "rival_bytes": peaks["sae-lens"],
        "setting": setting(args),
    }


def setting(args: argparse.Namespace) -> dict[str, Any]:
    """What was run, and on what."""
    names = ("shape", "k", "batch", "arch", "dtype", "device", "tuned")
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.device(args.device).type == "cuda":
        machine["card"] = torch.cuda.get_device_name(args.device)
    return {name: getattr(args, name) for name in names} | machine


def activations(args: argparse.Namespace) -> Iterator[torch.Tensor]:
    """Batches of unit mean square, without end: sparse sums of a random dictionary, plus noise."""
    d_model, _ = shape_of(args)
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(4 * d_model, d_model, generator=generator) / d_model**0.5
    while True:
        index = torch.randint(0, len(atoms), (args.batch, args.k), generator=generator)
        scale = torch.rand(args.batch, args.k, generator=generator)
        x = torch.nn.functional.embedding_bag(index, atoms, mode="sum", per_sample_weights=scale)
        x += 0.1 * x.std() * torch.randn(x.shape, generator=generator)
        yield (x / x.pow(2).mean().sqrt()).to(args.device)


def shape_of(args: argparse.Namespace) -> tuple[int, int]:
    """`768x24576` as d_model and d_sae."""
    d_model, d_sae = args.shape.split("x")
    return int(d_model), int(d_sae)


def our_learner(args: argparse.Namespace) -> Learner:
    """A learner whose learning rate is constant."""
    d_model, d_sae = shape_of(args)
    config = TrainSAEConfig(
        model="none",
        site="resid_post.0",
        text=TextConfig("none"),
        arch=args.arch,
        d_sae=d_sae,
        k=args.k,
        lr=LR,
        batch_size=args.batch,
        n_tokens=10**9,
        warmup_steps=0,
        dtype=args.dtype,
    )
    learner = Learner.create(config, [d_model], args.device)
    learner.coder.initialise(torch.ones(2, d_model, device=args.device))
    learner.step_count = 1  # scale and bias are set: start as sae-lens does
    learner.coder.b_dec.data.zero_()
    return learner


def their_trainer(args: argparse.Namespace) -> Any:
    """sae-lens's trainer around its SAE of the same architecture, without its norm rescaling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sae_lens.saes as lens
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer
    d_model, d_sae = shape_of(args)
    size = {"d_in": d_model, "d_sae": d_sae, "k": args.k, "device": args.device}
    size["rescale_acts_by_decoder_norm"] = False
    match args.arch:
        case "topk":
            sae = lens.TopKTrainingSAE(lens.TopKTrainingSAEConfig(**size))
        case "batchtopk":
            sae = lens.BatchTopKTrainingSAE(lens.BatchTopKTrainingSAEConfig(**size))
        case "matryoshka":
            widths = list(our_learner(args).config.prefix_widths)
            cfg = lens.MatryoshkaBatchTopKTrainingSAEConfig(**size, matryoshka_widths=widths)
            sae = lens.MatryoshkaBatchTopKTrainingSAE(cfg)
    cfg = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=args.batch,
        lr=LR,
        lr_end=LR,
        device=args.device,
        autocast=args.tuned,
    )
    trainer = SAETrainer(cfg, sae, iter(()))
    if args.tuned:
        torch.set_float32_matmul_precision("high")
        trainer.sae.training_forward_pass = torch.compile(trainer.sae.training_forward_pass)
    return trainer


@torch.no_grad()
def same_weights(coder: Any, sae: Any) -> None:
    """Give sae-lens's SAE our weights."""
    sae.W_enc.copy_(coder.w_enc.t())
    sae.W_dec.copy_(coder.w_dec)
    sae.b_enc.copy_(coder.b_enc)
    sae.b_dec.copy_(coder.b_dec)


class Unconstrained(Coder):
    """A coder without the unit norm of its decoder rows, and sae-lens's scale of the loss."""

    def __init__(self, inner: Coder, levels: int) -> None:
        super().__init__()
        self.inner, self.levels = inner, levels

    def loss(self, batch, dead):
        result = self.inner.loss(batch, dead)
        variance = (batch - batch.mean(0)).pow(2).sum() / len(batch)
        return replace(result, loss=result.loss * variance * self.levels)

    def initialise(self, sample):
        raise AssertionError("initialised already")

    def before_update(self):
        pass

    def after_update(self, result):
        pass

    def figures(self):
        return {}

    def to_sae(self, sites, model_name):
        raise AssertionError("it does not ship")


def loss_difference(args: argparse.Namespace, progress: Progress) -> float:
    """Largest relative difference of the losses over `args.steps` steps from equal weights."""
    ours, theirs = our_learner(args), their_trainer(args)
    same_weights(ours.coder, theirs.sae)
    levels = len(ours.config.prefix_widths) if args.arch == "matryoshka" else 1
    ours.coder = Unconstrained(ours.coder, levels)
    worst = 0.0
    for step, batch in enumerate(islice(activations(args), args.steps)):
        mine, other = ours.step(batch).loss.item(), theirs.step(batch).loss.item()
        worst = max(worst, abs(mine - other) / abs(other))
        progress(step + 1, args.steps, f"losses {mine:.6f} {other:.6f}")
    return worst


def _peak(side: str, args: argparse.Namespace) -> int:
    """Bytes that three steps add to this process."""
    batches = list(islice(activations(args), N_BATCHES))
    theirs = their_trainer(argparse.Namespace(**{**vars(args), "shape": "8x16", "k": 2}))
    theirs.step(torch.randn(args.batch, 8))  # what the library itself takes
    before = peak_resident()
    contender = our_learner(args) if side == "saesteer" else their_trainer(args)
    for batch in batches[:3]:
        contender.step(batch)
    return peak_resident() - before


if __name__ == "__main__":
    side, shape, k, batch, arch, dtype = sys.argv[1:]
    print(
        _peak(
            side,
            argparse.Namespace(
                shape=shape,
                k=int(k),
                batch=int(batch),
                arch=arch,
                dtype=dtype,
                device="cpu",
                tuned=False,
            ),
        )
    )
