"""What sentences say, read from activations: a subject, an object, and yes or no.

Three concepts are read at each token: words that only hold a sentence together (each, a, the full
stop), the relation (is, are) and the negation. What is none of them names something; before the
relation it is the subject, after it the object. A fourth concept tells at the relation whether it
is plural, and so in which form the names are written. Which mentions are of one name is left to an
`IdentityReadout`, so names may be new. The text itself is not looked at. (With "is" and "are" as
two concepts beside the others, 4 of 1,000 were taken for names, which cost a problem each.)

Roles are read at one site; names there and at any number of others, side by side, since an early
layer still spells what a later one has understood. Of 200 generated problems with names never
seen, latents of layers 4 and 9 of SmolLM2-135M got 193 right, either alone 190.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from saesteer.evals.pooled import random_coder
from saesteer.features.concepts import Concept, ConceptReader, concept_readers
from saesteer.features.fitting import ReadoutKind, fit_readout, score_rows
from saesteer.features.identity import IdentityReadout, NamedText, fit_identity
from saesteer.features.sparse_rows import SparseRows
from saesteer.features.thresholds import choose_threshold
from saesteer.metrics.outliers import usual_rows
from saesteer.models.sites import Site
from saesteer.saes.sae import SAE

ROLES = ("filler", "is", "are", "negation", "name")
"""What a token can be; a name is what none of the others claims."""
RELATIONS = ("is", "are")
CONCEPTS = ("filler", "relation", "negation", "plural")
"""What is read: the first three compete at every token, the last counts at the relation alone."""
_ROLE_OF = torch.tensor([[0, 0], [1, 2], [3, 3], [4, 4]])
"""The role by what wins at a token (a name where no concept does) and whether it is plural."""
N_FEATURES = 64
"""Features that each role is read from."""
N_ROLE_TEXTS = 80
"""Texts that roles are fitted on: some 12,000 tokens, whose latents take 32 KB each."""
N_ENCODED = 16
"""Texts whose mentions are encoded together: some 1,500 tokens."""
Activations = Float[Tensor, "pos width"]
Saes = tuple[SAE, ...]
"""An SAE for each site; none where the activations themselves are read."""


@final
@dataclass(frozen=True)
class Link:
    """One sentence: `subject` and `object` are numbers of names, equal within a text."""

    subject: int
    object: int
    positive: bool


@final
@dataclass(frozen=True)
class Parts:
    """Where one sentence has its subject and its object, and what its other words say."""

    subject: list[int]
    object: list[int]
    positive: bool
    plural: bool

    @property
    def forms(self) -> tuple[int, int]:
        """In which form subject and object are written: a plural subject has a capital letter."""
        return (1, 2) if self.plural else (0, 0)


@final
@dataclass(frozen=True)
class ReadText:
    """A text as it is read.

    Attributes:
        resid: activations at every site, that of the roles first.
        sentences: the token positions of its sentences, the one asked about last.
    """

    resid: tuple[Activations, ...]
    sentences: tuple[tuple[int, ...], ...]


@final
@dataclass(frozen=True)
class LabelledReading:
    """A generated text with what its tokens are: roles by sentence, names of subject and object."""

    text: ReadText
    roles: tuple[tuple[int, ...], ...]
    names: tuple[tuple[str, str], ...]

    def without_fillers(self) -> LabelledReading:
        """The same text less the tokens that say nothing, in fewer than half of the rows."""
        filler, sentences, roles, kept = ROLES.index("filler"), [], [], list[int]()
        for sentence, here in zip(self.text.sentences, self.roles, strict=True):
            told = [(t, r) for t, r in zip(sentence, here, strict=True) if r != filler]
            sentences.append(tuple(range(len(kept), len(kept) + len(told))))
            roles.append(tuple(role for _, role in told))
            kept += [t for t, _ in told]
        text = ReadText(tuple(rows[kept] for rows in self.text.resid), tuple(sentences))
        return LabelledReading(text, tuple(roles), self.names)


@final
@dataclass(frozen=True, eq=False)
class StatementReader:
    """Role concepts and an identity readout, over latents or (no SAE) activations."""

    concepts: tuple[Concept, ...]
    identity: IdentityReadout
    saes: Saes

    def read(self, text: ReadText) -> list[Link | None]:
        """What each sentence says; None where no subject, relation or object was found."""
        roles = self.roles(text.resid[0])
        parts = [_parts(roles, sentence) for sentence in text.sentences]
        found = [part for part in parts if part is not None]
        if not found:
            return [None] * len(parts)
        spans = [span for part in found for span in (part.subject, part.object)]
        forms = [form for part in found for form in part.forms]
        mentions = sum_mentions(text.resid, spans, self.saes)
        apart = [(2 * i, 2 * i + 1) for i in range(len(found))]
        names = self.identity.group(mentions, apart, forms)
        each = zip(names[::2], names[1::2], found, strict=True)
        links = (Link(subject, object_, part.positive) for subject, object_, part in each)
        return [None if part is None else next(links) for part in parts]

    @cached_property
    def reader(self) -> ConceptReader:
        """What reads the roles, all at once."""
        (reader,) = concept_readers(self.concepts, self.saes[0] if self.saes else None)
        return reader

    def roles(self, resid: Activations) -> list[int]:
        """The role of every token: the concept furthest above its threshold, or a name."""
        reader = self.reader
        cuts = torch.tensor([self.concepts[i].threshold for i in reader.concepts])
        margins = torch.full((len(resid), len(CONCEPTS)), 0.0)
        margins[:, list(reader.concepts)] = reader.scores(resid[None])[0] - cuts
        plural = margins[:, -1] > 0
        margins[:, -1] = 0.0
        return _ROLE_OF[margins.argmax(-1), plural.long()].tolist()


def sum_mentions(
    resid: Sequence[Activations], spans: Sequence[Sequence[int]], saes: Saes
) -> Float[Tensor, "mentions columns"]:
    """One row per mention: the sum of its tokens' latents, or of their activations, site by site.

    The tokens are encoded in one product, since a few rows at a time are bound by the weights.
    """
    tokens = [t for span in spans for t in span]
    read = [rows[tokens].float() for rows in resid]
    if saes:
        read = [sae.encode(rows).float() for sae, rows in zip(saes, read, strict=True)]
    parts = torch.cat(read, -1).split([len(span) for span in spans])
    return torch.stack([part.sum(0) for part in parts])


def fit_reader(
    texts: Sequence[LabelledReading], site: Site, saes: Saes, *, seed: int = 0
) -> StatementReader:
    """Role concepts and the identity readout from texts whose words are known.

    With SAEs roles are weighted features, without them linear probes; nothing else differs. Roles
    are fitted on the first `N_ROLE_TEXTS`, which must be whole. Latents are worked out in the dtype
    that the texts were read in, since bfloat16 takes a sixth of the time.

    Args:
        site: that of the roles.

    Raises:
        ContrastError: a role that never or always occurs.
        DataError: too few texts.
    """
    kind: ReadoutKind = "features" if saes else "probe"
    fast = tuple(sae.to(dtype=texts[0].text.resid[0].dtype) for sae in saes)
    rows, roles = _role_rows(texts, fast)
    concepts = _concepts(kind, rows, roles, site, seed)
    named = [
        text
        for start in range(0, len(texts), N_ENCODED)
        for text in _named(texts[start : start + N_ENCODED], fast)
    ]
    widths = [sae.d_sae for sae in saes] or [rows.shape[1] for rows in texts[0].text.resid]
    identity = fit_identity(named, sum(widths), standardise=not saes, seed=seed)
    return StatementReader(tuple(concepts), identity, saes)


def random_sae(sae: SAE, resid: Activations, seed: int = 0) -> SAE:
    """An SAE of the same shape whose encoder was never trained, as sparse on `resid` as `sae` is.

    Directions are random; each feature's bias centres it and its threshold is the quantile that
    lets it fire as often as the trained features do on average, outlier tokens left out.
    """
    generator = torch.Generator().manual_seed(seed)
    coder = random_coder(sae, generator)
    usual = usual_rows(resid)
    sample = usual[torch.randperm(len(usual), generator=generator)[:4096]]
    share = float((sae.encode(sample) > 0).float().mean())
    pre = (sample - sample.mean(0)) @ coder.w_dec.T
    return replace(
        coder,
        b_dec=sample.mean(0),
        threshold=pre.quantile(1 - share, dim=0).clamp_min(0.0),
        activation="jumprelu",
        k=None,
        name="random",
    )


def random_saes(saes: Saes, texts: Iterable[Sequence[Activations]], seed: int = 0) -> Saes:
    """A random SAE for each of some, as sparse as it is on the texts' activations at its site."""
    sample = zip(*texts, strict=True)
    return tuple(
        random_sae(sae, torch.cat(rows).float(), seed)
        for sae, rows in zip(saes, sample, strict=True)
    )


