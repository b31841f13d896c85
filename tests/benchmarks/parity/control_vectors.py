"""RepE against repeng's control vectors, both of its ways to centre, up to scale; and its files.

    python tests/benchmarks/parity/control_vectors.py

repeng's vectors have norm 1, ours the length of a typical difference. Its last layer is left out:
it reads that one behind the final norm. Where as many pairs lie one way as the other, repeng keeps
the sign that its PCA happened to give; here the mean of the pairs decides: "pca_diff.1" is such a
tie, 18 of 36.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import room
import torch
from safetensors.torch import load_file

from saesteer import steer
from saesteer.data import Contrast, Example
from saesteer.methods import RepE
from saesteer.steer import Plan
from saesteer.steer.exchange import read_plan, write_plan

LAYERS, VERSION = [1, 2], "0.4.0"


def main() -> None:
    """Ask the rival, do the same, and write down the cosines."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = room.save_model(folder)
        vector = torch.arange(32.0)
        plan = Plan(steer.add("resid_post.2", vector), where=steer.all(special=True))
        write_plan(plan, folder / "ours.gguf", model)
        (folder / "told.json").write_text(json.dumps({"pairs": texts()}))
        python = room.venv(f"repeng-{VERSION}", f"repeng=={VERSION}")
        room.ask(python, "rival_repeng.py", folder)
        rival, back = (
            load_file(folder / "rival.safetensors"),
            load_file(folder / "back.safetensors"),
        )
        files = {m: read_plan(folder / f"{m}.gguf") for m in ("pca_diff", "pca_center")}
        versions = json.loads((folder / "versions.json").read_text())
    cosines = {}
    for method in files:
        raw = RepE(centre=method, layers=LAYERS, read="last", dose=None)
        fitted = raw.fit(model, contrast())
        for layer, edit in zip(LAYERS, fitted.edits, strict=True):
            ours = edit.intervention.constant()
            theirs = rival[f"{method}.{layer}"]
            cosines[f"{method}.{layer}"] = float(torch.cosine_similarity(ours, theirs, dim=0))
    read = {
        f"{m}.{e.intervention.site.layer}": e.intervention.constant()
        for m, p in files.items()
        for e in p.edits
    }
    room.write_result(
        __file__,
        {
            "rival": f"repeng {VERSION}",
            **versions,
            "pairs": len(room.PAIRS),
            "signed_cosine": cosines,
            "its_files_read_bit_for_bit": all(torch.equal(read[k], v) for k, v in rival.items()),
            "our_file_read_by_it_bit_for_bit": torch.equal(back["2"], vector),
        },
    )


def texts() -> list[tuple[str, str]]:
    """Pairs that differ by several words, so that their differences vary."""
    return [
        (f"{p[:-2]} the sun", f"{p[:-2]} no rain {i % 5}") for i, (p, *_) in enumerate(room.PAIRS)
    ]


def contrast() -> Contrast:
    """The same pairs, all for fitting."""
    rows = [
        Example(text=text, label=label, split="train", pair=str(i))
        for i, pair in enumerate(texts())
        for text, label in zip(pair, (1, 0), strict=True)
    ]
    return Contrast(tuple(rows), name="pairs")


if __name__ == "__main__":
    main()
