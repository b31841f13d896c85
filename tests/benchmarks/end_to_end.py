"""Text in, SAE steps out: this trainer against sae-lens's runner on one model, text and batch size.

sae-lens runs twice, as it comes (fp32) and with both of its autocasts on. Each contender keeps its
own stream and trainer from round to round, so that what is timed is the steady state: packing,
forward passes, shuffling, steps. The first round, which does not count, pays for our compilation.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import Progress, interleave, ratios, spread

from saesteer.config import TextConfig, TrainSAEConfig
from saesteer.data.text import iterate_texts
from saesteer.evals.assets import prose
from saesteer.evals.lens_eval import bridge_of
from saesteer.models import Model, load_model, record
from saesteer.training.sae import open_trainer

BATCH, CONTEXT, MODEL, SITE = 2048, 256, "smollm2-135m-instruct", "resid_post.9"
N_STEPS = 16
"""Steps of a round: our shuffle ring is refilled once in them."""
COPIES = 400
"""Times that the text is read, so that it outlasts the rounds."""


def run(args: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Ratios of times over the rounds, and what each SAE then leaves unexplained."""
    d_sae = int(args.shape.split("x")[1])
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = list(iterate_texts(args.text, args.field) if args.text else prose())
        model = load_model(MODEL, dtype="fastest")
        ours = our_trainer(model, texts, Path(folder), d_sae, args.k)
        rivals = {
            name: their_trainer(texts, d_sae, args.k, autocast=autocast)
            for name, autocast in (("sae-lens", False), ("sae-lens autocast", True))
        }
        contenders: dict[str, Callable[[], Any]] = {
            name: lambda pair=pair: their_steps(*pair) for name, pair in rivals.items()
        }
        contenders["saesteer"] = lambda: [ours.step() for _ in range(N_STEPS)]
        seconds = interleave(contenders, args.rounds, progress)
        batch = held_out(model)
        unexplained = {name: fvu(pair[0].sae, batch) for name, pair in rivals.items()}
        unexplained["saesteer"] = fvu(ours.learners[""].to_sae(model.name), batch)
    speed = {name: BATCH * N_STEPS / spread(times)["median"] for name, times in seconds.items()}
    return {
        "ratio": ratios(seconds["sae-lens"], seconds["saesteer"]),
        "ratio_autocast": ratios(seconds["sae-lens autocast"], seconds["saesteer"]),
        "tokens_per_second": speed["saesteer"],
        "rival_tokens_per_second": speed["sae-lens"],
        "rival_autocast_tokens_per_second": speed["sae-lens autocast"],
        "fvu_after": unexplained,
        "setting": {
            **{"model": MODEL, "site": SITE, "d_sae": d_sae, "k": args.k, "batch": BATCH},
            **{"context": CONTEXT, "threads": torch.get_num_threads(), "arch": "topk"},
        },
    }


def our_trainer(model: Model, texts: list[str], folder: Path, d_sae: int, k: int) -> Any:
    """As configs/sae/smollm2-135m.yaml runs, its blocks compiled, but every token used once."""
    (folder / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    config = TrainSAEConfig(
        model=MODEL,
        site=SITE,
        text=TextConfig(str(folder), passes=COPIES, context=CONTEXT),
        arch="topk",
        d_sae=d_sae,
        k=k,
        batch_size=BATCH,
        shuffle_batches=N_STEPS,
        n_tokens=10**9,
        compile=True,
    )
    return open_trainer(config, model)


def their_trainer(texts: list[str], d_sae: int, k: int, *, autocast: bool) -> tuple[Any, Any]:
    """sae-lens's trainer and activation store, made by its runner."""
    import datasets
    import sae_lens
    from sae_lens.training.sae_trainer import SAETrainer

    whole = load_model(MODEL)
    cfg = sae_lens.LanguageModelSAERunnerConfig(
        sae=sae_lens.TopKTrainingSAEConfig(d_in=whole.layout.d_model, d_sae=d_sae, k=k),
        model_name=MODEL,
        hook_name=whole.check_site(SITE).lens_name,
        is_dataset_tokenized=False,
        streaming=False,
        context_size=CONTEXT,
        prepend_bos=False,
        train_batch_size_tokens=BATCH,
        store_batch_size_prompts=16,
        training_tokens=10**9,
        autocast=autocast,
        autocast_lm=autocast,
        logger=sae_lens.LoggingConfig(log_to_wandb=False),
        output_path=None,
    )
    dataset = datasets.Dataset.from_dict({"text": texts * COPIES})
    runner = sae_lens.LanguageModelSAETrainingRunner(
        cfg, override_dataset=dataset, override_model=bridge_of(whole)
    )
    store = runner.activations_store
    return SAETrainer(cfg.to_sae_trainer_config(), runner.sae, store), store


def their_steps(trainer: Any, store: Any) -> None:
    """So many of the runner's steps."""
    for _ in range(N_STEPS):
        trainer.step(next(store))
        trainer.n_training_steps += 1


@torch.no_grad()
def held_out(model: Model) -> torch.Tensor:
    """Activations that both are asked to rebuild in the end, `[n, d_model]`, first tokens out."""
    batch = model.tokenize([text[:2000] for text in prose()])
    return record(model, batch, [SITE])[model.check_site(SITE)][:, 1:].flatten(0, 1).float()


@torch.no_grad()
def fvu(sae: Any, x: torch.Tensor) -> float:
    """Pooled fraction of variance unexplained."""
    error = x - sae.decode(sae.encode(x))
    return float(error.pow(2).sum() / (x - x.mean(0)).pow(2).sum())