def _parts(roles: Mapping[int, int] | Sequence[int], sentence: Sequence[int]) -> Parts | None:
    """What a sentence consists of; None without a relation, a subject or an object."""
    told = {t: ROLES[roles[t]] for t in sentence}
    relation = next((t for t in sentence if told[t] in RELATIONS), None)
    if relation is None:
        return None
    names = [t for t in sentence if told[t] == "name"]
    subject = [t for t in names if t < relation]
    object_ = [t for t in names if t > relation]
    if not subject or not object_:
        return None
    return Parts(subject, object_, "negation" not in told.values(), told[relation] == "are")


def _role_rows(texts: Sequence[LabelledReading], saes: Saes) -> tuple[Tensor, Tensor]:
    """Rows of the sentences' tokens and their roles."""
    chosen = texts[:N_ROLE_TEXTS]
    positions = [[t for sentence in text.text.sentences for t in sentence] for text in chosen]
    resid = torch.cat([t.text.resid[0][at] for t, at in zip(chosen, positions, strict=True)])
    roles = torch.tensor([role for text in chosen for some in text.roles for role in some])
    return saes[0].encode(resid).float() if saes else resid.float(), roles


def _concepts(
    kind: ReadoutKind, rows: Tensor, roles: Tensor, site: Site, seed: int
) -> list[Concept]:
    """Those of `CONCEPTS`; the plural is told from the singular on relations alone."""
    filler, is_, are, negation, _ = range(len(ROLES))
    relation = (roles == is_) | (roles == are)
    told = [(rows, positive) for positive in (roles == filler, relation, roles == negation)]
    told.append((rows[relation], roles[relation] == are))
    concepts: list[Concept] = []
    for name, (own, positive) in zip(CONCEPTS, told, strict=True):
        readout = fit_readout(kind, own, positive, site, n_features=N_FEATURES, seed=seed)
        cut = choose_threshold(score_rows(readout, own), positive)
        concepts.append(Concept(name, readout, cut))
    return concepts


