"""Concepts: a number per token, a threshold, and over which tokens it is taken.

A readout says what is read, a concept when it counts as present. Reading many concepts at one site
costs one narrow matrix product: `ConceptReader` gathers every SAE column they need into a single
`FeatureSlice` when it is built, since gathering at each step costs six times as much as reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, final, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saesteer.axes import Resid
from saesteer.errors import ConfigError, DimensionError, SaeError
from saesteer.features.readouts import (
    CosineReadout,
    FeatureReadout,
    ProbeReadout,
    Readout,
    SparseReadout,
)
from saesteer.features.trees import SlicedTree, TreeReadout, tree_on
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE, FeatureSlice

Aggregate = Literal["token", "prompt", "so_far", "last_n", "for_n", "since"]
Over = Literal["max", "mean", "any", "last"]


@final
@dataclass(frozen=True, eq=False)
class Concept:
    """A readout with a threshold: the concept holds where `score > threshold`.

    With `aggregate="prompt"` the score at t is taken `over` the prompt's positions up to t, stays
    as it is at the prompt's end, and acts from the last prompt token on. `any` is `max` by another
    name: some token of the prompt exceeds the threshold.

    The others go over prompt and answer alike, up to t: `so_far` is the greatest score, `last_n`
    the greatest of the last `n` tokens, `for_n` the least of them (so it holds where the concept
    has for n tokens), `since` the greatest since the concept `of` last held.

    `sae` is the fingerprint of the SAE that its features were chosen in, and empty where nobody
    said: with one, it is read through that SAE and no other.

    Raises:
        ConfigError: an unknown aggregation, `n` below 1, or `since` without `of`.
    """

    name: str
    readout: Readout
    threshold: float
    aggregate: Aggregate = "token"
    over: Over = "max"
    n: int = 1
    of: str = ""
    sae: str = ""

    def __post_init__(self) -> None:
        """Check what chooses the aggregation."""
        if self.n < 1 or (self.aggregate == "since") != bool(self.of):
            raise ConfigError(
                f"concept {self.name}: aggregate {self.aggregate} with n {self.n} and of "
                f"{self.of!r}; n must be 1 or more, and of names a concept for since alone."
            )
        for key, kind in (("aggregate", Aggregate), ("over", Over)):
            got, known = getattr(self, key), get_args(kind)
            if got not in known:
                raise ConfigError(
                    f"concept {self.name}: {key} is {got!r}, expected one of {', '.join(known)}."
                )

    def check_sae(self, sae: SAE) -> None:
        """Refuse an SAE whose features are not the ones that this concept reads.

        Raises:
            SaeError: it was fitted on another one.
        """
        if self.sae and sae.fingerprint() != self.sae:
            raise SaeError(
                f"concept {self.name} was fitted on another SAE than {sae.name} at {sae.site}; "
                "its features mean nothing there. Give its own SAE, or fit it on this one."
            )

    @property
    def span(self) -> str:
        """What its score is taken over, in words: `token`, `mean`, `last 5 tokens`, ..."""
        match self.aggregate:
            case "token":
                return "token"
            case "prompt":
                return self.over
            case "so_far":
                return "so far"
            case "last_n":
                return f"within the last {self.n} tokens"
            case "for_n":
                return f"for {self.n} tokens"
            case "since":
                return f"since {self.of}"


@final
@dataclass(frozen=True, eq=False)
class ConceptReader:
    """Reads some concepts at one site, all at once, in fp32.

    `concepts` says which concept each score column belongs to, as positions in the sequence that
    `concept_readers` was given: weighted features first, then trees, then the dense ones. The
    per-token scores carry no aggregation.
    """

    site: Site
    concepts: tuple[int, ...]
    features: FeatureSlice | None
    mix: Float[Tensor, "k n_sparse"]
    directions: Float[Tensor, "d_model n_dense"]
    bias: Float[Tensor, " n_dense"]
    cosine: Bool[Tensor, " n_dense"]
    trees: tuple[SlicedTree, ...] = ()
    _is_plain: bool = field(init=False, repr=False)
    _is_sparse: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """See what there is nothing to do for, once.

        Dense concepts, if there are none; and mixing, if every sparse concept is one feature with
        weight 1.
        """
        object.__setattr__(self, "_is_sparse", not len(self.bias))
        mix = self.mix
        plain = mix.shape[0] == mix.shape[1] and bool(torch.equal(mix, torch.eye(len(mix)).to(mix)))
        object.__setattr__(self, "_is_plain", plain)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that decide the scores."""
        columns = () if self.features is None else (self.features.w_enc, self.features.threshold)
        leaves = [tree.value for tree in self.trees]
        return (*columns, self.mix, *leaves, self.directions, self.bias)

    def scores(self, resid: Resid) -> Float[Tensor, "batch pos n_concepts"]:
        """Scores of the concepts in `concepts`, token by token.

        Raises:
            DimensionError: a direction or the SAE has another width than the activation.
        """
        parts: list[Tensor] = []
        resid = resid.float()
        if self.features is not None:
            latents = self.features.read(resid)
            parts.append(latents if self._is_plain else latents @ self.mix)
            for tree in self.trees:
                parts.append(tree.scores(latents)[..., None])
        if not self._is_sparse:
            if resid.shape[-1] != self.directions.shape[0]:
                raise DimensionError(
                    f"a concept at {self.site} has a direction of width "
                    f"{self.directions.shape[0]}, got activations of width {resid.shape[-1]}. "
                    "Use a direction fitted at this site of this model."
                )
            norm = resid.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
            parts.append(resid @ self.directions / torch.where(self.cosine, norm, 1.0) + self.bias)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def to(self, device: torch.device | str) -> ConceptReader:
        """The same reader on another device."""
        names = ("mix", "directions", "bias", "cosine")
        moved = {name: getattr(self, name).to(device) for name in names}
        features = None if self.features is None else self.features.to(device)
        trees = tuple(tree.to(device) for tree in self.trees)
        return replace(self, features=features, trees=trees, **moved)


