"""Proofs as pictures: one box a step, escaped, well-formed, nothing fetched."""

from __future__ import annotations

from xml.etree import ElementTree

from saesteer.rules import Leaf, Proof, RuleBook
from saesteer.rules.picture import draw_proof, proof_page

SVG = "{http://www.w3.org/2000/svg}"


def test_every_step_is_a_box_and_every_step_but_the_root_has_a_line_from_its_parent() -> None:
    book = RuleBook.parse("a :- b, not c.\nb :- d, e.\nc :- f.")
    proof = book.prove("a", {"d", "e"})
    assert proof is not None
    root = ElementTree.fromstring(draw_proof(proof.as_dict()))
    boxes = [(int(r.get("x", "")), int(r.get("y", ""))) for r in root.iter(f"{SVG}rect")]
    told = [texts[0].text for g in root.iter(f"{SVG}g") if (texts := g.findall(f"{SVG}text"))]
    assert told == ["a", "b", "d", "e", "not c", "f: does not hold"]
    assert [x for x, _ in boxes] == [14, 44, 74, 74, 44, 74]
    lines = [path.get("d", "") for path in root.iter(f"{SVG}path")]
    tops = [int(line.split()[1].split("V")[0]) - 38 - boxes[0][1] for line in lines]
    assert [top // 46 for top in tops] == [0, 1, 1, 0, 4]


def test_what_comes_from_data_is_escaped_and_nothing_is_fetched() -> None:
    leaf = Leaf("a", "feature 3", float("-inf"), 1.0, "token", 2, "<script>&")
    page = proof_page([("token 2 '<b>'", Proof("a", holds=False, leaf=leaf).as_dict())])
    assert "<script>" not in page
    assert "&lt;script&gt;&amp;" in page
    assert "'<b>'" not in page
    assert "nothing against 1" in page
    assert not any(word in page for word in ("src=", "@import", "url("))
