"""A feature's card: where it fires in a stream of text, how often, and what it does to the output.

Texts are read once, in windows, for any number of features together; only the best passages of each
(a heap), its histogram and a few counts are kept, so the stream may be longer than memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from saesteer.data.turns import pieces_in_turn
from saesteer.errors import DataError
from saesteer.features.activations import prefix_ids
from saesteer.features.histogram import GrowingHistogram, Histogram
from saesteer.features.lens import FeatureTokens, TokenWeight, promoted_tokens, token_text
from saesteer.metrics.outliers import outlier_tokens
from saesteer.models import Model, as_model, pad_rows, record
from saesteer.models.limits import check_count
from saesteer.saes.checks import Features
from saesteer.saes.load import check_width
from saesteer.saes.sae import SAE

WINDOW = 128
"""Tokens a text is cut into: enough context to mean something, short enough to batch."""
RADIUS = 12
"""Tokens shown on either side of a passage's peak: a line or two of print."""


@dataclass(frozen=True)
class Passage:
    """Tokens around a peak, each with the feature's activation there; `peak` indexes them.

    `text` counts the texts of the stream from 0, as they are begun.
    """

    text: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    peak: int


@dataclass(frozen=True)
class Neighbour:
    """Another feature and the cosine of the two decoder rows."""

    index: int
    cosine: float


