"""CAA against steering-vectors: the same vectors from the same pairs, the same steered logits.

    python tests/benchmarks/parity/caa.py

steering-vectors reads the last token, here the answer; CAA here reads an example's own text, which
is that token, behind a prompt that is not read. Its `.pt` of vectors is read back too.
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
from saesteer.methods import CAA
from saesteer.steer import Plan

LAYERS, MULTIPLIER, VERSION = [0, 1, 2, 3], 0.7, "0.12.2"


def main() -> None:
    """Ask the rival, do the same, and write down how far they part."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = room.save_model(folder)
        ids = model.tokenize("the rain in the sea and the sun").input_ids
        told = {
            "pairs": [(f"{p} {yes}", f"{p} {no}") for p, yes, no in room.PAIRS],
            "layers": LAYERS,
            "multiplier": MULTIPLIER,
            "ids": ids.tolist(),
        }
        (folder / "told.json").write_text(json.dumps(told))
        python = room.venv(f"steering-vectors-{VERSION}", f"steering-vectors=={VERSION}", "numpy")
        room.ask(python, "rival_steering_vectors.py", folder)
        rival = load_file(folder / "rival.safetensors")
        read = Plan.load(folder / "vectors.pt", model)
        versions = json.loads((folder / "versions.json").read_text())
    raw = CAA()
    plans = {layer: raw.fit(model, contrast(), f"resid_post.{layer}") for layer in LAYERS}
    ours = {layer: plan.edits[0].intervention.constant() for layer, plan in plans.items()}
    whole = Plan(
        *(steer.add(f"resid_post.{i}", v) for i, v in ours.items()),
        where=steer.all(special=True),
        strength=MULTIPLIER,
    )
    room.write_result(
        __file__,
        {
            "rival": f"steering-vectors {VERSION}",
            **versions,
            "pairs": len(room.PAIRS),
            "vector_max_rel_diff": {
                str(i): float((ours[i] - rival[str(i)]).norm() / rival[str(i)].norm())
                for i in LAYERS
            },
            "logits_max_rel_diff": apart(model, ids, whole, rival["logits"]),
            "its_file_logits_max_rel_diff": apart(model, ids, read * MULTIPLIER, rival["logits"]),
            "steering_moves_logits_by": moved(model, ids, rival["logits"]),
        },
    )


def contrast() -> Contrast:
    """The pairs as examples that all are for fitting."""
    rows = [
        Example(text=f" {answer}", label=label, split="train", pair=str(i), prompt=prompt)
        for i, (prompt, *answers) in enumerate(room.PAIRS)
        for answer, label in zip(answers, (1, 0), strict=True)
    ]
    return Contrast(tuple(rows), name="answers")


@torch.no_grad()
def apart(model: room.Model, ids: torch.Tensor, plan: Plan, theirs: torch.Tensor) -> float:
    """Largest difference of steered logits, relative to the largest logit."""
    with plan.on(model):
        ours = model.hf(ids).logits
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def moved(model: room.Model, ids: torch.Tensor, theirs: torch.Tensor) -> float:
    """How far steering itself moves them, on the same scale."""
    return float((model.hf(ids).logits - theirs).abs().max() / theirs.abs().max())


if __name__ == "__main__":
    main()