def _named(texts: Sequence[LabelledReading], saes: Saes) -> list[NamedText]:
    """The mentions of some texts, encoded together since a few rows are bound by the weights."""
    told = [_mentions(text) for text in texts]
    starts = accumulate((len(text.text.resid[0]) for text in texts), initial=0)
    spans = [
        [start + t for t in span]
        for start, (parts, _) in zip(starts, told, strict=False)
        for part in parts
        for span in (part.subject, part.object)
    ]
    resid = [torch.cat(rows) for rows in zip(*(text.text.resid for text in texts), strict=True)]
    rows = sum_mentions(resid, spans, saes).split([len(names) for _, names in told])
    return [
        NamedText(SparseRows.of(own), names, tuple(form for part in parts for form in part.forms))
        for own, (parts, names) in zip(rows, told, strict=True)
    ]


def _mentions(text: LabelledReading) -> tuple[list[Parts], tuple[str, ...]]:
    """The parts of every sentence that has them, and the names of its subject and object."""
    parts: list[Parts] = []
    names: list[str] = []
    for sentence, roles, pair in zip(text.text.sentences, text.roles, text.names, strict=True):
        found = _parts(dict(zip(sentence, roles, strict=True)), sentence)
        if found is not None:
            parts.append(found)
            names += pair
    return parts, tuple(names)