@dataclass(frozen=True)
class FeatureCard:
    """Everything there is to show of one feature.

    Attributes:
        n_tokens: tokens read, outliers and special tokens out; it fires on `density` of them.
        mean_activation: over the tokens on which it fires.
        histogram: of its activations where it fires.
        passages: from the highest peak down, one for each window of text at most.
        promoted: by the logit lens, as `suppressed`.
        nearest: by decoder cosine, most similar first.
    """

    index: int
    n_tokens: int
    density: float
    max_activation: float
    mean_activation: float
    histogram: Histogram
    passages: tuple[Passage, ...]
    promoted: tuple[TokenWeight, ...]
    suppressed: tuple[TokenWeight, ...]
    nearest: tuple[Neighbour, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def show_feature(
    model: Model | nn.Module, sae: SAE, index: int, texts: Iterable[str], **options: Any
) -> FeatureCard:
    """The card of one feature; options and errors as in `show_features`."""
    return show_features(model, sae, [index], texts, **options)[0]


@torch.no_grad()
def show_features(
    model: Model | nn.Module,
    sae: SAE,
    indices: Features,
    texts: Iterable[str],
    *,
    passages: int = 8,
    tokens: int = 8,
    neighbours: int = 8,
    max_tokens: int | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[FeatureCard]:
    """The cards of several features, from one pass over `texts`.

    Args:
        passages: how many to keep of each; `tokens`, `neighbours`: how many to list.
        max_tokens: stop reading after about this many; paths of `iterate_texts` share them.
        progress: called with tokens read and `max_tokens`, where that is given.

    Raises:
        ConfigError: `batch_size` below 1.
        FeatureError: an index outside the SAE.
        DataError: the texts have no tokens.
        DimensionError: model and SAE have different widths.
    """
    check_count("batch_size", batch_size)
    model = as_model(model)
    check_width(sae, model)
    features = sae.check_features(indices)
    tallies = [_Tally(passages) for _ in features]
    n_tokens = 0
    for batch in _batches(_windows(model, texts), batch_size):
        latents, kept = _read(model, sae, features, batch)
        n_tokens += int(kept.sum())
        for column, tally in enumerate(tallies):
            tally.add(model, batch, latents[..., column], kept)
        if max_tokens is not None:
            if progress is not None:
                progress(min(n_tokens, max_tokens), max_tokens)
            if n_tokens >= max_tokens:
                break
    if not n_tokens:
        raise DataError("the texts have no tokens; give at least one with a word in it.")
    lenses = promoted_tokens(model, sae, features, tokens)
    nearest = nearest_features(sae, features, neighbours)
    return [
        _card(tally, lens, near, n_tokens)
        for tally, lens, near in zip(tallies, lenses, nearest, strict=True)
    ]


@torch.no_grad()
def nearest_features(sae: SAE, indices: Features, n: int = 8) -> list[tuple[Neighbour, ...]]:
    """For each feature the `n` others whose decoder rows point most nearly the same way.

    Raises:
        FeatureError: an index outside the SAE.
    """
    features = list(sae.check_features(indices))
    unit = F.normalize(sae.w_dec.float(), dim=-1)
    cosines = unit[features] @ unit.T
    cosines[torch.arange(len(features)), features] = -torch.inf
    best = cosines.topk(min(n, sae.d_sae - 1), dim=-1)
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [tuple(Neighbour(i, c) for i, c in zip(*row, strict=True)) for row in rows]


@dataclass(frozen=True)
class _Window:
    text: int
    prefix: tuple[int, ...]
    ids: tuple[int, ...]


@final
@dataclass
class _Tally:
    """What is kept of one feature while the stream goes by."""

    n_passages: int
    n_fired: int = 0
    total: float = 0.0
    highest: float = 0.0
    histogram: GrowingHistogram = field(default_factory=GrowingHistogram)
    heap: list[tuple[float, int, Passage]] = field(default_factory=list)
    seen: int = 0

    def add(
        self,
        model: Model,
        batch: Sequence[_Window],
        latents: Float[Tensor, "batch pos"],
        kept: Bool[Tensor, "batch pos"],
    ) -> None:
        """Take in a batch of windows; `latents` are zero where `kept` is false."""
        firing = latents[kept & (latents > 0)]
        self.n_fired += len(firing)
        self.total += float(firing.double().sum())
        self.highest = max([self.highest, *firing.tolist()])
        self.histogram.add(firing)
        peaks = latents.max(dim=-1)
        for row, (value, peak) in enumerate(
            zip(peaks.values.tolist(), peaks.indices.tolist(), strict=True)
        ):
            self.seen += 1
            if value > 0 and (len(self.heap) < self.n_passages or value > self.heap[0][0]):
                passage = _passage(model, batch[row], latents[row], peak)
                entry = (value, -self.seen, passage)
                if len(self.heap) < self.n_passages:
                    heapq.heappush(self.heap, entry)
                else:
                    heapq.heapreplace(self.heap, entry)

    def passages(self) -> tuple[Passage, ...]:
        """The kept passages, highest peak first, earlier ones first among equals."""
        return tuple(passage for *_, passage in sorted(self.heap, reverse=True))


def _windows(model: Model, texts: Iterable[str]) -> Iterator[_Window]:
    """Texts as token windows, each behind the tokenizer's own BOS if it sets one."""
    prefix = tuple(prefix_ids(model))

    def cut(text: str) -> Iterator[list[int]]:
        ids = model.need_tokenizer()(text, add_special_tokens=False)["input_ids"]
        return (ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW))

    for piece in pieces_in_turn(texts, cut):
        yield _Window(piece.text, prefix, tuple(piece.ids))


def _batches(windows: Iterable[_Window], size: int) -> Iterator[list[_Window]]:
    batch: list[_Window] = []
    for window in windows:
        batch.append(window)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(
    model: Model, sae: SAE, features: Sequence[int], batch: Sequence[_Window]
) -> tuple[Float[Tensor, "batch pos k"], Bool[Tensor, "batch pos"]]:
    """Latents of the features at the windows' own tokens (zero elsewhere), and which those are."""
    tokens = pad_rows([[*w.prefix, *w.ids] for w in batch], model.pad_id, side="right")
    resid = record(model, tokens.to(model.device), [sae.site])[sae.site]
    outlier = outlier_tokens(resid, tokens.attention_mask.to(resid.device)).cpu()
    kept = tokens.attention_mask & ~outlier & ~torch.isin(tokens.input_ids, model.special_ids)
    n_prefix = len(batch[0].prefix)
    kept, resid = kept[:, n_prefix:], resid[:, n_prefix:].to(sae.device)
    if sae.activation == "topk":
        latents = sae.encode(resid)[..., list(features)]
    else:
        latents = sae.slice(features).read(resid)
    return latents.float().cpu() * kept.unsqueeze(-1), kept


def _passage(model: Model, window: _Window, latents: Tensor, peak: int) -> Passage:
    start, stop = max(peak - RADIUS, 0), min(peak + RADIUS + 1, len(window.ids))
    return Passage(
        text=window.text,
        tokens=tuple(token_text(model, i) for i in window.ids[start:stop]),
        activations=tuple(latents[start:stop].tolist()),
        peak=peak - start,
    )


def _card(
    tally: _Tally, lens: FeatureTokens, nearest: tuple[Neighbour, ...], n_tokens: int
) -> FeatureCard:
    return FeatureCard(
        index=lens.index,
        n_tokens=n_tokens,
        density=tally.n_fired / n_tokens,
        max_activation=tally.highest,
        mean_activation=tally.total / max(tally.n_fired, 1),
        histogram=tally.histogram.result(),
        passages=tally.passages(),
        promoted=lens.promoted,
        suppressed=lens.suppressed,
        nearest=nearest,
    )