def concept_readers(concepts: Sequence[Concept], sae: SAE | None = None) -> list[ConceptReader]:
    """One reader per site that the concepts need, in the order in which a pass reaches them.

    Args:
        sae: where the features of `FeatureReadout`s live; may be left out if there are none.

    Raises:
        SaeError: features without an SAE, of another one than the concept was fitted on, or of
            one that has no exact slices.
        FeatureError: a feature that the SAE does not have.
        DimensionError: two directions at one site have different widths.
    """
    sites: dict[Site, list[int]] = {}
    for index, concept in enumerate(concepts):
        sites.setdefault(_site(concept, sae), []).append(index)
    in_order = sorted(sites, key=lambda site: (site.order, site.head or 0))
    return [_reader(site, sites[site], concepts, sae) for site in in_order]


def _site(concept: Concept, sae: SAE | None) -> Site:
    match concept.readout:
        case FeatureReadout() | TreeReadout():
            if sae is None:
                raise SaeError(
                    f"concept {concept.name} reads features but no SAE was given. "
                    "Pass one, or name it under sae: in the rule file."
                )
            concept.check_sae(sae)
            return sae.site
        case CosineReadout(site=site) | ProbeReadout(site=site):
            return site


def _reader(
    site: Site, indices: list[int], concepts: Sequence[Concept], sae: SAE | None
) -> ConceptReader:
    weighted = [i for i in indices if isinstance(concepts[i].readout, FeatureReadout)]
    trees = [i for i in indices if isinstance(concepts[i].readout, TreeReadout)]
    dense = [i for i in indices if i not in weighted and i not in trees]
    sparse = [concepts[i].readout for i in (*weighted, *trees)]
    features, mix, compiled = _sparse(sparse, sae)
    columns = [_direction(concepts[i]) for i in dense]
    widths = sorted({len(column) for column, _, _ in columns})
    if len(widths) > 1:
        raise DimensionError(f"concepts at {site} have directions of widths {widths}; use one.")
    return ConceptReader(
        site=site,
        concepts=(*weighted, *trees, *dense),
        features=features,
        mix=mix,
        directions=torch.stack([c[0] for c in columns], -1) if columns else torch.zeros(0, 0),
        bias=torch.tensor([c[1] for c in columns]),
        cosine=torch.tensor([c[2] for c in columns], dtype=torch.bool),
        trees=compiled,
    )


def _sparse(
    readouts: Sequence[Readout], sae: SAE | None
) -> tuple[FeatureSlice | None, Tensor, tuple[SlicedTree, ...]]:
    """The columns that some readouts need, each once, the weights `[k, n]`, and the trees."""
    if not readouts or sae is None:
        return None, torch.zeros(0, 0), ()
    sparse = [r for r in readouts if isinstance(r, SparseReadout)]
    features = list(dict.fromkeys(f for readout in sparse for f in readout.features))
    weighted = [r for r in sparse if isinstance(r, FeatureReadout)]
    row = {feature: index for index, feature in enumerate(features)}
    mix = torch.zeros(len(features), len(weighted))
    for column, readout in enumerate(weighted):
        for feature, weight in zip(readout.features, readout.weights, strict=True):
            mix[row[feature], column] = weight
    trees = tuple(tree_on(r, features) for r in sparse if isinstance(r, TreeReadout))
    columns = sae.slice(features).to(dtype=torch.float32)
    device = columns.w_enc.device
    return columns, mix.to(device), tuple(tree.to(device) for tree in trees)


def _direction(concept: Concept) -> tuple[Tensor, float, bool]:
    """Direction, bias, and whether the score is divided by ‖h‖."""
    match concept.readout:
        case CosineReadout(vector=vector):
            return vector.float() / vector.float().norm(), 0.0, True
        case ProbeReadout(weight=weight, bias=bias):
            return weight.float(), bias, False
        case FeatureReadout() | TreeReadout():
            raise AssertionError("feature readouts are read through a slice")
