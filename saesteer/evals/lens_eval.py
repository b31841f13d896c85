"""The same SAE scored by sae-lens's own `run_evals` on the same tokens, beside our figures.

What `run_evals` (sae-lens 6.54) computes, and how ours is brought to the same definition:

- Tokens. It takes rows of one length from an `ActivationsStore`, adds no BOS to rows that are
  tokenized already, and leaves out BOS, EOS, padding and SEP by their ids. Both sides get the same
  full rows here; shorter ones are left out.
- Outliers. It knows none: every token is scored and replaced. So ours runs without a limit too, and
  these figures differ from those of `saesteer sae eval` wherever activations are massive.
- `explained_variance` is 1 - fvu, pooled over all tokens (`explained_variance_legacy`, with the
  mean of each batch of its own, has no counterpart here).
- `ce_loss_score` is ce_recovered against zero ablation, which in sae-lens also zeroes a BOS;
  its cross entropy leaves out the token predicted from a BOS, and ours does not. Where the
  tokenizer puts a BOS first, the losses therefore differ by that one token a row.
- `kl_div_with_sae` is KL(clean ‖ SAE in place); our `kl` is the other direction, so the one
  compared here is computed apart.
- Precision: float32 throughout; the bridge's attention rounds differently (1e-5 of a logit).
"""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saesteer.errors import DataError, ModelError
from saesteer.evals.rows import token_rows
from saesteer.evals.sae_eval import Progress, evaluate_rows
from saesteer.metrics.language import token_kl
from saesteer.models import Model, TokenBatch, as_model, record
from saesteer.models.replay import Replay
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE
from saesteer.saes.save import save_sae


@dataclass(frozen=True)
class LensAgreement:
    """Figures of one SAE on the same rows, by name: ours, and sae-lens's under our name.

    Attributes:
        ours: fvu, l0, ce_clean, ce_sae, ce_recovered, kl_clean_sae (nats a token).
        theirs: the same figures read from `run_evals`.
        n_tokens: tokens in the rows.
    """

    ours: dict[str, float]
    theirs: dict[str, float]
    n_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"n_tokens": self.n_tokens, "ours": self.ours, "sae_lens": self.theirs}


