"""Mentions of one name are grouped where names were planted, also names never seen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saesteer.errors import DataError
from saesteer.features.identity import IdentityReadout, NamedText, _with_cuts, fit_identity
from saesteer.features.sparse_rows import SparseRows

WIDTH, NUISANCE = 40, 20


def planted(seed: int, n_names: int = 5, n: int = 15) -> NamedText:
    """The first dimensions say the name, the last ones loudly something else."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.randn(n_names, WIDTH - NUISANCE, generator=generator)
    which = torch.arange(n) % n_names
    noise = 2 * torch.randn(n, NUISANCE, generator=generator)
    rows = torch.cat([names[which], noise], 1)
    return NamedText(SparseRows.of(rows), tuple(f"{seed}-{i}" for i in which.tolist()))


def rows(text: NamedText) -> torch.Tensor:
    return text.mentions.dense(WIDTH)


@pytest.fixture(scope="module")
def readout() -> IdentityReadout:
    return fit_identity(
        [planted(seed) for seed in range(80)], WIDTH, width=24, n_steps=120, rate=1e-2
    )


def partition(groups) -> set[frozenset[int]]:
    found: dict = {}
    for index, group in enumerate(groups):
        found.setdefault(group, set()).add(index)
    return {frozenset(members) for members in found.values()}


def test_unseen_names_are_grouped_where_raw_cosines_fail(readout):
    plain = IdentityReadout(torch.eye(WIDTH), torch.zeros(WIDTH), 0.5)
    fresh = [planted(seed) for seed in range(1000, 1020)]

    def n_right(reader: IdentityReadout) -> int:
        return sum(partition(reader.group(rows(t))) == partition(t.names) for t in fresh)

    assert n_right(readout) >= 16
    assert n_right(plain) <= 2


def test_mentions_kept_apart_are_never_grouped(readout):
    text = planted(1000)
    assert text.names[0] == text.names[5]
    groups = readout.group(rows(text), apart=[(0, 5)])
    assert groups[0] != groups[5]


def test_the_order_of_mentions_does_not_matter(readout):
    text = planted(1001)
    order = torch.randperm(len(text.names), generator=torch.Generator().manual_seed(0))
    moved = readout.group(rows(text)[order])
    back = {int(order[i]): group for i, group in enumerate(moved)}
    assert partition([back[i] for i in range(len(moved))]) == partition(readout.group(rows(text)))


def test_standardising_does_not_change_what_a_scale_hides():
    loud = torch.ones(WIDTH)
    loud[-NUISANCE:] = 300.0
    made = [planted(seed) for seed in range(80)]
    texts = [NamedText(SparseRows.of(rows(t) * loud + 7), t.names) for t in made]
    readout = fit_identity(texts, WIDTH, width=24, n_steps=120, rate=1e-2, standardise=True)
    fresh = planted(1000)
    groups = readout.group(rows(fresh) * loud + 7)
    assert partition(groups) == partition(fresh.names)


def test_one_mention_or_none_is_a_group_of_its_own(readout):
    assert readout.group(torch.ones(1, WIDTH)) == [0]
    assert readout.group(torch.ones(0, WIDTH)) == []


def test_texts_without_namesakes_teach_nothing():
    lonely = NamedText(SparseRows.of(torch.ones(2, WIDTH)), ("a", "b"))
    with pytest.raises(DataError, match="0 texts in which a name occurs twice"):
        fit_identity([lonely, lonely], WIDTH)


def two_forms(seed: int, width: int = 400) -> NamedText:
    """Mentions of one form and name are nearly equal; a form moves each name its own way.

    A name and its look-alike have a cosine of 0.78 in one form, a name's two forms one of 0.71.
    """
    generator = torch.Generator().manual_seed(seed)
    base, other, shift = (torch.randn(n, width, generator=generator) for n in (4, 4, 8))
    which, forms = torch.arange(32) % 8, torch.arange(32) // 8 % 2
    rows = torch.cat([base, base + 0.8 * other])[which] + forms[:, None] * shift[which]
    rows += 0.02 * torch.randn(32, width, generator=generator)
    spelled = tuple(f"{seed}-{i}" for i in which.tolist())
    return NamedText(SparseRows.of(rows), spelled, tuple(forms.tolist()))


def test_look_alikes_of_one_form_are_told_apart_where_forms_are_told():
    plain = IdentityReadout(torch.eye(400), torch.zeros(400))
    made = [two_forms(seed) for seed in range(10)]
    blind = _with_cuts(plain, [replace(text, forms=()) for text in made], frozenset())
    told = _with_cuts(plain, made, frozenset())
    fresh = [two_forms(seed) for seed in range(100, 110)]

    def n_right(readout: IdentityReadout, forms: bool) -> int:
        found = [readout.group(t.mentions.dense(400), (), t.forms if forms else ()) for t in fresh]
        return sum(partition(f) == partition(t.names) for f, t in zip(found, fresh, strict=True))

    assert n_right(blind, False) == 0
    assert n_right(told, True) == 10
    assert 0.78 < told.alike < 1
    assert told.threshold < 0.71


def test_one_form_below_the_cut_is_never_grouped_and_another_form_may_be():
    codes = torch.tensor([[1.0, 0.0], [0.8, 0.6], [1.0, 0.05]])
    readout = IdentityReadout(torch.eye(2), torch.zeros(2), threshold=0.5, alike=0.9)
    codes = torch.nn.functional.normalize(codes, dim=-1)
    assert partition(readout.group_codes(codes, forms=[0, 0, 0])) == partition([0, 1, 0])
    assert partition(readout.group_codes(codes, forms=[0, 1, 0])) == partition([0, 0, 0])
    assert partition(readout.group_codes(codes)) == partition([0, 0, 0])
