"""Score an SAE on text: how well it rebuilds activations, and what the model loses by it.

Each batch is run up to the site once, then from the site upwards four times (clean, SAE in place,
zero, mean): the mean that ablation puts in is known only when all batches have been read. Outlier
tokens pass through unchanged in all of them, so that no figure is flattered or ruined by a handful
of massive activations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saesteer.evals.rows import bos_of, token_rows
from saesteer.metrics.density import Density
from saesteer.metrics.language import token_ce, token_kl
from saesteer.metrics.outliers import OUTLIER_FACTOR, outlier_tokens
from saesteer.metrics.reconstruction import ReconstructionScores, ReconstructionSums
from saesteer.models import Model, TokenBatch, as_model, pad_rows, record
from saesteer.models.limits import finite_rows
from saesteer.models.replay import Replay
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE

Progress = Callable[[int, int], None]
"""Called with (batches done, batches in all)."""


@dataclass(frozen=True)
class SaeScores:
    """Scores of one SAE on one text.

    Attributes:
        fvu: pooled fraction of variance unexplained.
        fvu_per_token: mean of the tokens' own fractions.
        l0: mean number of active latents a token.
        delta_ce: cross entropy with the SAE in place minus clean, nats a token.
        ce_recovered: share of the loss under zero ablation that the SAE recovers; NaN where that
            ablation costs nothing.
        ce_recovered_mean: the same against mean ablation.
        kl: mean KL(SAE in place ‖ clean), nats a token.
        dead_fraction: share of dead latents: the statistic from training if the SAE's metadata
            holds one under `dead_fraction`, else `never_fired`.
        never_fired: share of latents that fired on none of these tokens.
        density: histogram of how often latents fire, over the same tokens.
        ce_clean: the model's own cross entropy on this text, nats a token.
        outlier_fraction: share of tokens left out as outliers.
        n_tokens: tokens that fvu and l0 are taken over.
    """

    fvu: float
    fvu_per_token: float
    l0: float
    delta_ce: float
    ce_recovered: float
    ce_recovered_mean: float
    kl: float
    dead_fraction: float
    never_fired: float
    density: Density
    ce_clean: float
    outlier_fraction: float
    n_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON values; what is not finite becomes None."""
        return {key: _json_value(value) for key, value in dataclasses.asdict(self).items()}


