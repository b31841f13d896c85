"""Labelled texts as one row each: activations and latents, averaged over the text's own tokens.

The mean leaves out the prompt, BOS, special tokens and outliers. All that the concept scores do
with these rows is linear (a probe, one latent's contribution, taking it away), so the pooled row of
an ablated text is the ablated pooled row, exactly; and a pooled latent is zero if and only if it
fired on no token. Source of the pooling: SAEBench's sparse probing (Karvonen et al. 2025).

Beside the SAE stands its random twin: directions drawn at random, as many and as sparse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.data.contrast import SPLITS, Contrast, Example, Split
from saesteer.errors import ContrastError
from saesteer.features.activations import kept_tokens, read_activations, text_batches
from saesteer.models import Model, record
from saesteer.saes.convert import to_threshold
from saesteer.saes.sae import SAE

Kind = Literal["resid", "latents", "control"]
Progress = Callable[[int, int], None]
"""Called with (texts read, texts in all)."""

_TWIN_TEXTS = 64
"""Train texts of each concept that the twin's threshold is fitted to: some thousand tokens."""


class Sample(NamedTuple):
    """Rows of one split with their labels."""

    rows: Float[Tensor, "texts width"]
    positive: Bool[Tensor, " texts"]

    def difference(self) -> Float[Tensor, " width"]:
        """Mean of the positive rows minus that of the negative ones."""
        return self.rows[self.positive].mean(0) - self.rows[~self.positive].mean(0)


@dataclass(frozen=True, eq=False)
class Pooled:
    """The texts of one concept, pooled: `resid` of the model, `latents` of the SAE.

    `control` are the latents of the SAE's twin; without one it has no columns.
    """

    name: str
    resid: Float[Tensor, "texts d_model"]
    latents: Float[Tensor, "texts d_sae"]
    control: Float[Tensor, "texts n_control"]
    positive: Bool[Tensor, " texts"]
    splits: tuple[Split, ...]

    def __post_init__(self) -> None:
        """Check that every split has texts of both labels.

        Raises:
            ContrastError: one that has not; a text of nothing but outliers does not count.
        """
        for split in SPLITS:
            labels = self.sample("resid", split).positive
            if not bool(labels.any()) or bool(labels.all()):
                raise ContrastError(
                    f"{self.name} ({split} split): no text of label {int(not labels.any())} has "
                    "tokens to read; give texts of both labels in train, validation and test."
                )

    def sample(self, kind: Kind, split: Split) -> Sample:
        """One kind of rows of one split."""
        rows: Tensor = getattr(self, kind)
        chosen = torch.tensor([name == split for name in self.splits], dtype=torch.bool)
        return Sample(rows[chosen], self.positive[chosen])


@torch.no_grad()
def pool_concepts(
    model: Model,
    sae: SAE,
    twin: SAE | None,
    contrasts: Sequence[Contrast],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> list[Pooled]:
    """Read every text once. Memory: 8·d_sae bytes a text.

    Raises:
        ContrastError: a split with texts of one label only.
        DataError: a text without tokens, or longer than the model can read.
    """
    saes = (sae,) if twin is None else (sae, twin)
    total, done, found = sum(len(contrast) for contrast in contrasts), 0, []
    for contrast in contrasts:

        def tell(n: int, before: int = done) -> None:
            if progress is not None:
                progress(before + n, total)

        found.append(_pool(model, saes, contrast, batch_size, tell))
        done += len(contrast)
    return found


def _pool(
    model: Model,
    saes: Sequence[SAE],
    contrast: Contrast,
    batch_size: int,
    tell: Callable[[int], None],
) -> Pooled:
    examples, site = contrast.examples, saes[0].site
    pooled = [torch.zeros(len(examples), sae.d_sae) for sae in saes]
    resid = torch.zeros(len(examples), saes[0].d_model)
    read = torch.zeros(len(examples), dtype=torch.bool)
    done = 0
    for batch in text_batches(model, examples, batch_size):
        recorded = record(model, batch.tokens, [site])[site]
        kept = kept_tokens(recorded, batch)
        rows = torch.tensor(batch.rows)
        read[rows] = kept.any(1)
        own = recorded[kept.to(recorded.device)].float()
        resid[rows] = _means(own, kept)
        for latents, sae in zip(pooled, saes, strict=True):
            latents[rows] = _means(sae.encode(own.to(sae.device)).float(), kept)
        done += len(batch.rows)
        tell(done)
    kept_examples = [e for e, seen in zip(examples, read.tolist(), strict=True) if seen]
    return Pooled(
        contrast.name,
        resid[read],
        pooled[0][read],
        pooled[1][read] if len(pooled) > 1 else pooled[0][read, :0],
        torch.tensor([e.label == 1 for e in kept_examples], dtype=torch.bool),
        tuple(e.split for e in kept_examples),
    )


def _means(
    tokens: Float[Tensor, "n width"], kept: Bool[Tensor, "texts pos"]
) -> Float[Tensor, "texts width"]:
    """Mean over each text's tokens, which lie text after text; zeros for a text of none."""
    parts = tokens.cpu().split(kept.sum(1).tolist())
    return torch.stack([part.sum(0) / max(len(part), 1) for part in parts])


@torch.no_grad()
def random_twin(sae: SAE, resid: Float[Tensor, "n d_model"], seed: int = 0) -> SAE:
    """An SAE of random directions with the shape of `sae`, and on `resid` as sparse as it is.

    Its latents look along random unit vectors from the sample's mean and share one threshold, the
    one that gives them the mean L0 of `sae` (rounded). So it knows the data's mean and scale and
    nothing else, which is what a probe on a thousand random cuts of the residual can do.
    """
    twin = replace(
        random_coder(sae, torch.Generator().manual_seed(seed)),
        b_dec=resid.mean(0).to(sae.b_dec),
        threshold=torch.zeros_like(sae.threshold),
        activation="topk",
        k=max(round(mean_l0(sae, resid)), 1),
        name=f"random twin of {sae.name}",
        metadata={},
    )
    return to_threshold(twin, resid.to(sae.device))[0]


def random_coder(sae: SAE, generator: torch.Generator) -> SAE:
    """`sae` with random unit vectors for directions; its thresholds are the caller's to set."""
    directions = torch.randn(sae.d_sae, sae.d_model, generator=generator)
    w_dec = torch.nn.functional.normalize(directions, dim=-1).to(sae.device, sae.dtype)
    return replace(
        sae,
        w_enc=w_dec.T.contiguous(),
        b_enc=torch.zeros_like(sae.b_enc),
        w_dec=w_dec,
        apply_b_dec_to_input=True,
    )


def mean_l0(sae: SAE, resid: Float[Tensor, "n d_model"]) -> float:
    """Mean number of active latents a token."""
    return float((sae.encode(resid.to(sae.device)) > 0).sum(-1).double().mean())


def twin_sample(
    model: Model, sae: SAE, contrasts: Sequence[Contrast]
) -> Float[Tensor, "n d_model"]:
    """Activations of the first train texts of every concept, outliers left out."""
    texts: list[Example] = []
    for contrast in contrasts:
        texts += contrast.split("train").examples[:_TWIN_TEXTS]
    return torch.cat(read_activations(model, texts, sae.site, drop_outliers=True))
