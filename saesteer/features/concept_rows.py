"""Labelled texts as rows to fit on: tokens where spans are labelled, else texts pooled to one row.

Outlier tokens are left out. Where whole texts are labelled, a concept's score is taken over a
prompt's tokens, by mean, maximum or the last one, and rows are pooled the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saesteer.data.concept_data import ConceptData, Span
from saesteer.data.contrast import Example, Split
from saesteer.errors import ContrastError
from saesteer.features.activations import read_activations
from saesteer.metrics.outliers import OUTLIER_FACTOR
from saesteer.models import Model, Site

Pooling = Literal["mean", "max", "last"]
"""How a text's tokens become its row, and a prompt's scores its score."""
Key = tuple[str | None, str]


@final
@dataclass(frozen=True, eq=False)
class ConceptRows:
    """Activations of a concept's texts with what is labelled in them.

    Attributes:
        resid: each text's tokens, outliers left out.
        positive: one label for each token, or for each text where `pool` is given.
        splits: of each text.
        pool: how a text's tokens are taken together; None where tokens are labelled.
    """

    name: str
    resid: tuple[Float[Tensor, "_ width"], ...]
    positive: tuple[Bool[Tensor, "_"], ...]
    splits: tuple[Split, ...]
    pool: Pooling | None

    def chosen(self, split: Split) -> list[int]:
        """The texts of one split."""
        return [index for index, name in enumerate(self.splits) if name == split]

    def labels(self, split: Split) -> Bool[Tensor, " rows"]:
        """The labels of one split's rows, text after text.

        Raises:
            ContrastError: all are alike.
        """
        picked = [self.positive[index] for index in self.chosen(split)]
        labels = torch.cat(picked) if picked else torch.zeros(0, dtype=torch.bool)
        if not len(labels) or bool(labels.all()) or not bool(labels.any()):
            has = "nothing" if not len(labels) else f"{len(labels)} rows of one label"
            raise ContrastError(
                f"concept {self.name} has {has} in the {split} split; give texts with and without "
                "the concept in train, validation and test."
            )
        return labels

    def groups(self, split: Split) -> Int[Tensor, " rows"]:
        """Which text each row of a split belongs to."""
        chosen = self.chosen(split)
        counts = torch.tensor([len(self.positive[index]) for index in chosen])
        return torch.arange(len(chosen)).repeat_interleave(counts)

    def pooled(self, values: Sequence[Tensor]) -> Tensor:
        """Values at texts' tokens as rows: the tokens themselves, or pooled text by text."""
        match self.pool:
            case None:
                return torch.cat(list(values))
            case "mean":
                return torch.stack([value.mean(0) for value in values])
            case "max":
                return torch.stack([value.amax(0) for value in values])
            case "last":
                return torch.stack([value[-1] for value in values])


def read_rows(
    model: Model,
    data: ConceptData,
    site: Site,
    pool: Pooling,
    known: Mapping[Key, Tensor] | None = None,
) -> ConceptRows:
    """Activations of a concept's texts at `site`, with the labels of their tokens or of the texts.

    A text of nothing but outliers is left out.

    Args:
        known: activations by prompt and text, where they were read before.

    Raises:
        DataError: a text without tokens, or longer than the model can read.
    """
    seen = known or read_texts(model, data.examples, site)
    resid = [seen[example.prompt, example.text] for example in data.examples]
    limit = OUTLIER_FACTOR * torch.cat([row.norm(dim=-1) for row in resid]).median()
    kept = [row.norm(dim=-1) <= limit for row in resid]
    if data.spans is None:
        labels = [torch.tensor([example.label == 1]) for example in data.examples]
    else:
        marked = zip(data.examples, data.spans, kept, strict=True)
        labels = [_token_labels(model, e.text, spans)[keep] for e, spans, keep in marked]
    some = [index for index, keep in enumerate(kept) if bool(keep.any())]
    return ConceptRows(
        data.name,
        tuple(resid[i][kept[i]] for i in some),
        tuple(labels[i] for i in some),
        tuple(data.examples[i].split for i in some),
        pool if data.spans is None else None,
    )


def read_texts(model: Model, examples: Sequence[Example], site: Site) -> dict[Key, Tensor]:
    """Activations by prompt and text, each read once however often it occurs."""
    distinct = {(example.prompt, example.text): example for example in examples}
    rows = read_activations(model, list(distinct.values()), site)
    return dict(zip(distinct, rows, strict=True))


def _token_labels(model: Model, text: str, spans: Sequence[Span]) -> Bool[Tensor, " tokens"]:
    """Which of a text's tokens overlap a labelled span; special tokens have no row."""
    made = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    special = set(model.special_ids.tolist())
    both = zip(made["input_ids"], made["offset_mapping"], strict=True)
    return torch.tensor(
        [
            any(a < end and b > start for start, end in spans)
            for i, (a, b) in both
            if i not in special
        ]
    )