def _json_value(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class _Batch:
    """One batch with the site's activations; `keep` marks what is scored and replaced."""

    tokens: TokenBatch
    resid: Tensor
    keep: Tensor


def evaluate_sae(
    model: Model | Any,
    sae: SAE,
    texts: Iterable[str],
    *,
    max_tokens: int = 20_000,
    context: int = 256,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> SaeScores:
    """Score `sae` at its site of `model` on `texts`.

    Each text is cut into rows of at most `context` tokens, with BOS in front of each row if the
    tokenizer asks for one. BOS and padding are neither scored nor replaced.

    Args:
        texts: documents; read until `max_tokens` are taken.
        progress: called after each batch of the second, long half.

    Raises:
        DataError: the texts hold too few tokens to score, or the model gives NaN or infinity.
        ConfigError: a row is longer than the model has positions.
        DimensionError: the SAE does not fit the model.
    """
    model = as_model(model)
    check_width(sae, model)
    rows = token_rows(model, texts, max_tokens, context)
    return evaluate_rows(model, sae, rows, batch_size=batch_size, progress=progress)


@torch.no_grad()
def evaluate_rows(
    model: Model,
    sae: SAE,
    rows: Sequence[list[int]],
    *,
    batch_size: int = 8,
    outlier_factor: float = OUTLIER_FACTOR,
    progress: Progress | None = None,
) -> SaeScores:
    """Score `sae` on rows of ids that stand ready; `evaluate_sae` says the rest.

    Args:
        rows: as `token_rows` cuts them, each with the BOS that the tokenizer asks for.
        outlier_factor: infinity scores and replaces every token, as other libraries do.
    """
    sae = sae.to(device=model.device)
    groups = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    sums = ReconstructionSums(sae.d_sae)
    batches = [_read(model, sae, group, sums, outlier_factor) for group in groups]
    losses, replay, mean = _Losses(), Replay(model, sae.site), sums.mean()
    for done, batch in enumerate(batches, start=1):
        _measure(replay, sae, batch, mean, losses)
        if progress is not None:
            progress(done, len(batches))
    n_valid = sum(int(_scored(model, batch.tokens).sum()) for batch in batches)
    return _scores(sae, sums.scores(), losses, n_valid)


def _scored(model: Model, tokens: TokenBatch) -> Tensor:
    """Valid tokens without the BOS in front of each row, `[batch, pos]`."""
    mask = tokens.attention_mask.clone()
    mask[:, : len(bos_of(model))] = False
    return mask


def _read(
    model: Model,
    sae: SAE,
    rows: Sequence[list[int]],
    sums: ReconstructionSums,
    outlier_factor: float,
) -> _Batch:
    """Activations of one batch, added to the sums."""
    tokens = pad_rows(rows, model.pad_id, "right").to(model.device)
    resid = record(model, tokens, [sae.site])[sae.site]
    scored = _scored(model, tokens).to(resid.device)
    finite_rows(resid[scored], model, sae.site)
    keep = scored & ~outlier_tokens(resid, scored, outlier_factor)
    latents = sae.to(device=resid.device).encode(resid[keep])
    sums.add(sae.seen(resid[keep]), sae.decode(latents), latents)
    return _Batch(tokens, resid, keep)


class _Losses:
    """Per-token losses of the four passes, in nats."""

    def __init__(self) -> None:
        self.ce: dict[str, list[Tensor]] = {"clean": [], "sae": [], "zero": [], "mean": []}
        self.kl: list[Tensor] = []

    def mean_ce(self, key: str) -> float:
        """Mean cross entropy of one pass."""
        return float(torch.cat(self.ce[key]).double().mean())


def _measure(replay: Replay, sae: SAE, batch: _Batch, mean: Tensor, losses: _Losses) -> None:
    """Losses of one batch with the site as it is, rebuilt, zero, and at its mean."""
    resid, tokens = batch.resid, batch.tokens
    clean = replay(tokens, resid)
    mask = tokens.attention_mask.to(clean.device)
    ids = tokens.input_ids.to(clean.device)
    losses.ce["clean"].append(token_ce(clean, ids, mask).cpu())
    replacements = {
        "sae": sae.to(device=resid.device)(resid),
        "zero": torch.zeros_like(resid),
        "mean": mean.to(resid).expand_as(resid),
    }
    for key, new in replacements.items():
        changed = replay(tokens, torch.where(batch.keep[..., None], new, resid))
        losses.ce[key].append(token_ce(changed, ids, mask).cpu())
        if key == "sae":
            losses.kl.append(token_kl(changed, clean, mask).cpu())


def _scores(sae: SAE, rebuilt: ReconstructionScores, losses: _Losses, n_valid: int) -> SaeScores:
    clean, inside = losses.mean_ce("clean"), losses.mean_ce("sae")
    trained = sae.metadata.get("dead_fraction")
    return SaeScores(
        fvu=rebuilt.fvu,
        fvu_per_token=rebuilt.fvu_per_token,
        l0=rebuilt.l0,
        delta_ce=inside - clean,
        ce_recovered=_recovered(clean, inside, losses.mean_ce("zero")),
        ce_recovered_mean=_recovered(clean, inside, losses.mean_ce("mean")),
        kl=float(torch.cat(losses.kl).double().mean()),
        dead_fraction=rebuilt.never_fired if trained is None else float(trained),
        never_fired=rebuilt.never_fired,
        density=rebuilt.density,
        ce_clean=clean,
        outlier_fraction=1 - rebuilt.n_tokens / n_valid,
        n_tokens=rebuilt.n_tokens,
    )


def _recovered(clean: float, inside: float, ablated: float) -> float:
    """1 where the SAE costs nothing, 0 where it costs as much as the ablation."""
    return (ablated - inside) / (ablated - clean) if ablated != clean else math.nan
