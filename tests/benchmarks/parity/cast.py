"""CAST's decisions against IBM's activation-steering: the same prompts meet the same conditions.

    python tests/benchmarks/parity/cast.py [CHECKOUT]

activation-steering is on no package registry. With a checkout of it (or anything that pip takes)
its own layer decides; without, what its published code computes does, stated anew: the same
decisions, and the same largest difference. To get one:

    git clone https://github.com/IBM/activation-steering
    git -C activation-steering checkout d5f4412

`cast.json` comes from that commit's `leash_layer.py` and `config.py` as they are and the part of
`utils.py` that they use, with an empty `__init__.py` and a `pyproject.toml` that asks for torch,
transformers and rich. The layer imports nothing else; whether the whole package with its own pins
(numpy 1, accelerate 0.31) installs beside this transformers was not tried.

That layer reads the input of block i, which is the output of block i - 1, and decides for a batch's
first row alone, so it gets one prompt at a time; our decisions are taken for a padded batch too.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import room
import torch

from saesteer import steer
from saesteer.data import Contrast
from saesteer.methods import CAST
from saesteer.models import Site, TokenBatch, pad_rows
from saesteer.steer import Edit, Plan, PromptCondition

COMMIT = "d5f4412"
"""Of IBM/activation-steering: where the decision was read."""
NOUNS, PLACES = ("rain", "sea", "sun", "town", "wind"), ("town", "sun", "sea", "rain")
TRUE = [f"the {noun} in the {place} and the sun" for noun in NOUNS for place in PLACES]
FALSE = [f"zz {noun} xx {place} qq" for noun in NOUNS for place in PLACES]


def main(checkout: str | None) -> None:
    """Decide, let the rival decide, and write down where they part."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = room.save_model(folder)
        prompts = [model.tokenize(text).input_ids[0].tolist() for text in (*TRUE, *FALSE)]
        fitted = [fit(model, over) for over in ("mean", "last")]
        gates = [*fitted, *sweep(model, prompts)]
        told = {"prompts": prompts, "points": [point_of(gate) for gate in gates]}
        (folder / "told.json").write_text(json.dumps(told))
        python = room.venv(*environment(checkout))
        room.ask(python, "rival_activation_steering.py", folder)
        theirs = json.loads((folder / "answers.json").read_text())
    if checkout is not None and theirs["decided_by"] != "packaged":
        sys.exit(f"{checkout} was installed, but its activation_steering can't be imported.")
    room.write_result(__file__, compared(model, prompts, gates, theirs, len(fitted)))


def environment(checkout: str | None) -> tuple[str, ...]:
    """Name and packages of the rival's environment; another checkout has another one."""
    name = "activation-steering-restated" if checkout is None else "activation-steering"
    return name, "transformers==4.57.6", "numpy", *([] if checkout is None else [checkout])


def fit(model: room.Model, over: Any) -> PromptCondition:
    """The condition that CAST finds."""
    contrast = Contrast.from_texts(TRUE, FALSE, name="rain")
    plan = CAST(condition=contrast, over=over).fit(model, contrast, "resid_post.2")
    gate = plan.edits[0].gate
    assert isinstance(gate, PromptCondition)
    return gate


def sweep(model: room.Model, prompts: list[list[int]]) -> Iterator[PromptCondition]:
    """A random condition at every layer, over both summaries, cut at several scores both ways."""
    generator = torch.Generator().manual_seed(0)
    for layer in range(model.n_layers - 1):
        vector = torch.randn(model.d_model, generator=generator)
        for over in ("mean", "last"):
            gate = PromptCondition(Site(layer, "resid_post"), vector, 0.0, over=over)
            ordered = scores(model, gate, prompts).sort().values.double()
            for share in (0.1, 0.3, 0.5, 0.7, 0.9):
                at = int(share * len(ordered))
                cut = float(ordered[at - 1 : at + 1].mean())
                yield from (replace(gate, threshold=cut, above=above) for above in (True, False))


def point_of(gate: PromptCondition) -> dict[str, Any]:
    """A condition in the rival's words: the block whose input it reads, and the larger side."""
    return {
        "layer": gate.site.layer + 1,
        "vector": gate.vector.tolist(),
        "over": gate.over,
        "larger": not gate.above,
        "threshold": gate.threshold,
    }


def asked(
    model: room.Model, gate: PromptCondition, batch: TokenBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score and decision at the end of each row's prompt."""
    plan = Plan(Edit(steer.add("resid_post.3", torch.ones(model.d_model)), gate=gate))
    with plan.on(model) as trace:
        model.hf.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            max_new_tokens=2,
            do_sample=False,
            pad_token_id=0,
        )
    (evidence,) = trace.passes[0].evidence
    return evidence.notes["condition"][:, -1], evidence.open[:, -1]


def scores(model: room.Model, gate: PromptCondition, prompts: list[list[int]]) -> torch.Tensor:
    """Of each prompt alone."""
    return torch.cat([asked(model, gate, pad_rows([ids], 0))[0] for ids in prompts])


def compared(
    model: room.Model,
    prompts: list[list[int]],
    gates: list[PromptCondition],
    theirs: dict[str, Any],
    n_fitted: int,
) -> dict[str, Any]:
    """How many decisions are the same, of prompts alone and in a batch, and how far scores part."""
    alone = batched = 0
    apart, met, equal_fitted = 0.0, 0, 0
    for number, (gate, answers) in enumerate(zip(gates, theirs["answers"], strict=True)):
        rows = [asked(model, gate, pad_rows([ids], 0)) for ids in prompts]
        _, together = asked(model, gate, pad_rows(prompts, 0))
        for (score, opened), in_batch, (their_score, their_answer) in zip(
            rows, together, answers, strict=True
        ):
            apart = max(apart, abs(float(score) - their_score))
            alone += bool(opened) == their_answer
            batched += bool(in_batch) == their_answer
            met += their_answer
            equal_fitted += number < n_fitted and bool(opened) == their_answer
    n = len(gates) * len(prompts)
    return {
        "rival": f"IBM activation-steering {COMMIT}",
        "decided_by": theirs["decided_by"],
        "transformers": theirs["transformers"],
        "torch": theirs["torch"],
        "prompts": len(prompts),
        "conditions": len(gates),
        "decisions": n,
        "decisions_met": met,
        "decisions_equal": alone,
        "decisions_equal_in_a_batch": batched,
        "decisions_equal_at_fitted_points": f"{equal_fitted} of {n_fitted * len(prompts)}",
        "score_max_diff": apart,
    }


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
