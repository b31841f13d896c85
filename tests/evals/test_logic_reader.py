"""Statements read back from planted activations: a role and a name in every token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saesteer.errors import ContrastError
from saesteer.evals.answer_chains import ChainReader
from saesteer.evals.answer_task import shuffled
from saesteer.evals.logic_conclude import OPEN, conclude
from saesteer.evals.logic_reader import (
    LabelledReading,
    Link,
    ReadText,
    _named,
    fit_reader,
    random_sae,
    sum_mentions,
)
from saesteer.evals.questions import Question
from saesteer.models import Site
from saesteer.saes import SAE

pytestmark = pytest.mark.usefixtures("brief_identities")
WIDTH, SITE = 48, Site.parse("resid_post.1")
FILLER, IS, ARE, NEGATION, NAME = range(5)


def planted_sae() -> SAE:
    eye = torch.eye(WIDTH)
    zeros = torch.zeros(WIDTH)
    return SAE(w_enc=eye, b_enc=zeros, w_dec=eye, b_dec=zeros, threshold=zeros + 0.2, site=SITE)


def text(seed: int, n: int = 8) -> LabelledReading:
    """Sentences `filler name is/are [negation] name`; names are random directions in 5..48."""
    generator = torch.Generator().manual_seed(seed)
    names = torch.rand(6, WIDTH, generator=generator)
    names[:, :5] = 0
    rows, sentences, roles, pairs = [], [], [], []
    for i in range(n):
        one, two = i % 6, (i + 1 + i // 6) % 6
        kinds = [FILLER, NAME, (IS, ARE)[i // 2 % 2], *([NEGATION] if i % 3 == 0 else []), NAME]
        spelled = iter((one, two))
        for kind in kinds:
            row = 0.05 * torch.randn(WIDTH, generator=generator)
            if kind == NAME:
                row += 2 * names[next(spelled)]
            else:
                row[kind] += 2
            rows.append(row)
        start = len(rows) - len(kinds)
        sentences.append(tuple(range(start, len(rows))))
        roles.append(tuple(kinds))
        pairs.append((f"{seed}-{one}", f"{seed}-{two}"))
    return LabelledReading(
        ReadText((torch.stack(rows),), tuple(sentences)), tuple(roles), tuple(pairs)
    )


def truth(labelled: LabelledReading) -> list[tuple[str, str, bool]]:
    return [
        (*pair, NEGATION not in roles)
        for pair, roles in zip(labelled.names, labelled.roles, strict=True)
    ]


def spelled(links: list[Link | None], labelled: LabelledReading) -> list[tuple[str, str, bool]]:
    """Links with numbers turned into the names they must stand for, if they stand for one each."""
    known: dict[int, str] = {}
    for link, (one, two) in zip(links, labelled.names, strict=True):
        assert link is not None
        known.setdefault(link.subject, one)
        known.setdefault(link.object, two)
    assert len(set(known.values())) == len(known)
    return [(known[x.subject], known[x.object], x.positive) for x in links if x is not None]


@pytest.fixture(scope="module")
def trained():
    return [text(seed) for seed in range(24)]


@pytest.mark.parametrize("space", ["sae", "dense"])
def test_statements_about_names_never_seen_are_read_back(trained, space):
    reader = fit_reader(trained, SITE, (planted_sae(),) if space == "sae" else ())
    for seed in range(100, 106):
        fresh = text(seed)
        assert spelled(reader.read(fresh.text), fresh) == truth(fresh)


def test_shuffled_activations_say_something_else(trained):
    reader = fit_reader(trained, SITE, (planted_sae(),))
    fresh = text(100)
    moved = shuffled(fresh.text, 0)
    assert torch.equal(moved.resid[0].sort(0).values, fresh.text.resid[0].sort(0).values)
    assert reader.read(moved) != reader.read(fresh.text)


def test_a_chain_that_breaks_at_a_name_is_looked_at_once_more(trained):
    reader = fit_reader(trained, SITE, (planted_sae(),))
    question = Question("q", "c", "Is it?", ("True", "False", "Unknown"), "True")
    whole = text(100).text  # the last of its sentences follows from the second and the third
    cuts = [replace(reader, identity=reader.identity.looser(-i / 100)) for i in range(60)]
    strict = next(one for one in cuts if conclude(one.read(whole)).verdict == OPEN)
    assert ChainReader(strict).conclude(whole, question).word == "True"
    twin = replace(whole, sentences=whole.sentences[:2] + whole.sentences[3:])
    for one in (reader, strict):
        assert ChainReader(one).conclude(twin, question).word == "Unknown"


def test_a_sentence_without_a_relation_is_not_read(trained):
    reader = fit_reader(trained, SITE, (planted_sae(),))
    fresh = text(100)
    first = fresh.text.sentences[0]
    cut = replace(fresh.text, sentences=(first[:2], *fresh.text.sentences[1:]))
    assert reader.read(cut)[0] is None
    assert all(link is not None for link in reader.read(cut)[1:])


def test_a_role_that_never_occurs_can_not_be_fitted(trained):
    bare = [
        replace(t, roles=tuple(tuple(FILLER if r == NEGATION else r for r in s) for s in t.roles))
        for t in trained
    ]
    with pytest.raises(ContrastError, match="one label"):
        fit_reader(bare, SITE, (planted_sae(),))


def test_a_mention_is_the_sum_of_its_tokens():
    rows = torch.eye(WIDTH)[:4] * 3
    for saes in ((), (planted_sae(),)):
        found = sum_mentions([rows], [[0, 2], [1]], saes)
        assert torch.equal(found, torch.stack([rows[0] + rows[2], rows[1]]))


def test_mentions_of_several_sites_stand_side_by_side():
    early, late = torch.eye(WIDTH)[:3] * 3, torch.eye(WIDTH)[5:8] * 3
    for saes in ((), (planted_sae(), planted_sae())):
        found = sum_mentions([late, early], [[0], [1, 2]], saes)
        assert torch.equal(found[:, :WIDTH], torch.stack([late[0], late[1] + late[2]]))
        assert torch.equal(found[:, WIDTH:], torch.stack([early[0], early[1] + early[2]]))


def test_names_that_one_site_can_not_tell_apart_are_told_by_another(trained):
    def blurred(labelled):
        """Roles stay at the first site, names move to a second one."""
        (rows,) = labelled.text.resid
        roles, names = rows.clone(), rows.clone()
        roles[:, 4:], names[:, :4] = rows[:, 4:].mean(1, keepdim=True), 0
        return replace(labelled, text=replace(labelled.text, resid=(roles, names)))

    reader = fit_reader([blurred(t) for t in trained], SITE, (planted_sae(), planted_sae()))
    fresh = blurred(text(100))
    assert spelled(reader.read(fresh.text), fresh) == truth(fresh)


def test_without_fillers_names_are_read_the_same(trained):
    labelled = trained[0]
    bare = labelled.without_fillers()
    assert len(bare.text.resid[0]) < len(labelled.text.resid[0])
    for one, other in zip(_mentions(labelled), _mentions(bare), strict=True):
        assert torch.equal(one, other)


def _mentions(labelled):
    (named,) = _named([labelled], ())
    assert named.names == tuple(name for pair in labelled.names for name in pair)
    return named.mentions.dense(WIDTH)


def test_a_random_sae_fires_as_often_and_is_of_other_directions(trained):
    sae = planted_sae()
    resid = torch.cat([t.text.resid[0] for t in trained])
    other = random_sae(sae, resid)
    share, expected = ((s.encode(resid) > 0).float().mean() for s in (other, sae))
    assert share == pytest.approx(expected, rel=0.25)
    assert (other.w_dec @ sae.w_dec.T).abs().max() < 0.9
    assert torch.equal(random_sae(sae, resid).w_enc, other.w_enc)


def test_outlier_tokens_do_not_move_a_random_sae(trained):
    resid = torch.cat([t.text.resid[0] for t in trained])
    far = 1e3 * torch.nn.functional.one_hot(torch.tensor([4] * 30), WIDTH).float()
    plain, beside = (random_sae(planted_sae(), rows) for rows in (resid, torch.cat([resid, far])))
    shares = [float((one.encode(resid) > 0).float().mean()) for one in (plain, beside)]
    assert shares[1] == pytest.approx(shares[0], rel=0.1)


def test_texts_encoded_together_are_what_they_are_alone(trained):
    saes = (planted_sae(),)
    together = _named(trained[:5], saes)
    for one, text_ in zip(together, trained[:5], strict=True):
        (alone,) = _named([text_], saes)
        assert torch.equal(one.mentions.dense(WIDTH), alone.mentions.dense(WIDTH))
        assert (one.names, one.forms) == (alone.names, alone.forms)


def test_forms_are_read_off_the_relation(trained):
    (named,) = _named([trained[0]], ())
    for i, roles in enumerate(trained[0].roles):
        assert named.forms[2 * i : 2 * i + 2] == ((1, 2) if ARE in roles else (0, 0))