def lens_agreement(
    model: Model | Any,
    sae: SAE,
    texts: Iterable[str],
    *,
    max_tokens: int = 20_000,
    context: int = 256,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> LensAgreement:
    """Score `sae` by both libraries; sae-lens reads it from a folder that `save_sae` writes.

    Needs a second copy of the model in memory, which a TransformerBridge wraps.

    Args:
        progress: called after each batch of our pass and of sae-lens's two.

    Raises:
        DataError: no text fills a whole row.
        DimensionError: the SAE does not fit the model.
        ModelError: TransformerBridge can't wrap this model.
    """
    model = as_model(model)
    check_width(sae, model)
    rows = [r for r in token_rows(model, texts, max_tokens, context) if len(r) == context]
    batch_size = min(batch_size, len(rows))
    if not rows:
        raise DataError(
            f"no text fills a row of {context} tokens, which sae-lens needs; lower the context."
        )
    rows = rows[: len(rows) // batch_size * batch_size]
    n_batches = len(rows) // batch_size

    def tell(done: int, _total: int) -> None:
        if progress is not None:
            progress(done, 3 * n_batches)

    ours = _ours(model, sae, rows, batch_size, tell)
    with tempfile.TemporaryDirectory() as folder:
        saved, bridge = save_sae(sae, folder), bridge_of(model)
        theirs = run_lens_evals(bridge, saved, rows, batch_size, lambda n: tell(n_batches + n, 0))
    return LensAgreement(ours, theirs, len(rows) * context)


def run_lens_evals(
    bridge: Any,
    folder: Path,
    rows: Sequence[list[int]],
    batch_size: int,
    tell: Callable[[int], None] = lambda _: None,
) -> dict[str, float]:
    """sae-lens's figures for the SAE in `folder` on `rows`, under our names.

    Args:
        bridge: a TransformerBridge or HookedTransformer.
        rows: of one length, their number a multiple of `batch_size`, so that both of its passes,
            which read on from each other and then start again, see all rows once.
        tell: called with the number of batches read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import SAE as LensSAE
        from sae_lens.evals import get_eval_everything_config, run_evals
        from sae_lens.training.activation_scaler import ActivationScaler

        sae = LensSAE.load_from_disk(folder, device=str(next(bridge.parameters()).device))
        n_batches = len(rows) // batch_size
        figures, _ = run_evals(
            sae,
            _counted(_store(bridge, sae, rows, batch_size), tell),
            bridge,
            ActivationScaler(),
            get_eval_everything_config(batch_size, n_batches, n_batches),
        )
    losses = figures["model_performance_preservation"]
    return {
        "fvu": 1 - figures["reconstruction_quality"]["explained_variance"],
        "l0": figures["sparsity"]["l0"],
        "ce_clean": losses["ce_loss_without_sae"],
        "ce_sae": losses["ce_loss_with_sae"],
        "ce_recovered": losses["ce_loss_score"],
        "kl_clean_sae": figures["model_behavior_preservation"]["kl_div_with_sae"],
    }


def bridge_of(model: Model) -> Any:
    """A TransformerBridge around a copy of the model: booting changes the module it is given.

    Raises:
        ModelError: this architecture has no bridge.
    """
    hf, name = copy.deepcopy(model.hf), type(model.hf).__name__
    hf.__dict__.pop("_saesteer_model", None)
    hf.config.architectures = [name]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens.model_bridge import TransformerBridge
        from transformers import AutoTokenizer

        hf.config._name_or_path = folder
        hf.config.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        try:
            return TransformerBridge.boot_transformers(
                folder, hf_model=hf, tokenizer=tokenizer, device=str(model.device)
            )
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"TransformerBridge can't wrap {model.name} ({name}): {reason}") from (
                error
            )


def _store(bridge: Any, sae: Any, rows: Sequence[list[int]], batch_size: int) -> Any:
    """A store that hands out `rows` in order, over and over."""
    from datasets import Dataset
    from sae_lens.training.activations_store import ActivationsStore

    return ActivationsStore(
        model=bridge,
        dataset=Dataset.from_dict({"input_ids": list(rows)}),
        streaming=False,
        hook_name=sae.cfg.metadata.hook_name,
        hook_head_index=sae.cfg.metadata.hook_head_index,
        context_size=len(rows[0]),
        d_in=sae.cfg.d_in,
        n_batches_in_buffer=1,
        total_training_tokens=len(rows),
        store_batch_size_prompts=batch_size,
        train_batch_size_tokens=batch_size * len(rows[0]),
        prepend_bos=False,
        normalize_activations="none",
        device=next(bridge.parameters()).device,
        dtype="float32",
    )


def _counted(store: Any, tell: Callable[[int], None]) -> Any:
    """The same store, which says how many batches it has handed out."""
    read, count = store.get_batch_tokens, itertools.count(1)

    def counted(*args: Any) -> Any:
        tell(next(count))
        return read(*args)

    store.get_batch_tokens = counted
    return store


def _ours(
    model: Model, sae: SAE, rows: Sequence[list[int]], batch_size: int, progress: Progress
) -> dict[str, float]:
    scores = evaluate_rows(
        model, sae, rows, batch_size=batch_size, outlier_factor=math.inf, progress=progress
    )
    return {
        "fvu": scores.fvu,
        "l0": scores.l0,
        "ce_clean": scores.ce_clean,
        "ce_sae": scores.ce_clean + scores.delta_ce,
        "ce_recovered": scores.ce_recovered,
        "kl_clean_sae": _kl_clean_sae(model, sae, rows, batch_size),
    }


@torch.no_grad()
def _kl_clean_sae(model: Model, sae: SAE, rows: Sequence[list[int]], batch_size: int) -> float:
    """Mean KL(clean ‖ SAE in place) over all tokens, in nats."""
    replay, parts = Replay(model, sae.site), []
    for start in range(0, len(rows), batch_size):
        ids = torch.tensor(rows[start : start + batch_size], device=model.device)
        tokens = TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))
        resid = record(model, tokens, [sae.site])[sae.site]
        inside = replay(tokens, sae.to(device=resid.device)(resid))
        clean = replay(tokens, resid)
        parts.append(token_kl(clean, inside, tokens.attention_mask.to(clean.device)).cpu())
    return float(torch.cat(parts).double().mean())
